"""A real Postfix on a free port of loopback: the test decides its settings, and sees what it delivered."""

import os
import re
import shutil
import socket
import subprocess
from collections import Counter
from contextlib import suppress
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.servers import free_port, wait_until
from tests.smtp_sink import Sink

SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd -o max_use=1
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 1 1 qmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
verify   unix - - n - 1 verify
flush    unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp     unix - - n - - smtp
discard  unix - - n - - discard
error    unix - - n - - error
retry    unix - - n - - error
showq    unix n - n - - showq
anvil    unix - - n - 1 anvil
scache   unix - - n - 1 scache
postlog  unix-dgram n - n - 1 postlogd
"""
"""master.cf (master(5)): Debian's, without chroot and without what reads mail of this machine.

No smtpd waits for a second connection: just after a reload it could take one with old settings. The queue manager looks every
second: a reload can lose what wakes it.
"""

SETTINGS = {
    "compatibility_level": "3.6",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "myhostname": "mx.example",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "alias_maps": "",
    "alias_database": "",
    "disable_dns_lookups": "yes",
    "minimal_backoff_time": "1s",
    "smtpd_peername_lookup": "no",
    "in_flow_delay": "0",
    "notify_classes": "",  # it would mail its troubles to its postmaster
    "smtpd_client_event_limit_exceptions": "",  # its default excepts loopback from every limit of clients
    "maillog_file_prefixes": "/",
}
"""main.cf (postconf(5)). Everything else has Postfix's own defaults, because those are what real servers have."""

LONG_AGO = 1_000_000_000
RELOADED = "reload -- version"
"""In its log."""


class Postfix:
    """`with Postfix(directory, smtpd_recipient_limit="3") as server:` … `server.url`, `server.delivered`.

    `settings` are lines of main.cf. All mail is relayed to `self.target`, a mail server of the test, which shows what was
    delivered. `directory` comes from `tests.environment.new_directory`: its path is short and open to all users.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"smtp://127.0.0.1:{self.port}"
        self.target = Sink()
        self._directory, self._settings = directory, settings
        self._forgotten = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Postfix":
        self._directory.chmod(0o755)  # its processes run as several users
        (self._directory / "queue").mkdir()  # Postfix makes the folders below, with their owners
        (self._directory / "etc").mkdir()
        self._write("master.cf", SERVICES.format(port=self.port))
        self.target.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self.target.__exit__()

    def configure(self, **settings: str) -> None:
        """Replace the settings and reload, as an operator does. Connections that are open keep the old ones (postfix(1))."""
        self._settings = settings
        self._write_settings()
        before = self.log.count(RELOADED)
        for _ in range(10):
            subprocess.run(self._command("reload"), capture_output=True, check=True, timeout=20)
            with suppress(TimeoutError):  # rarely the line in the log is lost: a reload restarts Postfix's logger, too
                wait_until(lambda: self.log.count(RELOADED) > before, "Postfix to reload", seconds=1)
                return
        raise AssertionError(f"Postfix did not reload\n{self.log[-3000:]}")

    def forget(self) -> None:
        """Begin a new log, and forget what was delivered."""
        self._forgotten += len(self.log)
        self.target.received.clear()

    @property
    def delivered(self) -> Counter[tuple[str, str]]:
        """Return how often each recipient got each Message-ID."""
        return Counter(
            (recipient, message_from_bytes(received.source)["Message-ID"])
            for received in list(self.target.received)
            for recipient in received.recipients
        )

    @property
    def log(self) -> str:
        """Return its mail log."""
        with suppress(FileNotFoundError):
            return (self._directory / "log").read_text()[self._forgotten :]
        return ""

    @property
    def refusals(self) -> list[str]:
        """Return the refusals in its log: the command with the reply, as in `RCPT 554 5.7.1 <ann@example.com>: …`."""
        found = re.findall(r"reject: (\S+) from \S+: (\d{3} .*?); (?:from|client|proto)=", self.log)
        return [f"{command} {reply}" for command, reply in found]

    def _write_settings(self) -> None:
        own = {
            "queue_directory": str(self._directory / "queue"),
            "data_directory": str(self._directory / "data"),
            "maillog_file": str(self._directory / "log"),
            "relayhost": f"[127.0.0.1]:{self.target.port}",
            "local_transport": f"smtp:[127.0.0.1]:{self.target.port}",
        }
        lines = SETTINGS | own | self._settings
        self._write("main.cf", "".join(f"{name} = {value}\n" for name, value in lines.items()))

    def _start(self) -> None:
        self._write_settings()
        file = self._directory / "output"
        with file.open("wb") as output:
            self._process = subprocess.Popen(
                self._command("start-fg"), stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_until(self._is_listening, "Postfix to listen")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{file.read_text()}\n{self.log}") from None

    def _stop(self) -> None:
        if self._process is not None:
            subprocess.run(self._command("stop"), capture_output=True, check=False, timeout=20)
            self._process.wait(20)
            self._process = None

    def _write(self, name: str, text: str) -> None:
        """Write a file that looks old: each process of Postfix waits until a new main.cf is a while old."""
        file = self._directory / "etc" / name
        file.write_text(text)
        os.utime(file, (LONG_AGO, LONG_AGO))

    def _command(self, action: str) -> list[str]:
        return [*as_root(), str(program()), "-c", str(self._directory / "etc"), action]

    def _is_listening(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            return connection.recv(3) == b"220"
        return False


def program() -> Path:
    """Return the path of Postfix. Skips the test if it is missing, and says so."""
    path = shutil.which("postfix", path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip("NOTHING WAS TESTED AGAINST POSTFIX: it was not found. Install it (apt-get install postfix).")
    return Path(path)


def as_root() -> list[str]:
    """Return the prefix of a command that runs as root: Postfix starts only so, and then changes to its own users."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOTHING WAS TESTED AGAINST POSTFIX: it starts only as root, and sudo asks for a password.")
    return [sudo, "-n"]
