"""No line shows an address or a secret, whichever library logs it."""

import json
import logging
import logging.config
import time
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from config.logging import Masking, configure
from mailer.text import mask

CODE = "0123456789abcdef0123456789abcdef01234567"
LINK = f"/accounts/verify/7c0ffeee-0000-4000-8000-000000000000/{CODE}/"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ann@example.com", "a***@example.com"),
        ("550 5.1.1 <ann.o'neil+tag@mail.example.co.uk>: unknown", "550 5.1.1 <a***@mail.example.co.uk>: unknown"),
        ("a@b.c, d@e.f", "a***@b.c, d***@e.f"),
        ("Key (email)=(ann@example.com) already exists.", "Key (email)=(a***@example.com) already exists."),
        ("no address @ all", "no address @ all"),
        ("jane.doe/sales@example.com", "j***@example.com"),
        ("POST /?email=jane.doe%40example.com", "POST /***%40example.com"),
        ("{ann!smith}@example.com", "{***@example.com"),
    ],
)
def test_addresses_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_a_long_word_is_masked_quickly() -> None:
    began = time.perf_counter()
    assert mask(f"{'A' * 200_000} ann@example.com") == f"{'A' * 200_000} a***@example.com"
    assert time.perf_counter() - began < 10  # a regular expression that backtracks would take minutes


def test_an_unsubscribe_link_is_masked() -> None:
    assert mask("Not Found: /unsubscribe/aB3-_x9/") == "Not Found: /unsubscribe/***/"
    assert mask("listed: https://shop.example/unsubscribe/aB3-_x9") == "listed: https://shop.example/unsubscribe/***"
    assert mask("Not Found: /UNSUBSCRIBE//aB3-_x9/") == "Not Found: /UNSUBSCRIBE//***/"


def test_the_code_of_a_link_is_masked_and_its_id_is_not() -> None:
    assert mask(f"Not Found: {LINK}") == f"Not Found: {LINK.replace(CODE, '***')}"
    assert "difo2b" not in mask("/accounts/password-reset/MQ/difo2b-a6cdf9a7a6cdf9a7a6cdf9a7a6cdf9a7/>")
    assert CODE not in mask(f"rejected: URL http://shop.example/%20{LINK}%20 listed, see /x/ {CODE}/")


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """Collect what the production configuration writes."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, structlog.get_config()
    stream = StringIO()
    logging.config.dictConfig(configure(level="INFO", as_json=True))
    root.handlers[0].stream = stream  # type: ignore[attr-defined]
    yield stream
    root.handlers[:], root.level = before[0], before[1]
    structlog.configure(**before[2])


def test_structlog_and_standard_loggers_write_the_same_form(lines: StringIO) -> None:
    structlog.get_logger("mailer.delivery").info("accepted", message_id=7, text="to ann@example.com")
    logging.getLogger("django.request").warning("Not Found: %s", LINK)

    ours, theirs = (json.loads(line) for line in lines.getvalue().splitlines())
    assert ours["event"] == "accepted"
    assert (ours["message_id"], ours["text"], ours["logger"]) == (7, "to a***@example.com", "mailer.delivery")
    assert (theirs["level"], theirs["logger"]) == ("warning", "django.request")
    assert CODE not in theirs["event"]
    assert ours.keys() >= {"timestamp", "level"}


def test_a_traceback_is_masked(lines: StringIO) -> None:
    try:
        raise ValueError("ann@example.com")
    except ValueError:
        logging.getLogger("django").exception("failed")

    record = json.loads(lines.getvalue())
    assert "ValueError: a***@example.com" in record["exception"]


def test_a_lone_surrogate_is_masked_and_encoded() -> None:
    line = Masking(structlog.processors.JSONRenderer(ensure_ascii=False))
    rendered = line(None, "", {"event": "caf\udce9 of ann@bücher.example"})
    assert rendered.encode() == b'{"event": "caf\\udce9 of a***@b\xc3\xbccher.example"}'
