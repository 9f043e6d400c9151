"""`export_recipient` and `erase_recipient`: what is stored about an address."""

import json
import threading
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import erasure, pipeline
from mailer.email import Stream
from mailer.emails import TestEmail
from mailer.feedback import events
from mailer.feedback.report import Report
from mailer.mime import serializer
from mailer.models import DeliveryAttempt, DeliveryEvent, Message, Outcome, Payload, State, Suppression, What
from mailer.recipients import suppression
from mailer.recipients.subscriptions import Membership, is_unsubscribed, resubscribe
from tests.mailer.kinds import Plain, Shared
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def settle(message: Message, **fields: object) -> Message:
    sent = {"state": State.SENT, "settled_at": Now(), "attempts": 1, "reason": "250 ok for ann@example.com"}
    Message.objects.filter(pk=message.pk).update(**sent | fields)
    DeliveryAttempt.objects.create(
        message=message,
        number=1,
        transport="transport",
        outcome=Outcome.ACCEPTED,
        code="250",
        response="for Ann, a***@example.com",
    )
    message.refresh_from_db()
    return message


def built(*recipients: str) -> Message:
    first, *others = recipients
    mail = EmailMessage("Dear Ann", "Dear ann@example.com", None, [first], bcc=others)
    return outbox.enqueue_built(mail)


def report(recipient: str, text: str = "", **about: Any) -> None:
    at = timezone.now()
    events.store(events.BOUNCE_MAIL, [Report(uuid4().hex, What.BOUNCED, at, recipient, text=text, **about)])
    events.apply_due()


def everything() -> str:
    """Every text in the tables of the mailer, in lower case, with stored bodies unpacked."""
    tables = ("mailer_message", "mailer_deliveryattempt", "mailer_deliveryevent", "mailer_suppression")
    with connection.cursor() as cursor:
        rows = []
        for table in tables:
            cursor.execute(f"SELECT t::text FROM {table} AS t")  # noqa: S608
            rows += [row for (row,) in cursor.fetchall()]
    return "\n".join([*rows, *(str(message.body) for message in map(_load, Payload.objects.all()))]).lower()


def _load(payload: Payload) -> EmailMessage:
    return serializer.load(bytes(payload.document))


def test_a_report_that_spells_the_domain_in_another_way_is_erased_too() -> None:
    report("Ann@Bücher.example", message_id="<not-found-yet@example.com>")
    erasure.erase(erasure.find("ann@xn--bcher-kva.example", lambda _: None), lambda _: None)
    assert not DeliveryEvent.objects.exists()


def test_a_report_that_is_applied_at_the_same_moment_does_not_bring_the_address_back(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = settle(outbox.enqueue(Plain(user)))
    holding, is_erased, find = erasure.find(user.email, lambda _: None), threading.Event(), events._message_of

    def erase() -> None:
        erasure.erase(holding, lambda _: is_erased.set())
        connection.close()

    def erase_meanwhile(event: DeliveryEvent) -> Message | None:
        found = find(event)
        thread.start()
        assert is_erased.wait(30)
        return found

    thread = threading.Thread(target=erase)
    monkeypatch.setattr(events, "_message_of", erase_meanwhile)
    report(user.email, "550 no such user", message=message.pk)
    thread.join()
    assert message.events.values_list("recipient", "text").get() == ("", "")


def test_nothing_of_the_person_is_left_but_the_rows_are(user: User) -> None:
    user.email = "Ann@example.com"
    settle(outbox.enqueue(Plain(user)), subject="Dear Ann", key="welcome:ann@example.com")
    settle(built("ann@example.com"))
    settle(
        built("bob@example.com", "ANN@example.com"),
        answers={"ANN@example.com": "accepted", "bob@example.com": "accepted"},
    )
    settle(outbox.enqueue(TestEmail("carol@example.com", "ann@example.com")))
    suppression.suppress("ann@example.com", "550 no ann@example.com", Message.objects.first())
    report("ann@example.com", "550 no ANN@example.com", message=Message.objects.earliest("pk").pk)
    report("Ann@Example.com", message_id="<of-nobody@example.com>")
    waiting = outbox.enqueue(Plain(user))

    assert "4 that are settled erased" in run("erase_recipient", "ann@example.com", "--dry-run")
    assert "ann@example.com" in everything()
    said = run("erase_recipient", "ANN@example.com")

    assert "ann" not in everything().replace("tests.plain", "")
    assert said == "1 message cancelled, 5 messages erased, 1 suppression kept as a hash.\n"
    assert Message.objects.count() == 5
    waiting.refresh_from_db()
    assert waiting.state == State.CANCELLED
    assert Message.objects.filter(recipient="bob@example.com", answers={"bob@example.com": "accepted"}).exists()
    assert User.objects.filter(pk=user.pk).exists()


def test_other_peoples_mail_is_kept_without_the_person(user: User) -> None:
    invitation = outbox.enqueue(TestEmail("carol@example.com", "a colleague"), key="invite:ann@example.com")
    settle(invitation, subject="ann@example.com invites you", reason="retried by ann@example.com")
    question = EmailMessage("A question", "She wrote to us", None, ["help@example.com"], reply_to=["Ann@example.com"])
    settle(outbox.enqueue_built(question), reason="")
    answered = settle(built("bob@example.com", "Ann@example.com"), reason="", payload=None)
    Message.objects.filter(pk=answered.pk).update(
        answers={"Ann@example.com": "accepted", "bob@example.com": "accepted"}
    )
    Payload.objects.filter(messages=None).delete()  # its retention ended

    run("erase_recipient", "ann@example.com")

    assert "ann@" not in everything()
    invitation.refresh_from_db()
    assert (invitation.recipient, invitation.arguments["sent_by"]) == ("carol@example.com", "a colleague")
    assert Message.objects.get(pk=answered.pk).answers == {"bob@example.com": "accepted"}


@pytest.mark.parametrize(
    "text",
    ["Ann@Bücher.example", "Hello\nann@xn--bcher-kva.example", "'ann@bücher.example'", "?to=ann%40bücher.example"],
)
def test_every_spelling_in_a_text_is_found(text: str) -> None:
    settle(outbox.enqueue(TestEmail("carol@example.com", text)))

    run("erase_recipient", "ann@bücher.example")

    assert "cher" not in everything()


def test_mail_that_waits_for_a_copy_too_is_not_cancelled(user: User) -> None:
    message = outbox.enqueue(Shared(user, copies=["bob@example.com"]))
    alone = outbox.enqueue(Shared(user))

    with pytest.raises(CommandError, match=f"Left: message {message.pk} is queued for other recipients too."):
        run("erase_recipient", "ann@example.com")

    message.refresh_from_db()
    alone.refresh_from_db()
    assert (message.state, alone.state) == (State.QUEUED, State.CANCELLED)


def test_a_message_that_is_retried_meanwhile_is_not_erased(user: User) -> None:
    message = settle(outbox.enqueue(Plain(user)), state=State.FAILED)
    holding = erasure.find("ann@example.com", lambda _: None)
    outbox.retry(Message.objects.all(), reason="again")

    erasure._erase_batch(frozenset([message.pk]), holding)

    assert Message.objects.get().recipient == "ann@example.com"


def test_a_message_whose_receivers_were_not_called_is_left_and_named(user: User) -> None:
    message = settle(outbox.enqueue(Plain(user)), notify_at=Now())

    with pytest.raises(CommandError, match=f"Left: message {message.pk} is settled, and receivers"):
        run("erase_recipient", "ann@example.com")

    assert Message.objects.get().recipient == "ann@example.com"


def test_a_body_that_another_message_still_needs_is_kept() -> None:
    sent = settle(built("bob@example.com", "ann@example.com"))
    outbox.resend(sent)

    with pytest.raises(CommandError, match="queued for other recipients too"):
        run("erase_recipient", "ann@example.com")

    assert Message.objects.get(resent_from=sent).payload == Payload.objects.get()


def test_an_erased_address_that_was_suppressed_is_not_written_to_again(user: User, smtp: Sink) -> None:
    suppression.suppress("ann@example.com", "550 unknown")
    run("erase_recipient", "ann@example.com")
    assert not Suppression.objects.filter(address="ann@example.com").exists()

    message = outbox.enqueue(Plain(user))
    several = outbox.enqueue_built(EmailMessage("Hi", "text", None, ["ann@example.com"], cc=["bob@example.com"]))
    pipeline.deliver(message.pk)
    pipeline.deliver(several.pk)

    message.refresh_from_db()
    assert message.state == State.SUPPRESSED
    assert [received.recipients for received in smtp.received] == [["bob@example.com"]]


def test_a_hash_is_found_by_a_key_that_was_replaced_and_ends_when_the_person_resubscribes(settings: Settings) -> None:
    news = Membership("ann@example.com", Stream("news", "News"))
    suppression.suppress("ann@example.com", "unsubscribed", stream="news")
    suppression.erase("ann@example.com")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-key-" * 5

    assert suppression.reason_for("Ann@example.com", "news")
    assert suppression.reason_for("ann@example.com") is None
    assert is_unsubscribed(news)
    resubscribe(news)
    assert not is_unsubscribed(news)


def test_mail_that_is_being_sent_or_waits_for_others_too_is_left_and_named(user: User) -> None:
    sending = outbox.enqueue(Plain(user))
    Message.objects.filter(pk=sending.pk).update(state=State.SENDING, claimed_until=Now() + timedelta(hours=1))
    several = built("bob@example.com", "ann@example.com")

    with pytest.raises(CommandError) as caught:
        run("erase_recipient", "ann@example.com")

    assert caught.value.returncode == 1
    assert f"Left: message {sending.pk} is being sent." in str(caught.value)
    assert f"Left: message {several.pk} is queued for other recipients too." in str(caught.value)
    assert Message.objects.filter(recipient="ann@example.com").exists()
    assert Payload.objects.exists()


def test_an_erased_message_cannot_be_sent_again(user: User, smtp: Sink) -> None:
    message = settle(outbox.enqueue(Plain(user)), state=State.FAILED)
    run("erase_recipient", "ann@example.com")

    outbox.retry(Message.objects.all(), reason="again")
    pipeline.deliver(message.pk)

    message.refresh_from_db()
    assert (message.state, message.reason) == (State.CANCELLED, "its recipient was erased")
    assert smtp.received == []


def test_the_export_has_messages_attempts_bodies_suppressions_and_accounts(user: User, tmp_path: Path) -> None:
    settle(outbox.enqueue(Plain(user)))
    settle(
        built("bob@example.com", "ann@example.com"),
        answers={"ann@example.com": "accepted", "bob@example.com": "refused"},
    )
    settle(built("eve@example.com"))
    suppression.suppress("ann@example.com", "550 unknown")
    shared = Message.objects.get(recipient="bob@example.com")
    report("ANN@example.com", "says Ann's server", message=shared.pk)
    report("bob@example.com", "says Bob's server", message=shared.pk)

    text = run("export_recipient", "Ann@EXAMPLE.com")
    export = json.loads(text)

    own, copy, mention = sorted(export["messages"], key=lambda message: message["id"])
    assert (export["address"], export["accounts"]) == ("ann@example.com", [{"model": "accounts.User", "id": user.pk}])
    assert export["suppressions"][0]["reason"] == "550 unknown"
    assert (own["recipient"], own["attempts"][0]["code"]) == ("ann@example.com", "250")
    assert (copy["answer"], copy["body"]["text"], copy["body"]["other_recipients"]) == (
        "accepted",
        "Dear ann@example.com",
        1,
    )
    assert [each["text"] for each in copy["reports"]] == ["says Ann's server"]
    assert (mention["recipient"], mention["body"]) == ("another address", None)
    assert "bob@" not in text
    assert "eve@" not in text

    (tmp_path / "ann.json").touch(mode=0o644)
    run("export_recipient", "ann@example.com", "--output", str(tmp_path / "ann.json"))
    assert json.loads((tmp_path / "ann.json").read_text())["messages"] == export["messages"]
    assert (tmp_path / "ann.json").stat().st_mode & 0o077 == 0


def test_the_export_has_no_address_of_other_people(user: User) -> None:
    settle(outbox.enqueue(Plain(user)), reason="retried by operator@example.com")
    carol = User.objects.create_user("carol@example.com")
    settle(outbox.enqueue(Shared(carol, copies=["ann@example.com", "bob@example.com"])))

    text = run("export_recipient", "ann@example.com")

    assert [message["arguments"].get("copies") for message in json.loads(text)["messages"]] == [
        ["ann@example.com", "another address"],
        None,
    ]
    for other in ("operator@", "carol@", "bob@"):
        assert other not in text


@pytest.mark.parametrize("command", ["erase_recipient", "export_recipient"])
@pytest.mark.parametrize("part", ["", "ann", "@example.com", "a@b.example, c@d.example"])
def test_a_part_of_an_address_would_concern_others_and_is_refused(user: User, command: str, part: str) -> None:
    with pytest.raises(CommandError, match="is not an address; write it whole"):
        run(command, part)


def test_an_address_that_is_the_end_of_another_one_does_not_concern_that(user: User) -> None:
    settle(outbox.enqueue(TestEmail("joann@example.com", "x-ann@example.com.au")))
    settle(outbox.enqueue(Plain(user)))

    run("erase_recipient", "ann@example.com")

    assert Message.objects.filter(recipient="joann@example.com", arguments__sent_by="x-ann@example.com.au").exists()


@pytest.mark.parametrize("command", ["erase_recipient", "export_recipient"])
def test_an_address_of_which_nothing_is_stored_is_one_sentence(user: User, command: str) -> None:
    with pytest.raises(CommandError, match=r"Nothing is stored about 'eve@example\.com'"):
        run(command, "eve@example.com")


def test_a_folder_that_does_not_exist_is_one_sentence(user: User) -> None:
    outbox.enqueue(Plain(user))

    with pytest.raises(CommandError, match=r"/no/such/folder\.json: No such file or directory"):
        run("export_recipient", "ann@example.com", "--output", "/no/such/folder.json")
