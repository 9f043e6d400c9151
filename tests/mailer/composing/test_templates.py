"""Templates → subject, text, HTML, in the recipient's language and time zone."""

from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mailer.composing.message import assemble
from mailer.composing.templates import Content, render
from mailer.email import Email, Recipient


class Note(Email):
    """Render the templates that the test writes into the folder."""

    template: ClassVar = "note"

    text: str = ""
    moment: str = ""

    def context(self) -> dict[str, Any]:
        return {"moment": datetime.fromisoformat(self.moment)} if self.moment else {}


@pytest.fixture
def folder(tmp_path: Path, settings: Any) -> Path:
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"DIRS": [tmp_path]}]
    (tmp_path / "note").mkdir()
    for name in ("subject.txt", "body.txt", "body.html"):
        (tmp_path / "note" / name).write_text("{{ text }}")
    return tmp_path / "note"


def test_a_mail_uses_the_recipients_language_and_time_zone(folder: Path) -> None:
    (folder / "subject.txt").write_text("{% load i18n %}{{ language }} {% translate 'Yes' %} {{ moment|date:'H:i' }}")
    note = Note("x", moment=datetime(2026, 11, 21, 12, tzinfo=UTC).isoformat())

    thai = render(note, Recipient("a@example.com", language="th", time_zone="Asia/Bangkok"))
    default_ = render(note, Recipient("a@example.com"))

    assert thai.subject == "th ใช่ 19:00"
    assert default_.subject == "en Yes 12:00"


@pytest.mark.parametrize(
    "name", ["Asia/Bangok", "Mars/Phobos", "../../etc/passwd", "Asia", "a" * 300, "ann@example.com", "\0"]
)
def test_a_time_zone_that_does_not_exist_is_logged_and_the_sites_is_used(folder: Path, name: str) -> None:
    (folder / "body.txt").write_text("{{ moment|date:'H:i' }} {{ recipient.time_zone }}")
    note = Note("x", moment=datetime(2026, 11, 21, 12, tzinfo=UTC).isoformat())

    with capture_logs() as logged:
        content = render(note, Recipient("a@example.com", time_zone=name))

    assert content.text == "12:00 None\n"
    assert [(line["event"], line["kind"]) for line in logged] == [("unknown time zone", note.kind)]
    assert "ann@" not in str(logged)


def test_a_time_zone_may_be_the_zone_itself(folder: Path) -> None:
    (folder / "body.txt").write_text("{{ moment|date:'H:i' }}")
    zone: Any = ZoneInfo("Asia/Bangkok")  # what a field for time zones holds

    content = render(Note(moment="2026-11-21T12:00:00+00:00"), Recipient("a@example.com", time_zone=zone))

    assert content.text == "19:00\n"


@given(name=st.text(max_size=80))
@example(name='" \x80')
@example(name="Eve <eve@example.com>,")
@example(name="\r\nBcc: eve@example.com")
def test_any_name_makes_a_message_with_one_recipient_and_no_other_header(name: str) -> None:
    recipient = Recipient("ann@example.com", name=name)
    content = Content("subject", "text\n", "<p>html</p>")
    raw = assemble(Note(), recipient, content, message_id="<1@example.com>").message().as_bytes()

    parsed = message_from_bytes(raw, policy=default)
    assert [a.addr_spec for a in parsed["To"].addresses] == ["ann@example.com"]
    assert parsed["Message-ID"] == "<1@example.com>"
    assert set(parsed.keys()) == {
        "Content-Type",
        "MIME-Version",
        "Subject",
        "From",
        "To",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "X-Entity-Ref-ID",
    }


def test_an_undefined_variable_is_named_without_the_rest_of_the_context(folder: Path) -> None:
    (folder / "body.txt").write_text("{{ greeting|default:salutation }}")

    with pytest.raises(LookupError, match=r"note/body.txt uses 'salutation', which is not defined") as caught:
        render(Note("the secret of a link"), Recipient("ann@example.com"))
    assert "secret" not in str(caught.value)
