"""The commands behind `make start`, `make restart` and `make stop`, such as `python -m local start`."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from local import CannotStart, environment, servers, supervision
from local.database import ADMIN
from local.environment import STATE
from local.follow import Follower
from local.programs import RESTARTED, Program, log_of, programs, socket_dir, write_configuration
from local.startup import bring_up, migrate, wait_until_ready

STOPPING = "Stopping in order: web, worker, beat, Flower, inbox, servers."
STOP_TIMEOUT = 60.0


def main() -> int:
    """Return the exit status."""
    commands = {"start": start, "restart": restart, "stop": stop}
    try:
        return commands[sys.argv[1]]()
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def start() -> int:
    """Run everything in the foreground until Ctrl-C, SIGTERM or `make stop`."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        if supervision.is_running():  # also if its `make start` was killed
            print("Postcommit is already running in this checkout; make stop stops it.")
            print(_table(environment.in_force()))
            return 0
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart("Another make start runs in this checkout: wait for it, or stop it.") from None
        given = environment.given()
        ports = environment.ports(given)
        environment.check_free(ports)
        _on_signals(_interrupt)
        with socket_dir(STATE / "run") as sockets:
            everything = programs(given, ports, sockets)
            if "DATABASE_URL" not in given:
                servers.prepare_postgres(STATE / "postgres", sockets)
            if "REDIS_URL" not in given:
                (STATE / "valkey").mkdir(mode=0o700, exist_ok=True)
            environment.write(environment.generated(given, environment.read(environment.ENV_FILE), ports, sockets))
            write_configuration(everything, sockets)
            return _run(everything, ports, sockets)


def restart() -> int:
    """Migrate, then restart the processes that run the project's code. Servers and inbox keep running, so no mail is lost."""
    if not supervision.is_running():
        raise CannotStart("Postcommit is not running here: make start starts it.")
    ports = environment.ports(environment.read(environment.ENV_FILE))
    migrate()
    for name in RESTARTED:
        supervision.stop(name)
        wait_until_ready({name: supervision.start(name)}, ports)
        print(f"{name} restarted", flush=True)
    return 0


def stop() -> int:
    """Stop everything in order, from any terminal, and wait until it has stopped."""
    if not supervision.is_running():
        print("Postcommit is not running here.")
        return 0
    print(STOPPING, flush=True)
    supervision.shut_down()
    deadline = time.monotonic() + STOP_TIMEOUT
    while supervision.is_running():
        if time.monotonic() > deadline:
            raise CannotStart(f"Not stopped after {STOP_TIMEOUT:g} s; see .local/log/supervisord.log.")
        time.sleep(0.1)
    print("Stopped.")
    return 0


def _run(everything: Sequence[Program], ports: Mapping[str, int], sockets: Path) -> int:
    logs = Follower({program.name: log_of(program.name) for program in everything})
    failed = False
    daemon = supervision.launch()
    try:
        supervision.await_launch(daemon)
        password = bring_up(everything, ports, sockets)
        logs.skip()  # the output until now is only in the files
        print(_table(environment.in_force(), password))
        print("Ctrl-C here, or make stop elsewhere, stops everything in order.\n", flush=True)
        _follow(daemon, logs)
    except KeyboardInterrupt:
        print(f"\n{STOPPING}", flush=True)
    except CannotStart as error:
        print(f"\n{error}", file=sys.stderr)
        logs.skip()
        failed = True
    finally:
        _on_signals(_ask_to_wait)
        daemon.terminate()
        _follow(daemon, logs)
    died = daemon.returncode != 0
    print("The supervisor died; its processes may still run." if died else "Stopped.", flush=True)
    return int(failed or died)


def _follow(daemon: "subprocess.Popen[bytes]", logs: Follower) -> None:
    while daemon.poll() is None:
        logs.show()
        time.sleep(0.2)
    logs.show()


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle Ctrl-C, SIGTERM and a closed terminal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _interrupt(_: int, __: FrameType | None) -> None:
    _on_signals(_ask_to_wait)
    raise KeyboardInterrupt


def _ask_to_wait(_: int, __: FrameType | None) -> None:
    """Keep a second signal from interrupting the stop."""
    print("Already stopping: the worker may need some seconds to finish its mails.", flush=True)


def _table(values: Mapping[str, str], password: str | None = None) -> str:
    """Return the table of addresses. `password` is the administrator's, if this start created it."""
    site = values["SITE_URL"].rstrip("/")
    new = f"(a new password: {os.path.relpath(sys.executable)} manage.py changepassword {ADMIN})"
    hint = f"password: {password}  (shown this once)" if password else new
    rows = [
        ("Site", f"{site}/", ""),
        ("Admin", f"{site}/admin/", f"{ADMIN}  {hint}"),
        ("Flower", f"http://localhost:{values['FLOWER_PORT']}/", values["FLOWER_BASIC_AUTH"]),
        ("Inbox", f"http://localhost:{values['INBOX_PORT']}/", "all mail arrives here"),
        ("SMTP", f"localhost:{values['INBOX_SMTP_PORT']}", "EMAIL_URL points here unless you set it"),
    ]
    width = max(len(address) for _, address, _ in rows)
    return "\n" + "\n".join(f"  {name:<7} {address:<{width}}  {note}".rstrip() for name, address, note in rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
