"""Measure how the project grows: `python -m tests.scaling processes`, `hosts` or `writers`. docs/scaling.md has the figures.

What is compared runs in turn, several rounds, because the machine is shared. The tables have medians.
"""

import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import psutil
import psycopg

from local import servers
from tests.bench.child import Child
from tests.bench.stacks import WORKER, Ours
from tests.bench.surroundings import Line, Surroundings
from tests.servers import Server, wait_until

ROUNDS = 3
SECONDS = 3
MAILS = 6000
"""More than the workers send in that time."""
SETTLED_IN = 300
"""Mails until a measurement begins."""

Figures = dict[str, float]


def seconds_of(*pids: int) -> Figures:
    """Return the CPU of processes and their children so far: user and system, by process."""
    family = [psutil.Process(pid) for pid in pids]
    family += [child for process in family for child in process.children(recursive=True)]
    return {str(process.pid): sum(process.cpu_times()[:2]) for process in family}


class Watch:
    """What the servers and the workers did since its beginning."""

    def __init__(self, surroundings: Surroundings, sinks: list[Child], workers: list[int]) -> None:
        self.surroundings, self.sinks, self.workers = surroundings, sinks, workers
        self.before = self._look()

    def _look(self) -> dict[str, Any]:
        valkey = self.surroundings.valkey.client()
        with psycopg.connect(f"{self.surroundings.postgres.url.rpartition('/')[0]}/ours") as connection:
            (wal,) = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone() or (0,)
        return {
            "at": time.monotonic(),
            "mails": sum(sink.ask("count") for sink in self.sinks),
            "wal": float(wal),
            "commands": float(valkey.info("stats")["total_commands_processed"]),
            "bytes": float(
                valkey.info("stats")["total_net_input_bytes"] + valkey.info("stats")["total_net_output_bytes"]
            ),
            "postgres": seconds_of(pid_of(self.surroundings.postgres)),
            "valkey": seconds_of(pid_of(self.surroundings.valkey)),
            "workers": seconds_of(*self.workers),
        }

    def figures(self, things: float = 0) -> Figures:
        """Return the figures a mail, or a thing of which there were so many."""
        now = self._look()
        number = things or now["mails"] - self.before["mails"]
        spent = {
            f"{role}_ms": sum(after - self.before[role].get(pid, 0) for pid, after in now[role].items()) * 1000 / number
            for role in ("workers", "postgres", "valkey")
        }
        counts = {name: (now[name] - self.before[name]) / number for name in ("wal", "commands", "bytes")}
        return {"per_second": number / (now["at"] - self.before["at"])} | spent | counts


def await_mails(sinks: list[Child], number: int) -> None:
    """Wait until each mail server has so many."""
    wait_until(lambda: min(sink.ask("count") for sink in sinks) > number, "the first mails", seconds=60)


def pid_of(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


def with_pool(*pool: str) -> type[Ours]:
    """Return an installation with this pool of workers."""

    class Pool(Ours):
        worker_command: ClassVar[tuple[str, ...]] = (
            "celery",
            "-A",
            "config",
            *WORKER,
            *pool,
            "-Qcritical,default,bulk",
        )

    return Pool


POOLS = {
    "1 process": with_pool("-c1"),
    "2 processes": with_pool("-c2"),
    "4 processes": with_pool("-c4"),
    "1 process, 16 threads": with_pool("-Pthreads", "-c16"),
}


def processes(surroundings: Surroundings) -> Iterator[tuple[str, Figures]]:
    """Yield what each pool does with a backlog, near the mail server and 20 ms from it."""
    ours = Ours(surroundings)
    ours.prepare(MAILS)
    for _ in range(ROUNDS):
        for line in (Line(tls=True), Line(tls=True, delay=20)):
            for name, kind in POOLS.items():
                stack = kind(surroundings)
                stack.share(ours)
                sink = surroundings.sink(line)
                stack.forget()
                sink.ask("forget")
                stack.load.ask("fill", MAILS)
                with stack.workers(MAILS, sink.url) as worker:
                    await_mails([sink], SETTLED_IN)
                    watch = Watch(surroundings, [sink], [worker.pid])
                    time.sleep(SECONDS)
                    yield f"{name}, {line.delay} ms", watch.figures()


class Host:
    """A network namespace with a host name, a mail server and a worker. Needs root."""

    def __init__(self, number: int, surroundings: Surroundings) -> None:
        self.name, self.gateway = f"host{number}", f"10.77.{number}.1"
        self.network(f"ip link add to-{self.name} type veth peer name eth0 netns {self.name}")
        self.network(f"ip addr add {self.gateway}/24 dev to-{self.name}")
        self.network(f"ip link set to-{self.name} up")
        inside = f"ip -n {self.name}"
        for command in (f"addr add 10.77.{number}.2/24 dev eth0", "link set eth0 up", "link set lo up"):
            self.network(f"{inside} {command}")
        log = surroundings.directory / f"{self.name}.log"
        self.sink = Child(log, [*self.inside, sys.executable, "-m", "tests.bench.sink"], {})
        surroundings.stop_at_the_end(self.sink)

    @property
    def inside(self) -> list[str]:
        """Return the command that runs another one here."""
        hostname = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.name, *hostname]

    @staticmethod
    def network(command: str) -> None:
        subprocess.run(command.split(), check=True)

    @classmethod
    @contextmanager
    def made(cls, number: int, surroundings: Surroundings) -> Iterator["Host"]:
        """Make it, and remove it at the end."""
        cls.network(f"ip netns add host{number}")
        try:
            yield cls(number, surroundings)
        finally:
            cls.network(f"ip netns del host{number}")


class OnHost(Ours):
    """Workers on a host: PostgreSQL and the broker are reached by TCP."""

    def __init__(self, surroundings: Surroundings, host: Host, valkey_port: int) -> None:
        super().__init__(surroundings)
        self.host, self.valkey_port = host, valkey_port

    def command(self, mails: int, url: str) -> list[str]:
        return [*self.host.inside, *super().command(mails, url)]

    def _environment(self, email_url: str = "smtp://127.0.0.1:1") -> dict[str, str]:
        return super()._environment(email_url) | {
            "DATABASE_URL": f"postgres://postgres@{self.host.gateway}:5432/ours",
            "REDIS_URL": f"redis://{self.host.gateway}:{self.valkey_port}/0",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }


def open_to_hosts(surroundings: Surroundings) -> int:
    """Let the servers listen on the network. Return Valkey's port."""
    postgres, valkey = surroundings.postgres, surroundings.valkey
    postgres.stop()
    valkey.stop()
    with (postgres.data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.77.0.0/16 trust\n")
    fast = {"fsync": "off", "full_page_writes": "off", "listen_addresses": "*"}
    postgres._command = lambda: servers.postgres_command(postgres.data, postgres.sockets, **fast)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    valkey.settings = {"port": str(port), "bind": "*", "protected_mode": "no"}
    postgres.start()
    valkey.start()
    return port


def hosts(surroundings: Surroundings) -> Iterator[tuple[str, Figures]]:
    """Yield what one process on one host, two there, and one on each of two hosts do with one queue."""
    port = open_to_hosts(surroundings)
    ours = Ours(surroundings)
    ours.prepare(MAILS)
    with ExitStack() as made:
        first, second = (made.enter_context(Host.made(number, surroundings)) for number in (1, 2))
        setups: Mapping[str, list[tuple[Host, str]]] = {
            "1 host, 1 process": [(first, "-c1")],
            "1 host, 2 processes": [(first, "-c2")],
            "2 hosts, 1 process each": [(first, "-c1"), (second, "-c1")],
        }
        for _ in range(ROUNDS):
            for name, workers in setups.items():
                ours.forget()
                sinks = [host.sink for host, _ in workers]
                for sink in sinks:
                    sink.ask("forget")
                ours.load.ask("fill", MAILS)
                with ExitStack() as running:
                    pids = []
                    for host, pool in workers:
                        stack = OnHost(surroundings, host, port)
                        stack.worker_command = ("celery", "-A", "config", *WORKER, pool, "-Qcritical,default,bulk")  # type: ignore[misc]
                        url = f"smtp://127.0.0.1:{host.sink.ask('port')}/"
                        pids.append(running.enter_context(stack.workers(MAILS, url)).pid)
                    await_mails(sinks, SETTLED_IN // 2)
                    watch = Watch(surroundings, sinks, pids)
                    time.sleep(SECONDS)
                    yield name, watch.figures()


def writers(surroundings: Surroundings) -> Iterator[tuple[str, Figures]]:
    """Yield what 1, 2 and 4 processes do that enqueue one mail a transaction, and one that enqueues many."""
    stacks = [Ours(surroundings) for _ in range(4)]
    stacks[0].prepare(4 * MAILS)
    stacks[0].load.stop()
    calls = 980  # after 20 that the load takes for warming up
    for _ in range(ROUNDS):
        for number in (1, 2, 4):
            loads = [writer(stack) for stack in stacks[:number]]
            try:
                for load in loads:
                    load.ask("calls", 1)  # connected and warm
                watch = Watch(surroundings, [], [load._process.pid for load in loads])
                with ThreadPoolExecutor() as pool:
                    list(pool.map(lambda load: load.ask("calls", calls), loads))
                yield f"{number} writers, one mail a transaction", watch.figures(number * 1000)
            finally:
                loads[0].ask("forget")
                for load in loads:
                    load.stop()
        load = writer(stacks[0])
        load.ask("fill", 10)
        watch = Watch(surroundings, [], [load._process.pid])
        load.ask("fill", MAILS)
        yield "1 writer, enqueue_many", watch.figures(MAILS)
        load.ask("forget")
        load.stop()


def writer(stack: Ours) -> Child:
    """Start a process that asks for mail."""
    return Child(stack._log("load"), [stack.python, "-m", *stack.load_command], stack._environment())


def main(what: str) -> None:
    """Print a table of medians, each with the lowest and the highest rate."""
    found: dict[str, list[Figures]] = defaultdict(list)
    with Surroundings() as surroundings:
        for name, figures in MEASURES[what](surroundings):
            found[name].append(figures)
            print(name, {key: round(value, 2) for key, value in figures.items()}, file=sys.stderr, flush=True)
    columns = list(next(iter(found.values()))[0])
    print("|", " | ".join(["", *columns, "from - to a second"]), "|")
    for name, rounds in found.items():
        medians = [statistics.median(each[column] for each in rounds) for column in columns]
        rates = [each["per_second"] for each in rounds]
        print(
            "|", name, "|", " | ".join(f"{value:.2f}" for value in medians), f"| {min(rates):.0f} - {max(rates):.0f} |"
        )


MEASURES = {"processes": processes, "hosts": hosts, "writers": writers}

if __name__ == "__main__":
    main(sys.argv[1])
