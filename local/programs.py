"""The processes of a local installation, and the configuration of the supervisor that runs them."""

import configparser
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local import servers
from local.environment import ADDRESS, ROOT, STATE, VALKEY_SOCKET
from local.servers import Command

CONFIGURATION = STATE / "supervisord.conf"
LOGS = STATE / "log"
LONGEST_SOCKET = 100
"""A socket's path may have 107 bytes on Linux, 103 on macOS. Servers add a suffix while they bind."""

RESTARTED = ("web", "worker", "beat", "flower")
"""The processes that run the project's code, in the order of a restart."""


@dataclass(frozen=True, slots=True)
class Program:
    """One process under the supervisor."""

    name: str
    command: Command
    patience: int
    """Seconds between the signal and SIGKILL. SIGKILL loses no mail: the rows in the database say what is left to do."""

    signal: str = "TERM"


def log_of(name: str) -> Path:
    """Return the log of a process. The supervisor renames it at 5 MB and keeps one old file."""
    return LOGS / f"{name}.log"


def programs(values: Mapping[str, str], ports: Mapping[str, int], sockets: Path) -> list[Program]:
    """Return all processes in the order of their start. They stop one by one in the reverse order."""
    everything = []
    if "DATABASE_URL" not in values:
        postgres = servers.postgres_command(STATE / "postgres", sockets)
        everything.append(Program("postgres", postgres, 10, "INT"))  # fast shutdown; TERM would wait for every client
    if "REDIS_URL" not in values:
        everything.append(Program("valkey", servers.valkey_command(STATE / "valkey", sockets / VALKEY_SOCKET), 10))
    inbox = (
        f"--smtp-port={ports['INBOX_SMTP_PORT']}",
        f"--port={ports['INBOX_PORT']}",
        f"--directory={STATE / 'inbox'}",
    )
    flower = (f"--address={ADDRESS}", f"--port={ports['FLOWER_PORT']}")
    worker = ("--queues=critical,default,bulk", "--concurrency=2", "--without-gossip", "--without-mingle")
    return [
        *everything,
        Program("inbox", _python("local.inbox", *inbox), 5),
        Program("flower", _celery("flower", *flower), 5),
        Program("beat", _celery("beat", f"--schedule={STATE / 'beat-schedule'}"), 5),
        # TERM is the warm shutdown, which takes 3 s. The soft one (REMAP_SIGTERM=SIGQUIT) always takes its whole timeout of
        # 12 s if a task runs.
        Program("worker", _celery("worker", *worker), 14),
        Program("web", _python("gunicorn", "config.wsgi"), 10),
    ]


def write_configuration(everything: Sequence[Program], sockets: Path) -> None:
    """Write the configuration of supervisord and supervisorctl."""
    LOGS.mkdir(mode=0o700, exist_ok=True)
    control = sockets / "supervisor.sock"
    sections: dict[str, dict[str, object]] = {
        "supervisord": {"logfile": LOGS / "supervisord.log", "pidfile": STATE / "supervisord.pid"},
        "unix_http_server": {"file": control},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "supervisorctl": {"serverurl": f"unix://{control}"},
    }
    for priority, program in enumerate(everything, start=1):
        sections[f"program:{program.name}"] = {
            "command": shlex.join(program.command.argv),
            "directory": program.command.directory,
            "priority": priority,  # groups stop one by one, the highest number first
            "autostart": "false",
            "autorestart": "true",
            "stopsignal": program.signal,
            "stopwaitsecs": program.patience,
            "killasgroup": "true",  # a worker's children end with it
            "redirect_stderr": "true",
            "stdout_logfile": log_of(program.name),
            "stdout_logfile_maxbytes": "5MB",
            "stdout_logfile_backups": 1,
        } | ({"user": program.command.user} if program.command.user else {})
    parser = configparser.RawConfigParser()
    for title, options in sections.items():
        parser[title] = {name: str(value).replace("%", "%%") for name, value in options.items()}
    with CONFIGURATION.open("w") as file:
        parser.write(file)


@contextmanager
def socket_dir(preferred: Path) -> Iterator[Path]:
    """Yield the preferred folder for sockets, or a temporary one with a short path if the checkout's path is too long."""
    if len(os.fsencode(preferred / f".s.PGSQL.{servers.PORT}")) <= LONGEST_SOCKET:
        preferred.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield preferred
    else:
        with tempfile.TemporaryDirectory(prefix="postcommit-") as short:
            yield Path(short)


def _python(module: str, *arguments: str) -> Command:
    return Command((sys.executable, "-m", module, *arguments), ROOT)


def _celery(command: str, *arguments: str) -> Command:
    return _python("celery", "-A", "config", command, *arguments)
