"""`manage.py read_bounces`: a mail from a pipe, from files, or a mailbox; what it answers to the mail server that runs it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from mailer.models import DeliveryEvent
from mailer.transports.verp import envelope_sender
from tests.environment import ENVIRONMENT
from tests.mailer.feedback.test_bounces import FILES, NO_BOUNCES
from tests.servers import free_port

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]
ROOT = Path(__file__).parents[3]
OURS = b"bounces+12345-s3cr3t=unknown-verp=remote.example@postcommit.example"


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("read_bounces", *arguments, stdout=out)
    return out.getvalue()


def pipe(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> io.BytesIO:
    stdin = io.BytesIO(raw)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    return stdin


def about() -> list[object]:
    return list(DeliveryEvent.objects.values_list("about__message", flat=True))


def test_a_mail_from_a_pipe_is_stored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        pipe(monkeypatch, FILES["postfix-three-recipients"])
        assert run() == "1 mail read, 4 reports stored.\n"

    assert DeliveryEvent.objects.count() == 4


def test_all_of_a_large_mail_is_taken_from_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail server takes a closed pipe for a failure, and would send the mail again."""
    stdin = pipe(monkeypatch, FILES["postfix-full"] + b"z" * 3_000_000)

    assert run() == "1 mail read, 1 report stored.\n"
    assert stdin.tell() > 3_000_000


def test_what_is_no_bounce_is_done_with(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, NO_BOUNCES["vacation"])

    assert run() == "1 mail read, 0 reports stored.\n"
    assert not DeliveryEvent.objects.exists()


@pytest.mark.parametrize("way", ["header", "option", "variable"])
def test_the_bounce_address_names_the_message(way: str, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.POSTCOMMIT = {"BOUNCE_ADDRESS": "bounces@postcommit.example"}
    ours, raw = envelope_sender(42), FILES["postfix-unknown-verp"]
    if way == "header":
        raw = raw.replace(OURS, ours.encode())
    if way == "variable":
        monkeypatch.setenv("ORIGINAL_RECIPIENT", ours)
    pipe(monkeypatch, raw)

    run(*(["--to", ours] if way == "option" else []))

    assert about() == [42]


def test_a_forged_token_names_no_message(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.POSTCOMMIT = {"BOUNCE_ADDRESS": "bounces@postcommit.example"}
    forged = envelope_sender(42).replace("+42-", "+43-")
    pipe(monkeypatch, FILES["postfix-unknown-verp"].replace(OURS, forged.encode()))

    run("--to", forged)

    assert about() == [None]


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in "postfix-full", "qmail":
        (tmp_path / "folder" / f"{name}.eml").write_bytes(FILES[name])
    (tmp_path / "one").write_bytes(FILES["yahoo-arf"])

    assert run(str(tmp_path / "folder"), str(tmp_path / "one")) == "3 mails read, 4 reports stored.\n"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        run(str(tmp_path / "missing.eml"))


def test_nothing_to_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    with pytest.raises(CommandError, match="Give it a mail"):
        run()
    with pytest.raises(CommandError, match="POSTCOMMIT_BOUNCE_MAILBOX is not set"):
        run("--imap")


def test_a_mailbox_that_is_away_is_tried_again(settings: Settings) -> None:
    pytest.importorskip("imapclient")
    settings.POSTCOMMIT = {"BOUNCE_MAILBOX": f"imap://u:secret@127.0.0.1:{free_port()}/"}

    with pytest.raises(CommandError, match="The mailbox cannot be read: Connection refused") as raised:
        run("--imap")
    assert raised.value.returncode == os.EX_TEMPFAIL


def test_while_the_database_is_away_the_mail_server_keeps_the_mail() -> None:
    """75 is EX_TEMPFAIL (sysexits.h)."""
    away = ENVIRONMENT | {"DATABASE_URL": f"postgres://nobody@127.0.0.1:{free_port()}/none"}

    result = subprocess.run(
        [sys.executable, "manage.py", "read_bounces"],
        input=FILES["postfix-full"],
        capture_output=True,
        env=os.environ | away,
        cwd=ROOT,
        check=False,
    )

    assert result.returncode == 75
    assert b"The database does not answer" in result.stderr
    assert b"Traceback" not in result.stderr
