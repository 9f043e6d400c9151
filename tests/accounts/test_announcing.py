"""One text to everybody who has an account and did not leave: to whom, once, in which words, and by the command."""

import sys
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accounts import announcing, deletion, email_change, links
from accounts.announcing import AlreadyAnnounced, announce
from accounts.emails import NEWS
from accounts.models import Announcement, EmailChange, User
from mailer import outbox
from mailer.models import Message, Queue, State, Suppression
from mailer.recipients import subscriptions
from mailer.recipients.subscriptions import Membership
from tests.accounts.steps import ANN, deliver_all, log_in, member
from tests.at_once import at_once
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)

SUBJECT, BODY = "Fewer e-mails", "You choose now.\n\nLook into your profile, <b>Ann</b> & all."


def readers() -> set[str]:
    return set(Message.objects.filter(kind="accounts.Announce").values_list("recipient", flat=True))


def command(*options: str) -> str:
    """What the command says, in a pipe."""
    out = StringIO()
    call_command("announce", "--subject", SUBJECT, "--text", BODY, *options, stdout=out)
    return out.getvalue()


def test_everybody_with_an_active_verified_account_gets_it_who_did_not_leave() -> None:
    for name in ("ann", "bob", "cid", "dee", "eve"):
        member(f"{name}@example.com")
    User.objects.filter(email="bob@example.com").update(is_active=False)
    User.objects.filter(email="cid@example.com").update(email_verified_at=None)
    subscriptions.unsubscribe(Membership("dee@example.com", NEWS))
    Suppression.objects.create(address="eve@example.com", reason="550")

    assert announce(SUBJECT, BODY).readers == 1
    assert readers() == {ANN}
    assert set(Message.objects.values_list("queue", "state")) == {(Queue.BULK, State.QUEUED)}


def test_each_reads_it_in_her_language_with_a_way_out(smtp: Sink) -> None:
    member(ANN)
    member("thai@example.com")
    User.objects.filter(email="thai@example.com").update(language="th")
    announce(SUBJECT, BODY)
    deliver_all()

    received = {r.recipients[0]: r for r in smtp.received}
    english, thai = received[ANN], received["thai@example.com"]
    assert english.parsed["Subject"] == SUBJECT
    assert english.parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert english.parsed["Feedback-ID"].startswith("accounts.Announce:news:")
    text = " ".join(english.part("plain").split())
    assert "You choose now. Look into your profile, <b>Ann</b> & all." in text
    assert "<p>" not in text
    assert "Look into your profile, &lt;b&gt;Ann&lt;/b&gt; &amp; all." in english.part("html")
    assert "because you have an account with ann@example.com" in text
    assert 'lang="th"' in thai.part("html")
    assert "เพราะคุณมีบัญชี" in thai.part("plain")


def test_the_text_stands_in_the_database_once() -> None:
    for name in ("ann", "bob"):
        member(f"{name}@example.com")

    announcement = announce(SUBJECT, BODY)

    assert Announcement.objects.get().body == BODY
    for message in Message.objects.all():
        assert message.arguments.keys() == {"announcement", "reader"}
        assert message.arguments["announcement"] == announcement.pk


@pytest.mark.parametrize(
    ("change", "state"),
    [({"is_active": False}, State.CANCELLED), ({"email_verified_at": None}, State.CANCELLED), ({}, State.SENT)],
)
def test_whoever_is_no_reader_any_more_when_it_is_due_gets_nothing(
    smtp: Sink, change: dict[str, object], state: State
) -> None:
    member()
    announce(SUBJECT, BODY)
    User.objects.update(**change)
    deliver_all()

    assert Message.objects.get().state == state


def test_who_leaves_while_it_waits_gets_nothing(smtp: Sink) -> None:
    member()
    announce(SUBJECT, BODY)
    subscriptions.unsubscribe(Membership(ANN, NEWS))
    deliver_all()

    message = Message.objects.get()
    assert (message.state, message.reason) == (
        State.SUPPRESSED,
        "the address is suppressed: unsubscribed from the stream 'news'",
    )
    assert smtp.received == []


def test_a_deleted_account_gets_nothing_and_takes_nobody_elses_mail_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    leaver = member()
    member("bob@example.com")
    write = outbox._new_message

    def delete_meanwhile(*args: object, **options: object) -> Message:
        row = write(*args, **options)  # type: ignore[arg-type]
        if row.recipient == "bob@example.com":  # the last one; Ann's is on its way into the table
            at_once([lambda: deletion.delete(leaver)])
        return row

    monkeypatch.setattr(outbox, "_new_message", delete_meanwhile)
    announce(SUBJECT, BODY)
    monkeypatch.undo()

    assert not User.objects.filter(email=ANN).exists()
    deliver_all()
    states = dict(Message.objects.filter(kind="accounts.Announce").values_list("recipient", "state"))
    assert states == {ANN: State.CANCELLED, "bob@example.com": State.SENT}


def test_the_same_text_is_refused_and_nobody_gets_it_twice() -> None:
    member()
    first = announce(SUBJECT, BODY)
    with pytest.raises(AlreadyAnnounced) as refused:
        announce(SUBJECT, BODY)

    assert refused.value.args == (first,)
    assert Message.objects.count() == Announcement.objects.count() == 1
    assert announce(SUBJECT, BODY, again=True).is_repeat
    assert announce(SUBJECT, BODY, again=True).readers == 1
    assert announce(SUBJECT, f"{BODY} And more.").readers == 1


def test_of_two_at_the_same_moment_one_writes() -> None:
    for number in range(50):
        member(f"reader-{number}@example.com")

    announced, refused = at_once([lambda: announce(SUBJECT, BODY)] * 4)

    assert (len(announced), {type(error) for error in refused}, len(refused)) == (1, {AlreadyAnnounced}, 3)
    assert Message.objects.count() == 50


def test_if_anything_goes_wrong_nobody_gets_it() -> None:
    for number in range(5):
        member(f"reader-{number}@example.com")

    def pull_the_plug(written: int) -> None:
        assert Message.objects.count() == 5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        announce(SUBJECT, BODY, progress=pull_the_plug)

    assert (Message.objects.count(), Announcement.objects.count()) == (0, 0)
    assert announce(SUBJECT, BODY).readers == 5


# The command.


def test_the_command_says_how_many_and_writes_to_them() -> None:
    for name in ("ann", "bob", "cid"):
        member(f"{name}@example.com")
    User.objects.filter(email="bob@example.com").update(language="th")
    subscriptions.unsubscribe(Membership("cid@example.com", NEWS))

    said = command()

    assert "2 readers: 1 in English, 1 in ไทย." in said
    assert '1 more left the stream "news"' in said
    assert f"2 mails are enqueued as announcement {Announcement.objects.get().pk}" in said
    assert readers() == {ANN, "bob@example.com"}


def test_a_dry_run_writes_nothing() -> None:
    member()

    assert command("--dry-run").endswith("Nothing was written.\n")
    assert not Message.objects.exists()
    assert not Announcement.objects.exists()


def test_one_language_alone() -> None:
    member()
    member("thai@example.com")
    User.objects.filter(email="thai@example.com").update(language="th")

    assert "1 readers: 1 in ไทย." in command("--language", "th")
    assert readers() == {"thai@example.com"}
    assert Announcement.objects.get().language == "th"


def test_a_second_run_is_refused_with_a_sentence() -> None:
    member()
    command()

    for option in ("--no-input", "--dry-run", "--language=en"):
        with pytest.raises(CommandError, match=r"was announced before: announcement \d+ of .*, to 1 readers\. Nothing"):
            command(option)
    assert Message.objects.count() == 1
    command("--again")
    assert Message.objects.count() == 2


def test_a_copy_of_the_text_is_known_whatever_its_lines_end_with(tmp_path: Path) -> None:
    member()
    command()
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf\r\n" + BODY.replace("\n", " \r\n").encode() + b"\r\n\r\n")

    with pytest.raises(CommandError, match="announced before"):
        call_command("announce", "--subject", f" {SUBJECT} ", "--file", str(file))


def test_the_text_comes_from_a_file_or_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member()
    file = tmp_path / "text.txt"
    file.write_text("สวัสดี\n\nOne.")
    call_command("announce", "--subject", "File", "--file", str(file), stdout=StringIO())
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"Two.\n")))
    call_command("announce", "--subject", "Pipe", "--file", "-", stdout=StringIO())

    assert dict(Announcement.objects.values_list("subject", "body")) == {"File": "สวัสดี\n\nOne.", "Pipe": "Two."}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--subject", "", "--text", "x"], "--subject: This field cannot be blank"),
        (["--subject", "x" * 201, "--text", "x"], "--subject: Ensure this value has at most 200 characters"),
        (["--subject", "a\nBcc: b@example.com", "--text", "x"], "--subject: write one line"),
        (["--subject", "a\u2028b", "--text", "x"], "--subject: write one line"),
        (["--subject", "a\0b", "--text", "x"], "There is a NUL character"),
        (["--subject", "x", "--text", " \n "], "--text or --file: This field cannot be blank"),
        (["--subject", "x", "--text", "a\0"], "There is a NUL character"),
        (["--subject", "x", "--file", "/no/such/file"], "/no/such/file cannot be read: No such file"),
        (["--subject", "x", "--file", "/"], "/ cannot be read: Is a directory"),
        (["--subject", "x", "--file", "{latin-1}"], "is not a text in UTF-8"),
        (["--text", "x"], "--subject"),
        (["--subject", "x"], "--text --file is required"),
        (["--subject", "x", "--text", "x", "--language", "xx"], "invalid choice"),
        (["--subject", "x", "--text", "x"], "There is nobody to write to"),
    ],
)
def test_what_cannot_be_announced_is_refused_with_a_sentence(
    options: list[str], complaint: str, tmp_path: Path
) -> None:
    file = tmp_path / "latin-1"
    file.write_bytes("Grüße".encode("latin-1"))

    with pytest.raises(CommandError) as refused:
        call_command("announce", *(option.replace("{latin-1}", str(file)) for option in options), stdout=StringIO())

    assert complaint in str(refused.value)
    assert not Announcement.objects.exists()


class Terminal(StringIO):
    """Somebody sits there."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    """Lets somebody type an answer; returns what she sees beside the command's sentences."""

    def sit_down(answer: str) -> Terminal:
        screen = Terminal()
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        monkeypatch.setattr(sys, "stderr", screen)
        return screen

    return sit_down  # type: ignore[return-value]


def test_on_a_terminal_it_asks_first_and_shows_how_far_it_is(terminal: Callable[..., Terminal]) -> None:
    for number in range(3):
        member(f"reader-{number}@example.com")

    screen = terminal("n\n")
    with pytest.raises(CommandError, match="Nothing was written"):
        command()
    assert "Write to them? [y/N]" in screen.getvalue()
    assert not Announcement.objects.exists()

    screen = terminal("y\n")
    command()
    assert "100%" in screen.getvalue()
    assert Message.objects.count() == 3


def test_on_a_terminal_it_asks_nothing_if_it_is_told_so(terminal: Callable[..., Terminal]) -> None:
    member()
    screen = terminal("")

    command("--no-input")

    assert "Write to them?" not in screen.getvalue()
    assert Message.objects.count() == 1


def test_in_a_pipe_there_is_neither_a_question_nor_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    member()
    command()

    assert "100%" not in "".join(capsys.readouterr())


# The profile and the admin.


def test_a_person_leaves_and_returns_in_her_profile() -> None:
    member()
    browser = log_in()
    assert "News" in browser.get(reverse("profile")).content.decode()

    page = browser.post(reverse("choose_stream"), {"stream": "news"}, follow=True).content.decode()
    assert "You get these e-mails no more." in page
    assert 'name="return"' in page
    assert subscriptions.unsubscribed_streams(ANN) == {"news"}

    page = browser.post(reverse("choose_stream"), {"stream": "news", "return": "1"}, follow=True).content.decode()
    assert "You get these e-mails again." in page
    assert subscriptions.unsubscribed_streams(ANN) == set()


def test_what_a_person_left_stays_left_when_her_address_changes() -> None:
    user = member()
    subscriptions.unsubscribe(Membership(ANN, NEWS))
    email_change.request(user, "new@example.com")
    change = EmailChange.objects.get()

    code = links.code(links.CONFIRM_CHANGE, links.row_of_change(change))
    assert email_change.confirm(change.pk, code, password=None).state is email_change.ChangeState.DONE

    assert list(announcing.everybody().values_list("email", flat=True)) == ["new@example.com"]
    assert not announcing.readers().exists()


@pytest.mark.parametrize("data", [{}, {"stream": ""}, {"stream": "no-such"}, {"stream": "news\0"}])
def test_a_stream_that_is_none_changes_nothing(data: dict[str, str]) -> None:
    member()
    Suppression.objects.create(address=ANN, reason="550")

    for more in ({}, {"return": "1"}):
        assert log_in().post(reverse("choose_stream"), data | more).status_code == 302
    assert list(Suppression.objects.values_list("stream", flat=True)) == [""]


def test_who_is_not_logged_in_chooses_for_nobody() -> None:
    answer = Client().post(reverse("choose_stream"), {"stream": "news", "address": ANN})

    assert answer["Location"].startswith(reverse("login"))
    assert log_in().get(reverse("choose_stream")).status_code in (302, 405)
    assert not Suppression.objects.exists()


def test_announcements_are_read_only_in_the_admin() -> None:
    member()
    announcement = announce(SUBJECT, BODY)
    admin = Client()
    admin.force_login(User.objects.create_superuser("root@example.com", "x"))
    page = reverse("admin:accounts_announcement_change", args=[announcement.pk])

    assert SUBJECT in admin.get(reverse("admin:accounts_announcement_changelist")).content.decode()
    assert "You choose now." in admin.get(page).content.decode()
    assert admin.post(page, {"body": "other"}).status_code == 403
    assert admin.post(page.replace("change", "delete"), {"post": "yes"}).status_code == 403
