"""The files that are under test, read the way that Compose reads them, and what the code reads from the environment."""

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
EXAMPLE = ROOT / ".env.example"

READ_BY_SETTINGS = re.compile(r'\benv\.\w+\(\s*"([A-Z_]+)"')
READ_BY_GUNICORN_CONF = re.compile(r'"((?:WEB_)?PORT)"')
INTERPOLATED = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")

READ_BY_OTHERS = {
    "gunicorn": {"WEB_CONCURRENCY"},
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_INITDB_ARGS"},
    "axllent/mailpit": {"MP_DATABASE", "MP_MAX_MESSAGES"},
    "python": {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"},
}
"""Variables that a named program reads by itself, as its documentation says."""

SECRETS = {"SECRET_KEY": "s3cret" * 10, "POSTGRES_PASSWORD": "pass", "FLOWER_BASIC_AUTH": "operator:pass"}
"""What a person writes into .env before the first `docker compose up`."""


@cache
def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml, with the anchors resolved."""
    return dict(YAML(typ="safe").load(COMPOSE)["services"])


def ours() -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: service for name, service in services().items() if "build" in service}


def environment(service: str, said: Mapping[str, str]) -> dict[str, str]:
    """What Compose hands to a service when .env says that. Raises KeyError for a variable that the file demands."""
    values: dict[str, str | None] = services()[service].get("environment", {})
    handed = {name: said.get(name) if value is None else interpolate(value, said) for name, value in values.items()}
    return {name: value for name, value in handed.items() if value is not None}


def interpolate(text: str, said: Mapping[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`."""

    def value(match: re.Match[str]) -> str:
        dollar, name, operator, rest = match.groups()
        if dollar:
            return "$"
        if said.get(name):
            return said[name]
        if operator == "-":
            return str(rest)
        raise KeyError(name)

    return INTERPOLATED.sub(value, text)


def read_by_the_project() -> set[str]:
    """Every variable that config/settings.py, mailer/conf.py and gunicorn.conf.py read."""
    settings = READ_BY_SETTINGS.findall((ROOT / "config" / "settings.py").read_text())
    gunicorn = READ_BY_GUNICORN_CONF.findall((ROOT / "gunicorn.conf.py").read_text())
    return {*settings, *gunicorn} | {f"POSTCOMMIT_{field.name.upper()}" for field in fields(Options)}


def load_settings(values: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Loads config/settings.py in a process of its own that has these variables and no others."""
    return subprocess.run(
        [sys.executable, "-c", "import django; django.setup()"],
        env={"DJANGO_SETTINGS_MODULE": "config.settings", "ENV_FILES": "", "PATH": os.defpath, **values},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
