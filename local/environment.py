"""The variables of a local installation: those of the shell, then of .env, then generated ones in .local/env.

config/settings.py reads the files in the same order, so `manage.py` in any terminal has the variables of the processes.
"""

import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from local import CannotStart, servers

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".local"
"""All data, logs, sockets and secrets of a local installation. To start again with no data, remove it."""

ENV_FILE = STATE / "env"
VALKEY_SOCKET = "valkey.sock"
ADDRESS = "127.0.0.1"
"""The address that all processes listen on."""

PORTS = {"WEB_PORT": 8000, "FLOWER_PORT": 5555, "INBOX_SMTP_PORT": 1025, "INBOX_PORT": 8025}
HEADER = "# Written by `make start`, which keeps the secrets and replaces the rest. Write your own values into .env.\n"

Values = dict[str, str]


def given() -> Values:
    """Return the variables of the shell and of .env."""
    return read(ROOT / ".env") | dict(os.environ)


def read(file: Path) -> Values:
    """Return the variables of a file, which may not exist."""
    return {name: value for name, value in dotenv_values(file).items() if value is not None}


def in_force() -> Values:
    """Return the variables that the processes have. Call it after .local/env was written."""
    return read(ENV_FILE) | given()


def ports(values: Mapping[str, str]) -> dict[str, int]:
    """Return the port of each variable in PORTS. Raises CannotStart if one is invalid or used twice."""
    chosen: dict[int, str] = {}
    for variable, default in PORTS.items():
        text = values.get(variable) or str(default)
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
            raise CannotStart(f"{variable} is {text!r}: write a number between 1 and 65535.")
        if other := chosen.get(int(text)):
            raise CannotStart(f"{other} and {variable} are both {text}: change one of them.")
        chosen[int(text)] = variable
    return {variable: port for port, variable in chosen.items()}


def check_free(chosen: Mapping[str, int]) -> None:
    """Check that each port is available. Raises CannotStart with the first one that is not."""
    for variable, port in chosen.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, port))
            except OSError as error:
                why = "needs root" if isinstance(error, PermissionError) else "is taken by another program"
                other = port + 1 if 1023 < port < 65_535 else 8080
                raise CannotStart(
                    f"Port {port} {why}: choose another one, for example make start {variable}={other}"
                ) from None


def generated(given: Mapping[str, str], kept: Mapping[str, str], chosen: Mapping[str, int], socket_dir: Path) -> Values:
    """Return the content of .local/env. Secrets are `kept` from the last start, given values are left out.

    The URLs of the two servers are always included, so that every terminal uses the servers of this start.
    """
    defaults = {
        "DEBUG": "1",
        "SITE_URL": f"http://localhost:{chosen['WEB_PORT']}",
        "ALLOWED_HOSTS": f"localhost,{ADDRESS}",
        "EMAIL_URL": f"smtp://{ADDRESS}:{chosen['INBOX_SMTP_PORT']}",
        "DEFAULT_FROM_EMAIL": "Postcommit <hello@postcommit.example>",
        "FLOWER_URL": f"http://localhost:{chosen['FLOWER_PORT']}",
    }
    return {name: value for name, value in defaults.items() if name not in given} | {
        "DATABASE_URL": given.get("DATABASE_URL", servers.postgres_url(socket_dir)),
        "REDIS_URL": given.get("REDIS_URL", servers.valkey_url(socket_dir / VALKEY_SOCKET)),
        "SECRET_KEY": kept.get("SECRET_KEY") or secrets.token_urlsafe(48),
        "FLOWER_BASIC_AUTH": kept.get("FLOWER_BASIC_AUTH") or f"operator:{secrets.token_urlsafe(12)}",
        **{variable: str(port) for variable, port in chosen.items()},
    }


def write(values: Mapping[str, str], file: Path = ENV_FILE) -> None:
    """Replace the file in one step. Only its owner can read it."""
    draft = file.with_suffix(".new")
    draft.touch(mode=0o600)
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in values.items()}
    draft.write_text(HEADER + "".join(f"{name}='{value}'\n" for name, value in quoted.items()))
    draft.replace(file)
