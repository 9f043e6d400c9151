"""When a process is not just alive but at work."""

import http.client
import socket
import time
from collections.abc import Callable, Mapping
from functools import cache

from celery import Celery
from celery.app.control import Control

from config.environment import redis_url
from local import environment
from local.environment import ADDRESS
from local.follow import last_lines
from local.programs import log_of
from local.supervision import Supervisor

Ports = Mapping[str, int]


class Failed(Exception):
    """A process ended while it was expected to become ready, or did not become it in time. The message shows its log."""

    def __init__(self, name: str, reason: str) -> None:
        lines = [f"{name} {reason}."]
        if end := last_lines(log_of(name)):
            lines += [f"The end of .local/log/{name}.log:", *(f"    {line}" for line in end)]
        super().__init__("\n".join(lines))


def wait(supervisor: Supervisor, pids: Mapping[str, int], ports: Ports, patience: float = 60.0) -> None:
    """Waits until every process of `pids` is at work. Raises Failed with the first that died."""
    deadline = time.monotonic() + patience
    pending = dict(pids)
    while pending:
        now = supervisor.processes()
        for name, pid in pids.items():
            if not now[name].is_alive or now[name].pid != pid:
                raise Failed(name, "ended while it was starting")
        for name in tuple(pending):
            if SIGNS.get(name, _is_alive)(ports):
                del pending[name]
        if pending and time.monotonic() > deadline:
            raise Failed(next(iter(pending)), f"was not ready within {patience:g} s")
        time.sleep(0.1)


def _is_alive(_: Ports) -> bool:
    return True


def _listens(port: int) -> bool:
    try:
        socket.create_connection((ADDRESS, port), timeout=1).close()
    except OSError:
        return False
    return True


def _speaks_http(port: int, path: str) -> bool:
    """Whether anything comes back; gunicorn's master accepts connections long before a worker can answer one."""
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=1)
    try:
        connection.request("GET", path)
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _consumes(_: Ports) -> bool:
    return bool(_remote_control().ping(timeout=0.3, limit=1))


@cache
def _remote_control() -> Control:
    """Celery's, with the broker's address alone: the settings are the processes' own business."""
    broker = redis_url(environment.in_force()["REDIS_URL"])
    app = Celery("local", broker=broker.url, set_as_current=False, fixups=[])
    app.conf.broker_transport_options = broker.transport_options
    return app.control


SIGNS: Mapping[str, Callable[[Ports], bool]] = {
    "web": lambda ports: _speaks_http(ports["WEB_PORT"], "/healthz"),
    "worker": _consumes,
    "flower": lambda ports: _speaks_http(ports["FLOWER_PORT"], "/healthcheck"),
    "inbox": lambda ports: _listens(ports["INBOX_SMTP_PORT"]) and _speaks_http(ports["INBOX_PORT"], "/"),
}
