import ast
import re

import pytest

from local.environment import PORTS
from tests.deployment import files

LINES = files.EXAMPLE.read_text().splitlines()
EXPLAINED = [match[1] for line in LINES if (match := re.match(r"# ([A-Z_]+)=", line))]


def test_the_example_explains_exactly_the_variables_of_the_project() -> None:
    assert set(EXPLAINED) == files.read_by_the_project() | set(PORTS) | {"WEB_CONCURRENCY", "POSTGRES_PASSWORD"}
    assert len(EXPLAINED) == len(set(EXPLAINED))


def test_a_plain_copy_of_the_example_sets_nothing() -> None:
    """With an empty SECRET_KEY `make start` would fail after `cp .env.example .env`."""
    assert [line for line in LINES if line and not line.startswith("#")] == []


def test_the_example_lists_the_required_variables() -> None:
    needed, _ = files.EXAMPLE.read_text().split("# --- Optional")
    done = files.load_settings({})
    assert done.returncode != 0
    required = re.findall(r"\b([A-Z_]{4,}): ", done.stderr.splitlines()[-1])
    assert len(required) >= 5
    assert [name for name in required if f"# {name}=" not in needed] == []


@pytest.mark.parametrize("name", ["VERIFICATION_DELAY", "LOG_LEVEL", "DEBUG", "ENV_FILES"])
def test_the_example_shows_the_defaults_of_the_settings(name: str) -> None:
    (shown,) = (line.partition("=")[2] for line in LINES if line.startswith(f"# {name}="))
    source = (files.ROOT / "config" / "settings.py").read_text()
    default = re.search(rf'"{name}", (\[[^]]*\]|[^,)]+)', source)
    assert default
    assert shown == as_text(ast.literal_eval(default[1]))


def as_text(value: object) -> str:
    """Write a value as in a .env file."""
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float | bool) else str(value)
