"""The least that sending costs: smtplib, one kept connection, and bytes that are ready."""

import signal
import smtplib
import ssl
import sys
from urllib.parse import urlsplit


def send(url: str, octets: bytes, number: int) -> None:
    """Send the same mail to so many people."""
    parts = urlsplit(url)
    with smtplib.SMTP(parts.hostname or "", parts.port or 0) as client:
        if parts.username:
            client.starttls(context=ssl.create_default_context())
            client.login(parts.username, parts.password or "")
        for person in range(1, number + 1):
            client.sendmail("hello@example.com", f"user-{person}@example.com", octets)


if __name__ == "__main__":
    send(sys.argv[1], b"Subject: ready\r\n\r\n" + 127 * (b"x" * 76 + b"\r\n"), int(sys.argv[2]))
    signal.pause()  # until the bench has looked at its memory
