"""gunicorn.conf.py and flowerconfig.py, as gunicorn and Flower read them."""

import os
import re
import subprocess
import sys

import pytest

from tests.deployment import files

FLOWERS_OPTIONS = """
import django, flower.command
from tornado.options import options
django.setup()
flower.command.apply_env_options()
flower.command.apply_options("flower", [])
print(options.read_only, options.basic_auth, options.max_tasks, options.address)
"""


def run(*arguments: str, **values: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with the variables of the web service in docker-compose.yml, and these values."""
    given = files.environment("web", files.SECRETS)
    return subprocess.run(
        [sys.executable, *arguments],
        env={"PATH": os.defpath, "ENV_FILES": "", "DJANGO_SETTINGS_MODULE": "config.settings", **given, **values},
        cwd=files.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({}, "127.0.0.1:8000"),
        ({"WEB_PORT": "9000"}, "127.0.0.1:9000"),
        ({"PORT": "9000"}, "0.0.0.0:9000"),
        ({"WEB_PORT": "9000", "PORT": "80"}, "127.0.0.1:9000"),
    ],
)
def test_gunicorn_listens_on_all_addresses_only_if_a_platform_sets_port(values: dict[str, str], address: str) -> None:
    shown = run("-m", "gunicorn", "--print-config", "config.wsgi", **values).stdout
    assert re.findall(r"^bind\s+= \['(.*)'\]$", shown, re.MULTILINE) == [address]
    assert re.findall(r"^accesslog\s+= (.*)$", shown, re.MULTILINE) == ["None"]
    assert re.findall(r"^control_socket_disable\s+= (.*)$", shown, re.MULTILINE) == ["True"]


def test_flower_does_not_start_without_a_password() -> None:
    done = run("-m", "celery", "-A", "config", "flower", FLOWER_BASIC_AUTH="")
    assert done.returncode != 0
    assert done.stderr == "Flower does not start without a password: set FLOWER_BASIC_AUTH=user:password.\n"


def test_no_variable_overrides_the_security_of_flower() -> None:
    done = run(
        "-c", FLOWERS_OPTIONS, FLOWER_READ_ONLY="0", FLOWER_BASIC_AUTH="operator:a,b:c", FLOWER_MAX_TASKS="9999999"
    )
    assert done.stdout == "True ['operator:a,b:c'] 2000 127.0.0.1\n"
