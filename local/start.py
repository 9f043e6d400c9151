"""`make start`: everything on this machine, in the foreground, until Ctrl-C, SIGTERM or `make stop`."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from local import CannotStart, environment, interruption, ready, servers, supervision
from local.bring_up import bring_up
from local.environment import STATE
from local.follow import Follower
from local.programs import Program, programs, write_configuration
from local.sockets import socket_dir
from local.table import table


def main() -> int:
    """Returns the exit status."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    try:
        with _alone():
            return _start()
    except BlockingIOError:
        return _tell_of_the_other_one()
    except CannotStart as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _start() -> int:
    if supervision.running():  # the `make start` that it belonged to was killed
        return _tell_of_the_other_one()
    said = environment.given()
    ports = environment.ports(said)
    environment.check_free(ports)
    interruption.raise_once()
    with socket_dir(STATE / "run") as sockets:
        everything = _prepare(said, ports, sockets)
        with closing(Follower({program.name: program.log for program in everything})) as logs:
            return _run(everything, ports, sockets, logs)


def _prepare(said: Mapping[str, str], ports: Mapping[str, int], sockets: Path) -> Sequence[Program]:
    """Writes every file that the processes need."""
    everything = programs(said, ports, sockets)
    names = [program.name for program in everything]
    if "postgres" in names:
        servers.prepare_postgres(STATE / "postgres", sockets)
    if "valkey" in names:
        (STATE / "valkey").mkdir(mode=0o700, exist_ok=True)
    environment.write(environment.made_up(said, environment.read(environment.ENV_FILE), ports, sockets))
    write_configuration(everything, sockets)
    return everything


def _run(everything: Sequence[Program], ports: Mapping[str, int], sockets: Path, logs: Follower) -> int:
    status = 0
    daemon = supervision.launch()
    try:
        password = bring_up(supervision.await_launch(daemon), everything, ports, sockets)
        logs.skip()  # what was said while starting stays in the files, out of the table's way
        print(table(environment.in_force(), password))
        print("Ctrl-C here, or make stop elsewhere, stops everything in order.\n", flush=True)
        _follow(daemon, logs)
    except KeyboardInterrupt:
        print("\nStopping in order: web, worker, beat, Flower, inbox, servers.", flush=True)
    except ready.Failed as failure:
        print(f"\n{failure}", file=sys.stderr)
        logs.skip()
        status = 1
    finally:
        _stop(daemon, logs)
    return status or int(daemon.returncode != 0)


def _follow(daemon: "subprocess.Popen[bytes]", logs: Follower) -> None:
    while daemon.poll() is None:
        logs.show()
        time.sleep(0.2)
    logs.show()


def _stop(daemon: "subprocess.Popen[bytes]", logs: Follower) -> None:
    """Lets everything end in order, whatever signals come meanwhile."""
    interruption.ask_for_patience()
    if daemon.poll() is not None:
        print("Stopped." if daemon.returncode == 0 else "The supervisor died; its processes may still run.", flush=True)
        return
    began = time.monotonic()
    daemon.terminate()
    _follow(daemon, logs)
    print(f"Stopped in {time.monotonic() - began:.1f} s.", flush=True)


def _tell_of_the_other_one() -> int:
    if supervision.running():
        print("Postcommit is running already in this checkout; make stop stops it.")
        print(table(environment.in_force()))
        return 0
    print("Another make start is at work in this checkout: wait for it, or stop it.", file=sys.stderr)
    return 1


@contextmanager
def _alone() -> Iterator[None]:
    """Raises BlockingIOError when another `make start` of this checkout lives."""
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


if __name__ == "__main__":
    sys.exit(main())
