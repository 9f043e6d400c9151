"""Messages on disk: one .eml per message with the bytes as received, and its envelope in a .json.

A message exists when its .eml does. The .eml is written last, by a rename, and removed first. If the process dies in
between, the next start removes the other files. There is no more state: the directory may be copied, emptied or read
with any mail program.
"""

import json
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from django.http import Http404

WHEN = "%Y%m%dT%H%M%S-%f"
ID = re.compile(r"\d{8}T\d{6}-\d{6}-[0-9a-f]{6}", re.ASCII)


class Missing(Http404):
    """The message does not exist, or no longer."""


class Store:
    """The messages in one directory. An id sorts by the time of receipt and is safe as a file name and in a URL."""

    def __init__(self, directory: Path) -> None:
        # Mail contains login links: only the owner may read the directory.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        for path in directory.iterdir():
            is_leftover = path.suffix == ".part" or (path.suffix == ".json" and not path.with_suffix(".eml").exists())
            if is_leftover and ID.fullmatch(path.stem):
                path.unlink()

    def add(self, source: bytes, sender: str, recipients: Sequence[str]) -> str:
        """Store a message and return its id. After an OSError (a full disk) no file of it remains."""
        envelope = {"sender": sender, "recipients": recipients}
        message_id = f"{datetime.now(UTC):{WHEN}}-{secrets.token_hex(3)}"
        part = self._path(message_id, "part")
        try:
            self._path(message_id, "json").write_text(json.dumps(envelope), encoding="ascii")
            part.write_bytes(source)
            part.rename(self._path(message_id, "eml"))
        except OSError:
            part.unlink(missing_ok=True)
            self.remove(message_id)
            raise
        return message_id

    def ids(self) -> list[str]:
        """Return the ids of all messages, newest first."""
        return sorted((path.stem for path in self.directory.glob("*.eml") if ID.fullmatch(path.stem)), reverse=True)

    def source(self, message_id: str) -> bytes:
        """Return the bytes as received. Raises Missing."""
        try:
            return self._path(message_id, "eml").read_bytes()
        except FileNotFoundError as error:
            raise Missing(message_id) from error

    def envelope(self, message_id: str) -> tuple[str, list[str]]:
        """Return sender and recipients of the SMTP conversation, or nothing if their file is missing or unreadable.

        A Bcc is only here, not in the headers.
        """
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._path(message_id, "json").read_bytes())
            return str(kept["sender"]), list(map(str, kept["recipients"]))
        return "", []

    def remove(self, message_id: str) -> None:
        """Delete one message, which may be gone already."""
        self._path(message_id, "eml").unlink(missing_ok=True)
        self._path(message_id, "json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all messages that exist now. One that arrives meanwhile stays."""
        for message_id in self.ids():
            self.remove(message_id)

    def _path(self, message_id: str, suffix: str) -> Path:
        if not ID.fullmatch(message_id):
            raise Missing(message_id)
        return self.directory / f"{message_id}.{suffix}"
