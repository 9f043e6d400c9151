"""The JSON API."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.local.inbox.conftest import Start
from tests.local.inbox.running_inbox import RunningInbox


def test_messages_are_listed_newest_first(inbox: RunningInbox) -> None:
    source = b"Subject: api-list\r\nFrom: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\n"
    older, newer = inbox.send(source), inbox.send(source)
    first, second = inbox.found("api-list")
    assert (first["id"], second["id"]) == (newer, older)
    assert timedelta() < datetime.now(UTC) - datetime.fromisoformat(first["date"]) < timedelta(minutes=1)
    del first["date"]
    assert first == {
        "id": newer,
        "from": "a@x.org",
        "envelope_from": "shop@example.com",
        "to": ["ann@example.com"],
        "subject": "api-list",
        "size": len(source),
        "message_id": "<1@x.org>",
    }


def test_one_message_has_its_headers_text_html_and_attachments(inbox: RunningInbox) -> None:
    source = (
        b"Subject: whole\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\n\r\nhello\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>hello\r\n"
        b"--b\r\nContent-Type: image/gif\r\nContent-ID: <c>\r\n"
        b"Content-Disposition: attachment; filename=a.gif\r\n\r\nGIF\r\n--b--\r\n"
    )
    message = inbox.ask(f"/api/messages/{inbox.send(source)}").json
    assert message["headers"] == [["Subject", "whole"], ["Content-Type", 'multipart/mixed; boundary="b"']]
    assert (message["text"], message["html"]) == ("hello", "<p>hello")
    assert message["attachments"] == [
        {"number": 1, "filename": "a.gif", "content_type": "image/gif", "content_id": "c", "size": 3}
    ]


def test_delete_removes_all_messages(start: Start) -> None:
    inbox = start()
    inbox.send(b"")
    inbox.send(b"")
    assert inbox.ask("/api/messages", "DELETE").status == 200
    assert inbox.found() == []


def test_one_message_can_be_deleted(start: Start) -> None:
    inbox = start()
    gone, kept = inbox.send(b""), inbox.send(b"")
    assert inbox.ask(f"/api/messages/{gone}", "DELETE").status == 204
    assert inbox.ask(f"/api/messages/{gone}", "DELETE").status == 404
    assert [message["id"] for message in inbox.found()] == [kept]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
    ],
)
def test_a_page_of_another_site_cannot_delete(inbox: RunningInbox, headers: dict[str, str]) -> None:
    message_id = inbox.send(b"")
    assert inbox.ask("/api/messages", "DELETE", headers=headers).status == 403
    assert inbox.ask(f"/api/messages/{message_id}", "DELETE", headers=headers).status == 403
    assert inbox.ask(f"/api/messages/{message_id}").status == 200


@pytest.mark.parametrize("message_id", ["20200101T000000-000000-abcdef", "nonsense"])
def test_an_unknown_message_is_not_found(inbox: RunningInbox, message_id: str) -> None:
    answer = inbox.ask(f"/api/messages/{message_id}")
    assert (answer.status, answer.json) == (404, {"error": "There is no such message."})


def test_the_health_check_answers(inbox: RunningInbox) -> None:
    answer = inbox.ask("/healthz")
    assert (answer.status, answer.text) == (200, "ok\n")
