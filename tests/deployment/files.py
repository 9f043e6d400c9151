"""The files under test, read as Compose reads them, and the variables that the code reads."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mailer.conf import Options

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
NGINX = ROOT / "config" / "nginx.conf"
EXAMPLE = ROOT / ".env.example"

READ_BY_SETTINGS = re.compile(r'\benv\.\w+\(\s*"([A-Z_]+)"')
READ_BY_GUNICORN_CONF = re.compile(r'"((?:WEB_)?PORT)"')
INTERPOLATED = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")

READ_BY_OTHERS = {
    "gunicorn": {"WEB_CONCURRENCY"},
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_INITDB_ARGS"},
    "nginx": {"NGINX_ENVSUBST_OUTPUT_DIR"},
    "axllent/mailpit": {"MP_DATABASE", "MP_MAX_MESSAGES"},
    "python": {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"},
}
"""Variables that other programs read, by their documentation."""

SECRETS = {"SECRET_KEY": "s3cret" * 10, "POSTGRES_PASSWORD": "pass", "FLOWER_BASIC_AUTH": "operator:pass"}
"""The content of .env before the first `docker compose up`."""

IMAGES = ("PYTHON_IMAGE", "POSTGRES_IMAGE", "VALKEY_IMAGE", "NGINX_IMAGE", "MAILPIT_IMAGE")
"""Variables that replace a base image."""


@cache
def services() -> dict[str, dict[str, Any]]:
    """Return the services of docker-compose.yml, with anchors resolved."""
    return dict(YAML(typ="safe").load(COMPOSE)["services"])


def networks() -> dict[str, dict[str, Any]]:
    """Return the networks of docker-compose.yml."""
    return dict(YAML(typ="safe").load(COMPOSE)["networks"])


def ours() -> dict[str, dict[str, Any]]:
    """Return the services that run our image."""
    return {name: service for name, service in services().items() if "build" in service}


def environment(service: str, env_file: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a service. Raises KeyError if a required one is missing in `env_file`."""
    values: dict[str, str | None] = services()[service].get("environment", {})
    given = {n: env_file.get(n) if value is None else interpolate(value, env_file) for n, value in values.items()}
    return {name: value for name, value in given.items() if value is not None}


def interpolate(text: str, env_file: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`."""

    def value(match: re.Match[str]) -> str:
        dollar, name, operator, rest = match.groups()
        if dollar:
            return "$"
        if env_file.get(name):
            return env_file[name]
        if operator == "-":
            return str(rest)
        raise KeyError(name)

    return INTERPOLATED.sub(value, text)


def read_by_the_project() -> set[str]:
    """Return every variable that config/settings.py, mailer/conf.py and gunicorn.conf.py read."""
    settings = READ_BY_SETTINGS.findall((ROOT / "config" / "settings.py").read_text())
    gunicorn = READ_BY_GUNICORN_CONF.findall((ROOT / "gunicorn.conf.py").read_text())
    return {*settings, *gunicorn} | {f"POSTCOMMIT_{field.name.upper()}" for field in fields(Options)}


def load_settings(values: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Load config/settings.py in a process with only these variables."""
    return subprocess.run(
        [sys.executable, "-c", "import django; django.setup()"],
        env={"DJANGO_SETTINGS_MODULE": "config.settings", "ENV_FILES": "", "PATH": os.defpath, **values},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
