"""The variables of a local installation: the shell's, then those of .env, then what is made up in .local/env.

config/settings.py reads the files in the same order, so `manage.py` sees in any terminal what the processes see.
"""

import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from local import CannotStart, servers
from local.sockets import valkey_socket

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".local"
"""Everything that a local installation keeps: data, logs, sockets, secrets. Remove it to begin anew."""

ENV_FILE = STATE / "env"
ADDRESS = "127.0.0.1"
"""Where everything listens."""

PORTS = {"WEB_PORT": 8000, "FLOWER_PORT": 5555, "INBOX_SMTP_PORT": 1025, "INBOX_PORT": 8025}
HEADER = "# Written by `make start`. Secrets stay from start to start, the rest follows the ports; write your own into .env.\n"

Values = dict[str, str]


def given() -> Values:
    """What a person says, in the shell or in .env."""
    return read(ROOT / ".env") | dict(os.environ)


def read(file: Path) -> Values:
    """The variables of a file, none when there is no such file."""
    return {name: value for name, value in dotenv_values(file).items() if value is not None}


def in_force() -> Values:
    """What the processes go by, once .local/env is written."""
    return read(ENV_FILE) | given()


def ports(values: Mapping[str, str]) -> dict[str, int]:
    """The port of each variable in PORTS. Raises CannotStart for what is no port, or the same one twice."""
    chosen: dict[str, int] = {}
    for variable, default in PORTS.items():
        text = values.get(variable) or str(default)
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
            raise CannotStart(f"{variable} is {text!r}: write a number between 1 and 65535.")
        port = int(text)
        for other, taken in chosen.items():
            if taken == port:
                raise CannotStart(f"{other} and {variable} are both {port}: give one of them another number.")
        chosen[variable] = port
    return chosen


def check_free(chosen: Mapping[str, int]) -> None:
    """Raises CannotStart with the name of the first port that another program listens on."""
    for variable, port in chosen.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, port))
            except PermissionError:
                raise CannotStart(f"Port {port} ({variable}) needs root: choose one above 1023.") from None
            except OSError:
                raise CannotStart(
                    f"Port {port} is taken by another program: stop that one, or choose another port with {variable}, "
                    f"as in make start {variable}={port + 1 if port < 65_535 else port - 1}"
                ) from None


def made_up(said: Mapping[str, str], kept: Mapping[str, str], chosen: Mapping[str, int], socket_dir: Path) -> Values:
    """What stands in .local/env.

    Nothing that a person says otherwise, but for the two servers: which ones they are is settled at the start, for every
    terminal. Secrets are those of the start before.
    """
    values = {
        "DEBUG": "1",
        "SITE_URL": f"http://localhost:{chosen['WEB_PORT']}",
        "ALLOWED_HOSTS": f"localhost,{ADDRESS}",
        "EMAIL_URL": f"smtp://{ADDRESS}:{chosen['INBOX_SMTP_PORT']}",
        "FLOWER_URL": f"http://localhost:{chosen['FLOWER_PORT']}",
    }
    settled = {
        "DATABASE_URL": said.get("DATABASE_URL", servers.postgres_url(socket_dir)),
        "REDIS_URL": said.get("REDIS_URL", servers.valkey_url(valkey_socket(socket_dir))),
    }
    secret = {
        "SECRET_KEY": kept.get("SECRET_KEY") or secrets.token_urlsafe(48),
        "FLOWER_BASIC_AUTH": kept.get("FLOWER_BASIC_AUTH") or f"operator:{secrets.token_urlsafe(12)}",
    }
    numbers = {variable: str(port) for variable, port in chosen.items()}
    return {name: value for name, value in values.items() if name not in said} | settled | secret | numbers


def write(values: Mapping[str, str], file: Path = ENV_FILE) -> None:
    """Replaces the file at once, readable for its owner alone."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(HEADER + "".join(f"{name}='{_quoted(value)}'\n" for name, value in values.items()))
    draft.replace(file)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
