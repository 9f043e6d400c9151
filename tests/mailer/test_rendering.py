"""Templates → subject, text, HTML with inlined CSS; nothing is fetched, nothing is escaped twice."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bs4 import BeautifulSoup
from hypothesis import example, given
from hypothesis import strategies as st

from mailer.email import Email, Recipient
from mailer.inlining import inline_css
from mailer.rendering import Content, build, render


class Note(Email):
    """Rendered from whatever the test puts into the folder."""

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


NASTY = [
    "<b>&\"'</b>",
    "{{ settings.SECRET_KEY }}{% debug %}",
    "{% include 'x' %}",
    "🎉 \u202e rtl",
    "line\r\nBcc: eve@example.com",
]


@pytest.mark.parametrize("text", NASTY)
def test_text_is_as_it_is_and_html_is_escaped(folder: Path, text: str) -> None:
    (folder / "body.html").write_text("<!DOCTYPE html><html><head></head><body><p>{{ text }}</p></body></html>")

    content = render(Note(text), Recipient("ann@example.com"))

    assert content.subject == " ".join(text.split())
    assert content.text == text.strip() + "\n"
    paragraph = BeautifulSoup(content.html, "html.parser").p
    assert paragraph is not None
    assert paragraph.get_text().replace("\r\n", "\n") == text.replace("\r\n", "\n")
    assert paragraph.find() is None


def test_the_recipients_language_and_time_zone(folder: Path) -> None:
    (folder / "subject.txt").write_text("{% load i18n %}{{ language }} {% translate 'Yes' %} {{ moment|date:'H:i' }}")
    note = Note("x", moment=datetime(2026, 11, 21, 12, tzinfo=UTC).isoformat())

    thai = render(note, Recipient("a@example.com", language="th", time_zone="Asia/Bangkok"))
    default_ = render(note, Recipient("a@example.com"))

    assert thai.subject == "th ใช่ 19:00"
    assert default_.subject == "en Yes 12:00"


def test_css_is_inlined_and_media_queries_stay() -> None:
    html = inline_css(
        "<!DOCTYPE html><html><head><style>p { color: rgb(1 2 3); } @media (max-width: 9px) { p { margin: 0 } }</style>"
        "</head><body><p>x</p></body></html>"
    )

    soup = BeautifulSoup(html, "html.parser")
    assert soup.p is not None
    assert "color: rgb(1 2 3)" in str(soup.p["style"]).replace(":rgb", ": rgb")
    assert soup.style is not None
    assert "max-width" in soup.style.text


@pytest.fixture
def requests_seen() -> Iterator[tuple[str, list[str]]]:
    """A web server that should never be asked, and what it was asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"p { color: red }")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def test_nothing_is_fetched_from_the_network_or_the_disk(requests_seen: tuple[str, list[str]], tmp_path: Path) -> None:
    url, seen = requests_seen
    (tmp_path / "x.css").write_text("p { color: green }")
    html = inline_css(
        f"<html><head><link rel=stylesheet href='{url}/link.css'><style>@import url({url}/import.css);"
        f"@import url(file://{tmp_path}/x.css);</style></head><body><p>x</p></body></html>"
    )

    assert seen == []
    assert "green" not in html


@given(name=st.text(max_size=80))
@example(name='" \x80')
@example(name="Eve <eve@example.com>,")
@example(name="\r\nBcc: eve@example.com")
def test_any_name_makes_a_message_with_one_recipient_and_no_other_header(name: str) -> None:
    recipient = Recipient("ann@example.com", name=name)
    raw = (
        build(Content("subject", "text\n", "<p>html</p>"), recipient, message_id="<1@example.com>").message().as_bytes()
    )

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
    }


def test_a_variable_that_is_not_there_is_named_without_the_rest_of_the_context(folder: Path) -> None:
    (folder / "body.txt").write_text("{{ greeting|default:salutation }}")

    with pytest.raises(LookupError, match=r"note/body.txt uses 'salutation', which is not there") as caught:
        render(Note("the secret of a link"), Recipient("ann@example.com"))
    assert "secret" not in str(caught.value)
