"""A common message that is written directly has the same octets as if Python's email package had written it."""

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from mailer.composing.message import build
from mailer.email import Email, kinds
from mailer.mime import direct, encoding
from tests.mailer.mime.unusual_mail import SHAPES, Make, normalised

ANN = "ann@example.com"
HEADERS = {"Message-ID": "<1.a@example.com>"}

PIECES = [
    *(
        "a",
        "Ann",
        "  ",
        " ",
        "\t",
        "é",
        "ก",
        "👩‍🚀",
        "=",
        "=?utf-8?q?=0A?=",
        "=?utf-8?b?4Lk=?=",
        ".",
        "..",
        ",",
        ";",
        ":",
    ),
    *(
        '"',
        "'",
        "\\",
        "(",
        ")",
        "<",
        ">",
        "[",
        "]",
        "@",
        "b@c.de",
        "xn--a",
        "bücher.example",
        "\x00",
        "\x0b",
        "\x0c",
        "\x1c",
    ),
    *(
        "\x7f",
        "\x80",
        "\x85",
        "\u2028",
        "\xa0",
        "\ud800",
        "\n",
        "\r",
        "\r\n",
        "\n ",
        "From ",
        "-",
        "--",
        "x" * 60,
        "ก" * 30,
    ),
    *("x" * 73, "x" * 74, "x" * 75, "x" * 76, "x " * 38, "= " * 25, "x" * 998, "é" * 499, "é" * 500),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join)
WORDS = st.lists(st.sampled_from([*"aZ0-_.+'=?@<>, ", "Ann", "=?", "x" * 40]), max_size=12).map("".join)
ADDRESSES = st.sampled_from(
    [ANN, "a@b", "root", "a.b+c@x-y.example", "é@example.com", "a@bücher.example", '"a b"@c.de']
)
MAILBOXES = st.builds(lambda name, address: f"{name} <{address}>", WORDS | TEXTS, ADDRESSES) | ADDRESSES | WORDS
NAMES = st.sampled_from(
    ["X-A", "List-ID", "Date", "Sender", "Subject", "to", "Content-Type", "x", "Resent-To", "Keywords", "é"]
)


def written(mail: EmailMessage, *, eight_bit: bool) -> tuple[object, object]:
    """Return what both ways give for the message: octets, or an error."""

    def attempt(write: object) -> object:
        encoding._fold_cached.cache_clear()  # ` <a@b>` and `a@b` are one entry; the first one would win
        try:
            octets = write()  # type: ignore[operator]
        except Exception as error:
            return type(error), str(error)
        return octets and normalised(octets)

    return (
        attempt(lambda: direct.write(mail, eight_bit=eight_bit)),
        attempt(lambda: encoding.octets(encoding.build(mail, eight_bit=eight_bit))),
    )


@pytest.mark.parametrize("language", ["en", "th"])
@pytest.mark.parametrize(
    "kind", [kind for kind in kinds() if "tests" not in kind.__module__], ids=lambda kind: kind.kind
)
def test_every_kind_has_the_same_octets(kind: type[Email], language: str) -> None:
    mail = build(kind.sample(), HEADERS["Message-ID"], language=language)
    for eight_bit in (True, False):
        ours, theirs = written(mail, eight_bit=eight_bit)
        assert ours == theirs
        assert bool(ours) is not bool(mail.attachments)


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_a_message_of_any_shape_has_the_same_octets_or_is_left_to_python(make: Make) -> None:
    for eight_bit in (True, False):
        mail = make()
        mail.extra_headers = HEADERS | mail.extra_headers
        ours, theirs = written(mail, eight_bit=eight_bit)
        assert ours in (None, theirs)


@settings(max_examples=400)
@given(
    subject=WORDS | TEXTS,
    body=TEXTS,
    html=st.none() | TEXTS,
    sender=MAILBOXES,
    to=st.lists(MAILBOXES, max_size=2),
    reply_to=st.lists(MAILBOXES, max_size=1),
    headers=st.dictionaries(NAMES, WORDS | TEXTS | MAILBOXES, max_size=2),
    message_id=st.just(HEADERS["Message-ID"]) | WORDS.map("<{}@b>".format),
    eight_bit=st.booleans(),
)
@example("S" * 67, "x" * 76 + "\n", "", ANN, [ANN], [], {"X-A": "y" * 71}, "<1@b>", True)
@example("S" * 68, "x" * 77, "é" * 499, ANN, [ANN], [], {"X-A": "y" * 72}, "<1@b>", True)
@example("A =?utf-8?q?=42?= c", "x", None, ANN, [ANN], [], {"X-A": "a =?utf-8?b?w6k=?= b"}, "<1@b>", True)
@example("S", "x \n" * 11 + "=" * 80, "é" * 500, f"{'n' * 60} <{ANN}>", [ANN, ANN], [ANN], {}, "<1@b>", False)
def test_hostile_values_have_the_same_octets(
    subject: str,
    body: str,
    html: str | None,
    sender: str,
    to: list[str],
    reply_to: list[str],
    headers: dict[str, str],
    message_id: str,
    eight_bit: bool,
) -> None:
    mail = EmailMultiAlternatives(
        subject, body, sender, to, reply_to=reply_to, headers={"Message-ID": message_id} | headers
    )
    if html is not None:
        mail.attach_alternative(html, "text/html")
    ours, theirs = written(mail, eight_bit=eight_bit)
    assert ours in (None, theirs)


def test_a_message_that_is_not_common_is_left_to_python(settings: Settings) -> None:
    class Signed(EmailMessage):
        pass

    left = [Signed("S", "text", None, [ANN], headers=HEADERS), EmailMessage("S", "text", None, [ANN])]
    left.append(EmailMessage("S", "text", None, ["é@example.com"], headers=HEADERS))
    for name, value in {"encoding": "latin-1", "content_subtype": "calendar", "message": EmailMessage.message}.items():
        mail = EmailMessage("S", "text", None, [ANN], headers=HEADERS)
        setattr(mail, name, value)
        left.append(mail)

    assert [direct.write(mail, eight_bit=True) for mail in left] == [None] * len(left)
    settings.DEFAULT_CHARSET = "latin-1"
    assert direct.write(EmailMessage("S", "text", None, [ANN], headers=HEADERS), eight_bit=True) is None
