"""Each provider's requests through the real URL: who is believed, what is stored, and what the provider is told."""

import gc
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from anymail import urls
from anymail.signals import tracking
from botocore.client import BaseClient
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts.models import User
from mailer import outbox
from mailer.delivery import broker, sweep
from mailer.feedback import events
from mailer.models import Cause, DeliveryAttempt, DeliveryEvent, Message, State, Suppression, What
from mailer.transports import verp
from mailer.views import webhooks
from tests.mailer.kinds import Plain
from tests.mailer.views import providers
from tests.mailer.views.providers import (
    AMAZON,
    ANN,
    AT,
    BREVO,
    HARD,
    ID,
    LOGIN,
    MAILERSEND,
    MAILGUN,
    MAILJET,
    MAILTRAP,
    MANDRILL,
    NUMBER,
    POSTAL,
    POSTMARK,
    PROVIDERS,
    RESEND,
    SENDGRID,
    SPARKPOST,
    UNISENDER,
    Provider,
)
from tests.smtp_sink import Sink

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:django-anymail has dropped official support for SendGrid"),
]
EVENTS = providers.events()
EXAMPLES = {provider.name: [body for each, body, _ in EVENTS if each is provider] for provider in PROVIDERS}
DELIVERED = {
    p.name: next(body for each, body, e in EVENTS if each is p and e and e[0] == What.DELIVERED)
    for p in PROVIDERS
    if p is not MANDRILL
} | {MANDRILL.name: [providers.of_mandrill("open")]}
each_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.module)

Configure = Callable[[Provider], None]


@pytest.fixture
def configured(settings: Settings) -> Configure:
    """Use this provider, whose requests are checked by the setting that belongs to it."""

    def use(provider: Provider) -> None:
        settings.MAILERS, settings.ANYMAIL = {**settings.MAILERS, **provider.mailers}, provider.settings

    return use


def facts() -> list[tuple[str, str, str]]:
    return list(DeliveryEvent.objects.order_by("pk").values_list("what", "bounce", "recipient"))


# --- What is reported --------------------------------------------------------------------------------------------------


@each_provider
def test_what_each_event_reports(client: Client, configured: Configure, provider: Provider) -> None:
    configured(provider)
    for body, expected in [(body, expected) for each, body, expected in EVENTS if each is provider]:
        DeliveryEvent.objects.all().delete()
        for _ in range(2):  # a repetition is nothing new
            assert provider.call(client, body).status_code == 200, body
        found = [(each.what, each.bounce, each.code) for each in DeliveryEvent.objects.all()]
        assert found == ([expected] if expected else []), body


ABOUT: dict[str, dict[str, Any]] = {provider.name: {"message": NUMBER, "provider_id": ID} for provider in PROVIDERS} | {
    MAILERSEND.name: {"provider_id": ID},
    MAILGUN.name: {"message": NUMBER, "provider_id": f"<{ID}@example.com>"},
    MAILJET.name: {"message": NUMBER, "provider_id": "12345678901234567"},
    POSTAL.name: {"message_id": "<x@example.com>", "provider_id": "1571"},
}
"""How an event names its mail: by our token, and without one by the provider's id or the Message-ID."""


@each_provider
def test_an_event_names_its_mail_its_recipient_and_its_time(
    client: Client, configured: Configure, provider: Provider
) -> None:
    configured(provider)
    provider.call(client, DELIVERED[provider.name])

    event = DeliveryEvent.objects.get()
    assert event.source == provider.name
    assert event.about == ABOUT[provider.name]
    assert event.recipient == ("" if provider is RESEND else ANN)  # Resend names all of them, whoever is meant
    assert abs(event.at - datetime.fromtimestamp(AT, UTC)) < timedelta(seconds=1)


def test_each_recipient_of_one_notification_has_a_report(client: Client, configured: Configure) -> None:
    """Amazon gives all of them the same id."""
    configured(AMAZON)
    recipients = [{"emailAddress": ANN}, {"emailAddress": "bob@example.com"}]
    AMAZON.call(client, providers.ses("Bounce", bounceType="Permanent", bounceSubType="", bouncedRecipients=recipients))
    assert facts() == [("bounced", "hard", ANN), ("bounced", "hard", "bob@example.com")]


def test_who_only_may_have_complained_or_opened_a_mail_is_not_named(client: Client, configured: Configure) -> None:
    configured(AMAZON)
    recipients = [{"emailAddress": ANN}, {"emailAddress": "bob@example.com"}]
    AMAZON.call(client, providers.ses("Complaint", complainedRecipients=recipients))
    AMAZON.call(client, providers.ses("Open"))
    assert facts() == [("complained", "", ""), ("opened", "", "")]


def test_a_delay_is_known_by_amazons_own_name(client: Client, configured: Configure) -> None:
    configured(AMAZON)
    AMAZON.call(client, providers.ses("DeliveryDelay", "deliveryDelay", delayType="MailboxFull"))
    assert {what for what, *_ in facts()} == {"delayed"}


def test_the_same_event_in_another_request_is_the_same(client: Client, configured: Configure) -> None:
    """Mailgun signs each request with a token of its own, which Anymail takes for the id of the event."""
    configured(MAILGUN)
    for token in ("a" * 50, "b" * 50):
        signature = {"timestamp": "1", "token": token, "signature": providers.sign(f"1{token}".encode())}
        body = {"signature": signature, "event-data": DELIVERED["Mailgun"]}
        assert client.post(MAILGUN.url, body, content_type="application/json").status_code == 200
    assert len(facts()) == 1


def test_the_old_form_of_mailguns_events_is_read(client: Client, configured: Configure) -> None:
    configured(MAILGUN)
    form = {"event": "bounced", "recipient": ANN, "code": "550", "error": "5.1.1 no such user", "Message-Id": f"<{ID}>"}
    form |= {"timestamp": str(AT), "token": "t", "signature": providers.sign(f"{AT}t".encode()), **providers.metadata()}
    assert client.post(MAILGUN.url, form).status_code == 200
    assert facts() == [("bounced", "hard", ANN)]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-09-21T14:13:20", "2026-09-21T14:13:20+00:00"),
        ("2026-09-21T16:13:20+02:00", "2026-09-21T14:13:20+00:00"),
        ("0001-01-01T00:00:00+14:00", ""),
        ("9999-12-31T23:59:59-12:00", ""),
        ("3000-01-01T00:00:00Z", ""),
        ("soon", ""),
        (None, ""),
    ],
)
def test_a_time_that_cannot_be_right_is_now(
    client: Client, configured: Configure, moment: str | None, expected: str
) -> None:
    configured(POSTMARK)
    event = {**DELIVERED["Postmark"], "DeliveredAt": moment} if moment else {**DELIVERED["Postmark"]}
    if moment is None:
        del event["DeliveredAt"]
    assert POSTMARK.call(client, event).status_code == 200

    at = DeliveryEvent.objects.get().at
    assert at.isoformat() == expected if expected else timezone.now() - at < timedelta(minutes=1)


# --- Who is believed ---------------------------------------------------------------------------------------------------


@each_provider
def test_a_wrong_secret_is_refused_without_a_hint(client: Client, configured: Configure, provider: Provider) -> None:
    configured(provider)
    with capture_logs() as lines:
        wrong = provider.call(client, DELIVERED[provider.name], "another:key-of-somebody")
        without = client.post(provider.url, providers.octets(DELIVERED[provider.name]), content_type="application/json")
    assert wrong.status_code == 400
    assert wrong.content == b"Bad Request.\n"
    assert without.status_code == (401 if provider is AMAZON else 400)  # Amazon's first request asks for it
    assert facts() == []
    assert "@" not in str(lines)
    assert provider.value() not in str(lines)


@each_provider
@pytest.mark.parametrize("kind", ["tracking", "inbound"])
def test_without_a_secret_there_is_no_such_page(
    client: Client, settings: Settings, provider: Provider, kind: str
) -> None:
    settings.MAILERS, settings.ANYMAIL = provider.mailers, {}
    url = f"/anymail/{provider.module}/{kind}/"
    answers = [client.get(url), client.head(url), client.options(url), client.post(url), provider.call(client, [])]
    assert {answer.status_code for answer in answers} == {404}


@pytest.mark.parametrize("secret", [[None], [""], ["None"], "None", [LOGIN, None], [":"]])
def test_a_secret_that_is_none_opens_nothing(client: Client, settings: Settings, secret: Any) -> None:
    """`[os.environ.get("…")]`: Anymail would take a request without a log-in for right."""
    settings.MAILERS, settings.ANYMAIL = POSTMARK.mailers, {"WEBHOOK_SECRET": secret}
    for headers in ({}, {"Authorization": "Basic Og=="}):
        answer = client.post(POSTMARK.url, DELIVERED["Postmark"], content_type="application/json", headers=headers)
        assert answer.status_code == 404
    assert facts() == []


def test_a_provider_that_no_transport_uses_has_no_page(client: Client, configured: Configure) -> None:
    configured(POSTMARK)
    assert BREVO.call(client, DELIVERED["Brevo"]).status_code == 404
    for url in ("/anymail/nobody/tracking/", "/anymail/sendinblue/tracking/", "/anymail/postmark/other/"):
        assert client.post(url).status_code == 404
    assert POSTMARK.call(client, DELIVERED["Postmark"]).status_code == 200


@each_provider
def test_the_setting_of_a_signature_is_the_one_that_anymail_reads(
    client: Client, configured: Configure, provider: Provider
) -> None:
    """Otherwise the page would be open to everybody."""
    configured(provider)
    assert webhooks.SIGNED.get(f"{provider.module}_tracking_webhook", "WEBHOOK_SECRET") in (
        provider.secret,
        "RESEND_SIGNING_SECRET",
    )
    assert set(webhooks.SIGNED) <= {pattern.name for pattern in urls.urlpatterns}


def test_the_login_and_the_signature_are_both_needed_if_both_are_configured(
    client: Client, configured: Configure, settings: Settings
) -> None:
    configured(MAILGUN)
    settings.ANYMAIL = {**MAILGUN.settings, "WEBHOOK_SECRET": ["old:password", LOGIN]}
    assert MAILGUN.call(client, DELIVERED["Mailgun"]).status_code == 400
    client.defaults["HTTP_AUTHORIZATION"] = providers.BASIC["Authorization"]
    assert MAILGUN.call(client, DELIVERED["Mailgun"]).status_code == 200


@pytest.mark.parametrize("provider", [MAILERSEND, MAILGUN, MANDRILL, POSTAL, UNISENDER], ids=lambda p: p.module)
def test_a_provider_that_must_sign_needs_its_key(client: Client, settings: Settings, provider: Provider) -> None:
    settings.MAILERS, settings.ANYMAIL = provider.mailers, {"WEBHOOK_SECRET": LOGIN}
    client.defaults["HTTP_AUTHORIZATION"] = providers.BASIC["Authorization"]
    assert provider.call(client, DELIVERED[provider.name]).status_code == 404


@pytest.mark.parametrize("name", sorted(webhooks.SIGNED))
def test_a_signature_is_enough_for_its_own_address_alone(client: Client, settings: Settings, name: str) -> None:
    """Anymail warns of a page that it would leave open, and warnings are errors here."""
    module, _, kind = name.removesuffix("_webhook").rpartition("_")
    provider = next(each for each in PROVIDERS if each.module == module)
    key = provider.value() if provider.secret == webhooks.SIGNED[name] else providers.KEY
    settings.MAILERS = provider.mailers
    settings.ANYMAIL = {webhooks.SIGNED[name]: key, "MAILTRAP_API_TOKEN": "k", "RESEND_API_KEY": "k"}
    status = 404 if provider is RESEND else 200  # svix is not installed
    assert client.head(f"/anymail/{module}/{kind}/").status_code == status
    other = {"tracking": "inbound", "inbound": "tracking"}[kind]
    if webhooks.SIGNED.get(f"{module}_{other}_webhook") != webhooks.SIGNED[name]:
        assert client.head(f"/anymail/{module}/{other}/").status_code == 404


def test_a_key_that_cannot_be_used_opens_nothing(client: Client, settings: Settings) -> None:
    settings.MAILERS = {**SENDGRID.mailers, "fallback": RESEND.mailers["transport"]}
    settings.ANYMAIL = {SENDGRID.secret: "no key", "RESEND_SIGNING_SECRET": "whsec_eA=="}  # svix is not installed
    assert SENDGRID.call(client, []).status_code == 404
    assert RESEND.call(client, {}).status_code == 404


@each_provider
def test_a_provider_may_ask_whether_the_page_is_there(
    client: Client, configured: Configure, provider: Provider
) -> None:
    configured(provider)
    assert client.head(provider.url).status_code == 200
    assert client.get(provider.url).status_code == (200 if provider is UNISENDER else 405)


def test_mandrill_asks_before_it_tells_its_key(client: Client, settings: Settings) -> None:
    settings.MAILERS, settings.ANYMAIL = MANDRILL.mailers, {"WEBHOOK_SECRET": LOGIN}
    assert client.head(MANDRILL.url).status_code == 200


# --- Garbage -----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["\0", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, examples: list[Any]) -> Any:
    """Return an event of a provider in which one value, or a name, is another one."""
    whole = [json.loads(json.dumps(draw(st.sampled_from(examples))))]
    place: Any = whole
    while True:
        key = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else draw(st.integers(0, len(place) - 1))
        if not (isinstance(place[key], dict | list) and place[key] and draw(st.booleans())):
            break
        place = place[key]
    if draw(st.booleans()):
        place[key] = draw(JSON)
    elif isinstance(place, dict):
        del place[key]
    return whole[0] if whole else None


@each_provider
@profile(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbage_is_answered_and_breaks_nothing(
    client: Client, configured: Configure, provider: Provider, data: st.DataObject
) -> None:
    configured(provider)
    body = data.draw(JSON | damaged(EXAMPLES[provider.name]))
    assert provider.call(client, body).status_code in (200, 400, 404)  # 404: the events of the other address


NO_EVENTS = [
    *(
        b"",
        b"{",
        b"\xff\xfe",
        b'{"a":',
        b"9" * 5000,
        b"null",
        b"[null]",
        b"{}",
        b'"text"',
        b"[[]]",
        b"NaN",
    ),
]


@each_provider
def test_what_is_no_event_is_refused_or_of_no_use(client: Client, configured: Configure, provider: Provider) -> None:
    configured(provider)
    assert {provider.call(client, body).status_code for body in NO_EVENTS} <= {200, 400}
    for body in NO_EVENTS:
        assert providers.post(client, provider.url, body, **providers.BASIC).status_code in (200, 400)
    assert facts() == []


def test_nesting_without_an_end_is_refused(client: Client, configured: Configure) -> None:
    gc.disable()  # at the end of the stack, Hypothesis's hook into it could not run
    try:
        for provider in PROVIDERS:
            configured(provider)
            assert provider.call(client, b"[" * 100_000).status_code == 400
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("provider", "good", "bad"),
    [
        (MAILJET, providers.mailjet("open"), {"no": "event"}),
        (MAILTRAP, providers.mailtrap("open")["events"][0], None),
        (MANDRILL, providers.of_mandrill("open"), ["event"]),
        (SENDGRID, providers.of_sendgrid("open"), 7),
        (SPARKPOST, providers.sparkpost("open"), {"msys": 1}),
    ],
    ids=lambda each: getattr(each, "module", None),
)
def test_one_bad_event_of_a_batch_does_not_lose_the_others(
    client: Client, configured: Configure, provider: Provider, good: Any, bad: Any
) -> None:
    configured(provider)
    batch = [bad, good, bad]
    assert provider.call(client, {"events": batch} if provider is MAILTRAP else batch).status_code == 200
    assert facts() == [("opened", "", ANN)]
    assert provider.call(client, {"events": [bad]} if provider is MAILTRAP else [bad]).status_code == 400


def test_texts_of_any_kind_are_stored(client: Client, configured: Configure) -> None:
    configured(POSTMARK)
    text = "550 5.1.1 <ann@example.com> \0 \ud800" + "x" * 1_000_000
    event = providers.postmark_bounce("HardBounce", text) | {"Email": f"ann\0\ud800{text}"}
    assert POSTMARK.call(client, event).status_code == 200
    assert "ann@" not in DeliveryEvent.objects.get().text


def test_a_request_that_is_too_large_is_refused_before_it_is_read(
    client: Client, configured: Configure, settings: Settings
) -> None:
    configured(POSTMARK)
    with capture_logs():
        large = client.post(POSTMARK.url, b"", content_type="application/json", headers={"Content-Length": "2621441"})
    assert large.status_code == 413
    assert POSTMARK.call(client, b"[" + b" " * 2_621_440 + b"]").status_code == 413


def test_a_million_events_are_not_stored(
    client: Client, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(MAILJET)
    assert MAILJET.call(client, b"[" + b"{}," * 800_000 + b"{}]").status_code == 413
    monkeypatch.setattr(webhooks, "MOST_EVENTS", 3)
    assert MAILJET.call(client, [providers.mailjet("open", time=AT + n) for n in range(4)]).status_code == 413
    assert facts() == []


def test_events_about_no_mail_and_of_unknown_kinds_are_not_stored(client: Client, configured: Configure) -> None:
    configured(MAILJET)
    nameless = providers.mailjet("open", Payload="")
    del nameless["MessageID"]
    assert (
        MAILJET.call(client, [nameless, providers.mailjet("of next year"), providers.mailjet("click")]).status_code
        == 200
    )
    assert facts() == []


# --- Stored, then applied ----------------------------------------------------------------------------------------------


def test_a_batch_is_stored_by_one_statement_and_a_task_applies_it(
    client: Client,
    configured: Configure,
    broker: redis.Redis,
    django_assert_max_num_queries: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    configured(SENDGRID)
    batch = [providers.of_sendgrid("open", sg_event_id=f"e{n}") for n in range(1000)]
    with django_capture_on_commit_callbacks(execute=True), django_assert_max_num_queries(3):  # it, and its savepoint
        assert SENDGRID.call(client, batch).status_code == 200
    assert DeliveryEvent.objects.count() == 1000
    assert broker.llen("bulk") == 1


def test_a_broker_that_is_away_fails_no_request(
    client: Client, configured: Configure, settings: Settings, django_capture_on_commit_callbacks: Any
) -> None:
    configured(POSTMARK)
    broker.breaker.open()
    with django_capture_on_commit_callbacks(execute=True):
        assert POSTMARK.call(client, DELIVERED["Postmark"]).status_code == 200
    assert len(facts()) == 1


def test_while_the_database_is_away_the_provider_has_to_come_again(
    client: Client, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(POSTMARK)

    def lose(*_: Any) -> int:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(events, "store", lose)
    answer = POSTMARK.call(client, DELIVERED["Postmark"])
    assert (answer.status_code, answer["Retry-After"]) == (503, "30")


def test_an_event_that_comes_before_the_outcome_of_its_attempt_is_applied_after_it(
    client: Client, configured: Configure, user: User, smtp: Sink
) -> None:
    message = outbox.enqueue(Plain(user))
    configured(POSTMARK)
    event = providers.postmark_bounce("HardBounce", f"smtp;{providers.NO_USER}") | {"Metadata": token(message)}
    assert POSTMARK.call(client, event).status_code == 200
    events.apply_due()
    assert not Suppression.objects.exists()

    settled(message)
    DeliveryEvent.objects.update(apply_at=timezone.now())
    sweep.sweep()
    assert message.events.get().what == What.BOUNCED
    assert Suppression.objects.values_list("address", "cause").get() == (ANN, Cause.BOUNCE)


def test_another_providers_event_changes_nothing(
    client: Client, configured: Configure, settings: Settings, user: User, smtp: Sink
) -> None:
    message = settled(outbox.enqueue(Plain(user)))
    configured(POSTMARK)
    settings.MAILERS = {**settings.MAILERS, "fallback": BREVO.mailers["transport"]}
    settings.ANYMAIL = {"WEBHOOK_SECRET": LOGIN}
    forged = providers.brevo("hard_bounce", **{"X-Mailin-custom": json.dumps(token(message))})
    assert BREVO.call(client, forged).status_code == 200
    events.apply_due()
    assert not message.events.exists()
    assert not Suppression.objects.exists()


def token(message: Message) -> dict[str, str]:
    return {"postcommit": verp.token(message.pk)}


def settled(message: Message) -> Message:
    """Record that the transport took the message."""
    DeliveryAttempt.objects.create(message=message, number=1, transport="transport", outcome="accepted")
    Message.objects.filter(pk=message.pk).update(state=State.SENT)
    return message


def test_a_receiver_of_the_project_gets_the_events_too(client: Client, configured: Configure) -> None:
    configured(POSTMARK)
    got: list[Any] = []

    def receiver(event: Any, esp_name: str, **_: Any) -> None:
        got.append((esp_name, event.event_type))

    tracking.connect(receiver)
    POSTMARK.call(client, DELIVERED["Postmark"])
    tracking.disconnect(receiver)
    assert got == [("Postmark", "delivered")]


# --- Mail that came to the provider ------------------------------------------------------------------------------------

BOUNCE = (Path(__file__).parents[1] / "feedback" / "dsn" / "postfix-unknown-a.eml").read_text()
LETTER = "From: ann@example.com\nTo: shop@example.com\nSubject: Hello\n\nThank you."


def mailgun_inbound(client: Client, mail: str, recipient: str) -> Any:
    form = {"body-mime": mail, "recipient": recipient, "sender": "", "timestamp": str(AT), "token": "t"}
    form["signature"] = providers.sign(f"{AT}t".encode())
    return client.post("/anymail/mailgun/inbound_mime/", form)


def test_a_bounce_that_the_provider_received_is_read(client: Client, configured: Configure, settings: Settings) -> None:
    configured(MAILGUN)
    settings.POSTCOMMIT = {"BOUNCE_ADDRESS": "bounces@example.com"}
    for _ in range(2):
        assert mailgun_inbound(client, BOUNCE, verp.envelope_sender(NUMBER)).status_code == 200
    event = DeliveryEvent.objects.get()
    assert (event.source, event.bounce, event.code, event.about["message"]) == (
        events.BOUNCE_MAIL,
        HARD,
        "5.1.1",
        NUMBER,
    )


@pytest.mark.parametrize("mail", [LETTER, "", "Content-Type: multipart/report; boundary=x\n\n--x\n\ud800"])
def test_other_mail_is_of_no_use(client: Client, configured: Configure, mail: str) -> None:
    configured(MAILGUN)
    assert mailgun_inbound(client, mail.encode("utf-8", "replace").decode(), "shop@example.com").status_code == 200
    assert facts() == []


@each_provider
def test_what_is_no_mail_is_refused_or_of_no_use(client: Client, settings: Settings, provider: Provider) -> None:
    settings.MAILERS = provider.mailers
    keys = dict.fromkeys(("MAILERSEND_INBOUND_SECRET", "BREVO_API_KEY", "RESEND_API_KEY", "MAILTRAP_API_TOKEN"), "k")
    settings.ANYMAIL = {**keys, **provider.settings, "WEBHOOK_SECRET": LOGIN}
    url = f"/anymail/{provider.module}/inbound/"
    for body in [*NO_EVENTS, json.dumps(DELIVERED[provider.name]).encode()]:
        form = dict.fromkeys(("email", "body-mime", "mandrill_events"), body.decode("latin-1"))
        assert providers.post(client, url, body, **providers.BASIC).status_code in (200, 400, 404)
        assert client.post(url, form, headers=providers.BASIC).status_code in (200, 400, 404)
    assert facts() == []


def test_a_mail_that_has_to_be_fetched_is_asked_for_again(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MAILERS, settings.ANYMAIL = RESEND.mailers, {"WEBHOOK_SECRET": LOGIN, "RESEND_API_KEY": "k"}

    def away(*_: Any, **__: Any) -> Any:
        raise requests.ConnectionError("no route to ann@example.com")

    monkeypatch.setattr(requests, "get", away)
    body = {"type": "email.received", "created_at": providers.ISO, "data": {"email_id": "e1"}}
    with capture_logs() as lines:
        answer = providers.post(client, "/anymail/resend/inbound/", providers.octets(body), **providers.BASIC)
    assert answer.status_code == 503
    assert "@" not in str(lines)


def test_a_mixed_up_address_is_said_in_the_log(client: Client, configured: Configure) -> None:
    configured(POSTMARK)
    with capture_logs() as lines:
        answer = providers.post(
            client, "/anymail/postmark/inbound/", providers.octets(DELIVERED["Postmark"]), **providers.BASIC
        )
    assert answer.status_code == 404
    assert "You seem to have set Postmark's *Delivery* webhook" in str(lines)


# --- Amazon's subscription ---------------------------------------------------------------------------------------------


def subscribe(client: Client) -> Any:
    message = {"Type": "SubscriptionConfirmation", "MessageId": "m", "Token": "t"}
    message["TopicArn"] = "arn:aws:sns:eu-north-1:1234567890:SES_Events"
    kind = {"x-amz-sns-message-type": message["Type"], "x-amz-sns-message-id": "m"}
    return client.post(AMAZON.url, json.dumps(message), content_type="text/plain", headers=providers.BASIC | kind)


def test_a_subscription_that_cannot_be_confirmed_now_is_asked_for_again(
    client: Client, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(AMAZON)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    assert subscribe(client).status_code == 503  # there are no credentials


def test_a_subscription_is_confirmed_where_its_topic_is(
    client: Client, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(AMAZON)
    calls: list[Any] = []
    monkeypatch.setattr(BaseClient, "_make_api_call", lambda aws, *call: calls.append((aws.meta.region_name, call[0])))
    assert subscribe(client).status_code == 200
    assert calls == [("eu-north-1", "ConfirmSubscription")]
