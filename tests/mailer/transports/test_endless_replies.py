"""Servers whose replies do not end."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

import pytest
from django.core.mail import EmailMessage

from mailer.outcomes import OutcomeUnknown, TransportDown
from mailer.transports import smtp, transmit


def serve(listener: socket.socket, drip: bytes, pause: float, *, after_payload: bool) -> None:
    with suppress(OSError):
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 x\r\n" if after_payload else b"")
            in_data = False
            for line in lines if after_payload else ():
                if in_data and line != b".\r\n":
                    continue
                if in_data:
                    break
                in_data = line.upper().startswith(b"DATA")
                connection.sendall(b"354 x\r\n" if in_data else b"250 x\r\n")
            while True:
                connection.sendall(drip)
                time.sleep(pause)


@pytest.mark.parametrize("after_payload", [False, True])
@pytest.mark.parametrize(("drip", "pause"), [(b"2", 0.05), (b"250-x\r\n" * 1000, 0)], ids=["slow", "long"])
def test_a_reply_without_an_end_is_given_up(
    drip: bytes, pause: float, after_payload: bool, through: Callable[[str], None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, args=(listener, drip, pause), kwargs={"after_payload": after_payload}, daemon=True).start()
        backend = smtp.EmailBackend(alias="x", host="127.0.0.1", port=listener.getsockname()[1], timeout=5)
        began = time.monotonic()
        outcome = transmit._converse(backend, EmailMessage("x", "x", "us@example.com", ["ann@example.com"]), began + 1)
        assert isinstance(outcome, OutcomeUnknown if after_payload else TransportDown)
        assert time.monotonic() - began < 3
        with suppress(OSError):
            backend.close()
