"""Messages on disk: one .eml a message, byte for byte as it was received, and its envelope in a .json beside it.

The .eml is what makes a message exist. It appears last, by a rename, and disappears first, so a process that dies in
between leaves nothing but crumbs, and the next start sweeps them up. There is no other state: the directory may be
copied, emptied or read with any mail program.
"""

import json
import re
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

WHEN = "%Y%m%dT%H%M%S-%f"
ID = re.compile(r"\d{8}T\d{6}-\d{6}-[0-9a-f]{6}", re.ASCII)


class Missing(LookupError):
    """There is no such message, or there is none any more."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What SMTP said, which the headers need not repeat: a Bcc stands only here."""

    sender: str = ""
    recipients: tuple[str, ...] = ()


class Store:
    """The messages in one directory. An id sorts by the time of receipt and is safe as a file name and in a URL."""

    def __init__(self, directory: Path) -> None:
        # Mail carries links that log people in: the directory is the owner's alone.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._sweep()

    def add(self, source: bytes, envelope: Envelope) -> str:
        """Keep a message and return its id. On an OSError (a full disk) nothing of it remains."""
        message_id = f"{datetime.now(UTC):{WHEN}}-{secrets.token_hex(3)}"
        part = self._path(message_id, "part")
        try:
            self._path(message_id, "json").write_text(json.dumps(asdict(envelope)), encoding="ascii")
            part.write_bytes(source)
            part.rename(self._path(message_id, "eml"))
        except OSError:
            part.unlink(missing_ok=True)
            self.remove(message_id)
            raise
        return message_id

    def ids(self) -> list[str]:
        """Every message's id, newest first."""
        return sorted((path.stem for path in self.directory.glob("*.eml") if ID.fullmatch(path.stem)), reverse=True)

    def source(self, message_id: str) -> bytes:
        """The bytes that were received. Raises Missing."""
        try:
            return self._path(message_id, "eml").read_bytes()
        except FileNotFoundError as error:
            raise Missing(message_id) from error

    def envelope(self, message_id: str) -> Envelope:
        """The envelope; an empty one if its file was lost or edited beyond recognition."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._path(message_id, "json").read_bytes())
            return Envelope(str(kept["sender"]), tuple(map(str, kept["recipients"])))
        return Envelope()

    def remove(self, message_id: str) -> None:
        """Forget one message; it is no error if it is gone already."""
        self._path(message_id, "eml").unlink(missing_ok=True)
        self._path(message_id, "json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget every message that exists now; one that arrives meanwhile stays."""
        for message_id in self.ids():
            self.remove(message_id)

    def _path(self, message_id: str, suffix: str) -> Path:
        if not ID.fullmatch(message_id):
            raise Missing(message_id)
        return self.directory / f"{message_id}.{suffix}"

    def _sweep(self) -> None:
        for path in self.directory.iterdir():
            crumb = path.suffix == ".part" or (path.suffix == ".json" and not path.with_suffix(".eml").exists())
            if crumb and ID.fullmatch(path.stem):
                path.unlink()


def received(message_id: str) -> datetime:
    """When the message came in, in the time zone of this machine."""
    moment = message_id.rpartition("-")[0]
    return datetime.strptime(moment, WHEN).replace(tzinfo=UTC).astimezone()
