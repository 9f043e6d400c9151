"""A real Dovecot on a free port of loopback, with a new mailbox for each test, which fills it."""

import grp
import os
import pwd
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.config.test_redis_url import make_certificate
from tests.servers import free_port, wait_until

PASSWORD = "p@ss/wörd:%"
SETTINGS = """\
base_dir = {directory}/run
log_path = {directory}/log
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{certificate}
ssl_dh =
disable_plaintext_auth = no
auth_failure_delay = 0
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
mail_location = maildir:{directory}/mail/%n
mail_uid = {user}
mail_gid = {group}
first_valid_uid = 0
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={directory}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""
"""dovecot.conf of Dovecot 2.3. Everything runs as one user, without root's rights if the tests have none."""


class Dovecot:
    """`with Dovecot(directory) as server:` … `server.deliver(raw)`, `server.flags`. `directory` is short and open to all."""

    def __init__(self, directory: Path) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.users = 0
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Dovecot":
        path = program()
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self._directory.chmod(0o755)
        for name in "run", "mail":
            (self._directory / name).mkdir()
            os.chown(self._directory / name, owner.pw_uid, owner.pw_gid)
        settings = self._directory / "dovecot.conf"
        group, password = grp.getgrgid(owner.pw_gid).gr_name, PASSWORD.replace("%", "%%")
        settings.write_text(
            SETTINGS.format(
                directory=self._directory,
                certificate=make_certificate(self._directory),
                port=self.port,
                tls_port=self.tls_port,
                user=owner.pw_name,
                group=group,
                password=password,
            )
        )
        output = (self._directory / "output").open("wb")
        with output:
            self._process = subprocess.Popen([path, "-F", "-c", settings], stdout=output, stderr=output)
        try:
            wait_until(self._is_listening, "Dovecot to listen")
        except TimeoutError as error:
            self.__exit__()
            raise AssertionError(f"{error}\n{(self._directory / 'output').read_text()}\n{self.log}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    @property
    def log(self) -> str:
        """Return its log."""
        with suppress(FileNotFoundError):
            return (self._directory / "log").read_text()
        return ""

    @property
    def certificate(self) -> Path:
        """The file of its certificate, for localhost."""
        return self._directory / "tls.pem"

    def renew(self) -> None:
        """Give a test a user with an empty mailbox."""
        self.users += 1
        for folder in "", "new", "cur", "tmp":
            path = self._mailbox / folder
            path.mkdir()
            os.chown(path, (owner := self._mailbox.parent.stat()).st_uid, owner.st_gid)

    @property
    def user(self) -> str:
        """The user's name."""
        return f"bounces{self.users}@example.com"

    @property
    def flags(self) -> list[str]:
        """Return the flags of each mail, such as `S` for seen."""
        mails = sorted(path.name for folder in ("cur", "new") for path in (self._mailbox / folder).iterdir())
        return [name.partition(":2,")[2] for name in mails]

    def deliver(self, raw: bytes, name: str) -> None:
        """Put a mail into the mailbox."""
        path = self._mailbox / "new" / name
        path.write_bytes(raw)
        os.chown(path, (owner := path.parent.stat()).st_uid, owner.st_gid)

    @property
    def _mailbox(self) -> Path:
        return self._directory / "mail" / self.user.partition("@")[0]

    def _is_listening(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            return connection.recv(4) == b"* OK"
        return False


def program() -> Path:
    """Return the path of Dovecot. Skips the test if it is missing, and says so."""
    path = shutil.which("dovecot", path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip("NOTHING WAS TESTED AGAINST AN IMAP SERVER: install Dovecot (apt-get install dovecot-imapd).")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if not version.startswith("2.3."):
        pytest.skip(f"NOTHING WAS TESTED AGAINST AN IMAP SERVER: the settings are of Dovecot 2.3, not {version}")
    return Path(path)
