"""The processes of a local installation, and the configuration of the supervisor that runs them."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local import servers
from local.environment import ADDRESS, ROOT, STATE
from local.sockets import supervisor_socket, valkey_socket

CONFIGURATION = STATE / "supervisord.conf"
LOGS = STATE / "log"

RESTARTED = ("web", "worker", "beat", "flower")
"""What runs the project's own code, in the order of a restart."""


@dataclass(frozen=True, slots=True)
class Program:
    """One process under the supervisor."""

    name: str
    argv: tuple[str, ...]
    patience: int
    """Seconds that it gets to end after the signal. What is killed after that has lost nothing: the rows know."""

    signal: str = "TERM"
    directory: Path = ROOT
    user: str | None = None
    needs_tables: bool = False
    """Whether it starts after the migrations."""

    @property
    def log(self) -> Path:
        """What it says on both of its streams."""
        return log_of(self.name)


def log_of(name: str) -> Path:
    """The log of a process; the supervisor renames it at 5 MB and keeps one old one."""
    return LOGS / f"{name}.log"


def programs(values: Mapping[str, str], ports: Mapping[str, int], socket_dir: Path) -> list[Program]:
    """All of them in the order of their start; they stop in the reverse one, each after the one before has ended."""
    return [
        *_servers(values, socket_dir),
        Program(
            "inbox",
            _python(
                "local.inbox",
                f"--smtp-port={ports['INBOX_SMTP_PORT']}",
                f"--port={ports['INBOX_PORT']}",
                f"--directory={STATE / 'inbox'}",
            ),
            patience=5,
        ),
        Program(
            "flower",
            _celery("flower", f"--address={ADDRESS}", f"--port={ports['FLOWER_PORT']}"),
            patience=5,
        ),
        Program(
            "beat",
            _celery("beat", f"--schedule={STATE / 'beat-schedule'}"),
            patience=5,
            needs_tables=True,
        ),
        Program(
            "worker",
            _celery(
                "worker",
                "--queues=critical,default,bulk",
                "--concurrency=2",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ),
            # TERM is the warm shutdown: it finishes what runs and gives back the rest. The soft one (REMAP_SIGTERM=SIGQUIT)
            # sleeps for its whole time-out whenever a task runs: 12 s where this takes 3 s.
            patience=14,
            needs_tables=True,
        ),
        Program("web", _python("gunicorn", "config.wsgi"), patience=10, needs_tables=True),
    ]


def write_configuration(everything: Sequence[Program], socket_dir: Path) -> None:
    """Writes what supervisord and supervisorctl read."""
    LOGS.mkdir(mode=0o700, exist_ok=True)
    control = supervisor_socket(socket_dir)
    sections: dict[str, dict[str, object]] = {
        "supervisord": {
            "logfile": LOGS / "supervisord.log",
            "logfile_maxbytes": "1MB",
            "logfile_backups": 1,
            "pidfile": STATE / "supervisord.pid",
            "childlogdir": LOGS,
        }
        | ({"user": "root"} if os.geteuid() == 0 else {}),  # said aloud, or supervisord warns
        "unix_http_server": {"file": control, "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "supervisorctl": {"serverurl": f"unix://{control}"},
    }
    for priority, program in enumerate(everything, start=1):
        sections[f"program:{program.name}"] = _section(program, priority)
    lines = ["; Written by `make start` from local/programs.py."]
    for title, options in sections.items():
        lines += ["", f"[{title}]", *(f"{name} = {str(value).replace('%', '%%')}" for name, value in options.items())]
    CONFIGURATION.write_text("\n".join(lines) + "\n")


def _section(program: Program, priority: int) -> dict[str, object]:
    return {
        "command": shlex.join(program.argv),
        "directory": program.directory,
        "priority": priority,  # groups stop one by one, the highest number first
        "autostart": "false",
        "autorestart": "true",
        "stopsignal": program.signal,
        "stopwaitsecs": program.patience,
        "killasgroup": "true",  # a worker's children end with it
        "redirect_stderr": "true",
        "stdout_logfile": program.log,
        "stdout_logfile_maxbytes": "5MB",
        "stdout_logfile_backups": 1,
    } | ({"user": program.user} if program.user else {})


def _servers(values: Mapping[str, str], socket_dir: Path) -> list[Program]:
    """The embedded servers, each only where no URL names another one."""
    embedded = []
    if "DATABASE_URL" not in values:
        postgres = servers.postgres_command(STATE / "postgres", socket_dir)
        embedded.append(
            Program("postgres", postgres.argv, 10, signal="INT", directory=postgres.directory, user=postgres.user)
        )  # INT is its fast shutdown; TERM would wait for every client
    if "REDIS_URL" not in values:
        valkey = servers.valkey_command(STATE / "valkey", valkey_socket(socket_dir))
        embedded.append(Program("valkey", valkey.argv, 10, directory=valkey.directory))
    return embedded


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _celery(command: str, *arguments: str) -> tuple[str, ...]:
    return _python("celery", "-A", "config", command, *arguments)
