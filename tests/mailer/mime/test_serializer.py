"""A message that Django built is stored as a document and loaded again without losing a byte."""

import json
import zlib
from collections.abc import Callable
from email import policy
from email.message import MIMEPart
from typing import Any

import pytest
from django.core.mail import EmailAlternative, EmailAttachment, EmailMessage, EmailMultiAlternatives
from django.utils import translation
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django import Settings

from mailer.attachments import TooLarge
from mailer.email import UnknownKind
from mailer.mime import encoding, serializer
from tests.mailer.mime.unusual_mail import (
    ANN,
    BOB,
    FOR_PROVIDERS,
    PNG,
    SHAPES,
    AlwaysCopied,
    Signed,
    a_message,
    as_sent,
    normalised,
)

with_more_time = effort(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For busy machines."""


def copy(message: EmailMessage) -> EmailMessage:
    return serializer.load(serializer.dump(message))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loaded_message_has_the_same_bytes(shape: str) -> None:
    message = SHAPES[shape]()

    assert as_sent(copy(message)) == as_sent(message)
    assert as_sent(copy(copy(message))) == as_sent(message)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loaded_message_has_the_same_recipients(shape: str) -> None:
    message, again = SHAPES[shape](), copy(SHAPES[shape]())

    for field in ("to", "cc", "bcc"):
        assert getattr(again, field) == [str(entry) for entry in getattr(message, field)]
    assert again.from_email == str(message.from_email)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loaded_message_can_have_other_line_ends(shape: str) -> None:
    message = SHAPES[shape]()

    bare = encoding.smtp_policy(eight_bit=True).clone(linesep="\n")
    sent, expected = (each.message(policy=bare).as_bytes() for each in (copy(message), message))
    assert normalised(sent) == normalised(expected)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=60)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
NAMES = st.from_regex(r"X-[A-Za-z]{1,20}", fullmatch=True)
LOCAL_PARTS = st.from_regex(r"[a-z]{1,20}(\.[a-z0-9]{1,9})?", fullmatch=True)
MAILBOXES = st.builds("{0}@{1}.example".format, LOCAL_PARTS, st.sampled_from(["shop", "bücher", "a-b.c"]))
FILES = st.one_of(
    st.builds(EmailAttachment, WORDS, st.binary(max_size=300), st.just("application/octet-stream")),
    st.builds(EmailAttachment, WORDS, TEXTS, st.sampled_from(["text/plain", "text/csv", "text/calendar"])),
    st.builds(EmailAttachment, st.none(), st.binary(max_size=300), st.just("image/png")),
)


@st.composite
def messages(draw: Callable[[st.SearchStrategy[Any]], Any]) -> EmailMessage:
    several = st.lists(MAILBOXES, max_size=3)
    message = EmailMultiAlternatives(
        draw(WORDS),
        draw(TEXTS),
        draw(MAILBOXES),
        [draw(MAILBOXES), *draw(several)],
        cc=draw(several),
        bcc=draw(several),
        reply_to=draw(several),
        headers=draw(st.dictionaries(NAMES, WORDS, max_size=3)),
        alternatives=draw(st.lists(st.builds(EmailAlternative, TEXTS, st.just("text/html")), max_size=2)),
    )
    message.attachments = draw(st.lists(FILES, max_size=3))
    return message


@with_more_time
@given(messages())
def test_any_message_that_django_can_build_is_loaded_unchanged(message: EmailMessage) -> None:
    try:
        expected = as_sent(message)
    except Exception as error:  # what Django cannot build cannot be stored
        with pytest.raises(type(error)):
            serializer.dump(message)
        return
    assert as_sent(copy(message)) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.dates()
    | st.datetimes().map(lambda moment: moment.replace(fold=0)) | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)  # fmt: skip


@with_more_time
@given(JSON)
def test_any_value_of_a_providers_option_is_loaded_unchanged(value: Any) -> None:
    message: Any = a_message()
    message.esp_extra = value

    again: Any = copy(message)
    assert again.esp_extra == value
    assert repr(again.esp_extra) == repr(value)  # repr differs for 1, True and 1.0, and for tuple and list


def test_only_the_anymail_attributes_that_were_set_are_stored() -> None:
    message = SHAPES["what anymail adds"]()
    del message.tags  # type: ignore[attr-defined]

    again: Any = copy(message)
    assert not hasattr(again, "tags")
    assert again.metadata["name"] == "Password"
    for name, value in FOR_PROVIDERS.items():
        if name not in ("tags", "metadata"):
            assert getattr(again, name) == value


def test_an_error_names_the_attribute_that_cannot_be_stored_without_its_content() -> None:
    message: Any = a_message()
    message.metadata = {"secret of ann": object()}
    with pytest.raises(TypeError, match=r"^metadata of the message holds a object, which cannot be stored$"):
        serializer.dump(message)


def test_a_lazy_string_is_translated_into_the_callers_language() -> None:
    with translation.override("de"):
        document = serializer.dump(SHAPES["lazy strings"]())

    assert serializer.load(document).subject == "Passwort"


def test_an_attached_mime_part_can_be_read_as_anymail_does() -> None:
    part = next(part for part in copy(SHAPES["ready parts"]()).attachments if isinstance(part, MIMEPart))

    assert part.get_content() == PNG
    assert part.get_filename() == "โลโก้.png"
    assert part.get_content_type() == "image/png"
    assert part.get_content_disposition() == "inline"
    assert not part.is_attachment()


# --- Classes that make their own MIME --------------------------------------------------------------------------------


def signed(**fields: Any) -> Signed:
    return Signed("A secret", "The text.", to=[ANN], alternatives=[("<p>Hi</p>", "text/html")], **fields)


def frozen(message: EmailMessage, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return its MIME, and make it return the same from now on."""
    made = message.message(policy=policy.SMTP)
    monkeypatch.setattr(message, "message", lambda **_: made)
    return bytes(made.as_bytes())


def test_prebuilt_mime_is_loaded_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    message = signed()
    mime = frozen(message, monkeypatch)

    again = copy(message)
    assert again.message(policy=policy.SMTP).as_bytes() == mime
    assert copy(again).message(policy=policy.SMTP).as_bytes() == mime
    assert again.message().as_bytes() == mime.replace(b"\r\n", b"\n")
    assert (again.subject, again.body, again.alternatives) == ("A secret", "The text.", [("<p>Hi</p>", "text/html")])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "source",
    [
        b"Subject:no space\r\nX-Odd:  \t two \r\n\t folded\r\nTo: a@b.example\r\n\r\nbody without an end",
        b"Content-Type: multipart/signed; boundary=b\r\nMessage-ID: <1@b.example>\r\n\r\npreamble\r\n--b\r\n\r\none\r\n--b--",
        b"Content-Type: multipart/mixed; boundary=never\r\n\r\nno part at all\r\n\r\n\r\n",
        b"Content-Transfer-Encoding: 8bit\r\n\r\nGr\xfc\xdfe, \xff\r\n.\r\n",
        b"A: 1\r\nnot a header at all\r\n\r\nbody\r\n",
        b"X-Long: " + b"x" * 990 + b"\r\nX-Long: twice\r\n\r\n",
    ],
)
def test_malformed_mime_is_loaded_unchanged(source: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    message = prebuilt(source, monkeypatch)

    assert copy(message).message(policy=policy.SMTP).as_bytes() == source


def prebuilt(source: bytes, monkeypatch: pytest.MonkeyPatch) -> Signed:
    class Prebuilt:
        def as_bytes(self) -> bytes:
            return source

    message = signed()
    monkeypatch.setattr(message, "message", lambda **_: Prebuilt())
    return message


def test_bare_line_feeds_become_crlf(monkeypatch: pytest.MonkeyPatch) -> None:
    message = prebuilt(b"Subject: A secret\r\nX-Own: 1\r\n\r\none\ntwo\r\n", monkeypatch)

    sent = copy(message).message(policy=policy.SMTP).as_bytes()
    assert sent == b"Subject: A secret\r\nX-Own: 1\r\n\r\none\r\ntwo\r\n"


def test_a_redirect_does_not_change_the_recipients_in_the_header_of_prebuilt_mime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = b"To: undisclosed-recipients:;\r\nSubject: A secret\r\n\r\nbody\r\n"
    again = copy(prebuilt(source, monkeypatch))

    again.extra_headers |= {"To": ANN, "Cc": BOB}  # as the transport does for a message that is sent to some of them
    assert again.message(policy=policy.SMTP).as_bytes() == source


def test_the_message_id_of_prebuilt_mime_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    message = signed()
    mime = frozen(message, monkeypatch)
    again = copy(message)
    own = serializer.message_id(again.extra_headers)
    assert own.encode() in mime

    again.extra_headers["Message-ID"] = "<another@example.com>"  # as a resend does
    assert again.message(policy=policy.SMTP).as_bytes() == mime.replace(own.encode(), b"<another@example.com>")


def test_changes_by_a_test_system_reach_the_header_of_prebuilt_mime(monkeypatch: pytest.MonkeyPatch) -> None:
    message = signed(headers={"X-Campaign": "5"})
    mime = frozen(message, monkeypatch)
    again = copy(message)

    again.subject = "[staging] A secret"
    again.extra_headers["X-Redirected-From"] = ANN

    changed = mime.replace(b"Subject: A secret", b"Subject: [staging] A secret")
    header, _, body = changed.partition(b"\r\n\r\n")
    expected = header + b"\r\nX-Redirected-From: ann@example.com\r\n\r\n" + body
    assert again.message(policy=policy.SMTP).as_bytes() == expected


def test_recipients_that_a_class_adds_are_in_the_envelope() -> None:
    message = AlwaysCopied("A subject", "The text.", to=[ANN], cc=[BOB])

    again = copy(message)
    assert again.recipients() == [ANN, BOB, "archive@example.com"]
    assert b"archive" not in as_sent(again)


# --- What is refused ----------------------------------------------------------------------------------------------------

REFUSED = {
    "line break in the subject": {"subject": "A\nBcc: eve@example.com"},
    "line break in a header": {"headers": {"X-Own": "a\r\nBcc: eve@example.com"}},
    "line break in an address": {"to": ["ann@example.com\nBcc: eve@example.com"]},
    "bcc as a header": {"headers": {"Bcc": "eve@example.com"}},
    "no address": {"to": ["ann example.com"]},
    "two addresses in one entry": {"to": [f"{ANN}, {BOB}"]},
    "a sender without an address": {"from_email": "a shop"},
    "an address that is too long": {"to": ["a" * 250 + "@example.com"]},
    "a copy to an address that is too long": {"bcc": ["a" * 250 + "@example.com"]},
    "a Message-ID that is too long": {"headers": {"message-id": f"<{'a' * 250}@example.com>"}},
    "a Message-ID with a NUL": {"headers": {"Message-ID": "<a\0b@example.com>"}},
    "a Message-ID that is not ASCII": {"headers": {"Message-ID": "<ä@example.com>"}},
    "an address with a NUL": {"to": ['"a\0b"@example.com']},
    "a lone surrogate in an address": {"to": ["ann@exampl\udce9.example.com"]},
    "no recipient": {"to": []},
    "only empty recipients": {"to": ["", None]},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_sent_is_refused_without_naming_addresses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        serializer.dump(a_message(**fields))
    if "headers" not in fields and "subject" not in fields:  # Django's own errors
        assert "example.com" not in str(refused.value)


def test_an_unknown_charset_is_refused() -> None:
    message = a_message()
    message.encoding = "klingon"
    with pytest.raises(LookupError):
        serializer.dump(message)


@pytest.mark.parametrize(
    "shape", ["plain", "alternatives", "files of every kind", "messages as files", "ready parts", "bytes as a body"]
)
def test_the_size_limit_counts_every_byte_of_bodies_and_files(shape: str, settings: Settings) -> None:
    message = SHAPES[shape]()
    with pytest.raises(TooLarge) as error:
        settings.POSTCOMMIT = {"MAX_MESSAGE_SIZE": "1"}
        serializer.dump(message)
    size = int(str(error.value).split()[5])

    settings.POSTCOMMIT = {"MAX_MESSAGE_SIZE": str(size)}
    assert serializer.dump(message)
    message.body += b"x" if isinstance(message.body, bytes) else "x"
    with pytest.raises(
        TooLarge, match=f"have {size + 1} bytes, more than the {size} of POSTCOMMIT_MAX_MESSAGE_SIZE; send a link"
    ):
        serializer.dump(message)


# --- Documents ----------------------------------------------------------------------------------------------------------


def test_a_document_is_compressed_json_with_a_version() -> None:
    document = serializer.dump(a_message(body="The same again. " * 1000))

    assert len(document) < 1000
    assert json.loads(zlib.decompress(document))["version"] == serializer.VERSION


def test_a_document_of_a_newer_release_is_refused() -> None:
    stored = json.loads(zlib.decompress(serializer.dump(a_message())))

    for newer in ({"version": serializer.VERSION + 1}, {"subject": {"hologram": "…"}}):
        with pytest.raises(UnknownKind):
            serializer.load(zlib.compress(json.dumps(stored | newer).encode()))
