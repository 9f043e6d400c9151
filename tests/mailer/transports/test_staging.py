"""A test system sends only to its allowed recipients, whatever a message contains."""

from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage, mailers
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.checks.settings import _transport
from mailer.conf import options, parse
from mailer.models import ACCEPTED, Message, State, Suppression
from mailer.outcomes import Accepted, PermanentRefusal
from mailer.transports import staging
from tests.mailer.kinds import Plain, Shared
from tests.mailer.transports.sending import send
from tests.mailer.worker import deliver
from tests.smtp_sink import Sink

CUSTOMER, COLLEAGUE, QA = "customer@elsewhere.example", "dev@ours.example", "qa@redirect.example"


@pytest.fixture
def on_staging(settings: Settings) -> Callable[..., None]:
    def use(redirect: str = "", allowed: str = "", prefix: str = "") -> None:
        settings.POSTCOMMIT = {"REDIRECT_ALL_TO": redirect, "ALLOWED_RECIPIENTS": allowed, "SUBJECT_PREFIX": prefix}

    return use


@pytest.fixture(autouse=True)
def provider(settings: Settings) -> None:
    """A provider's API that stores the calls that it would send."""
    settings.MAILERS = {"provider": {"BACKEND": "anymail.backends.test.EmailBackend"}}


def message_to(*to: str, cc: tuple[str, ...] = (), bcc: tuple[str, ...] = (), **attributes: Any) -> EmailMessage:
    message = EmailMessage("Hello", "text", "us@ours.example", list(to), cc=list(cc), bcc=list(bcc))
    for name, value in attributes.items():
        setattr(message, name, value)
    return message


def intercepted(message: EmailMessage) -> list[str]:
    staging.intercept(message)
    return message.recipients()


# --- The values


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"REDIRECT_ALL_TO": "qa"}, "POSTCOMMIT_REDIRECT_ALL_TO must be an address, as in qa@example.com, not 'qa'"),
        ({"REDIRECT_ALL_TO": "ours.example"}, "must be an address"),
        ({"REDIRECT_ALL_TO": "a@ours.example, b@ours.example"}, "must be an address"),
        ({"REDIRECT_ALL_TO": "QA <qa@ours.example>"}, "must be an address"),
        ({"REDIRECT_ALL_TO": "<qa@ours.example>"}, "must be an address"),
        (
            {"ALLOWED_RECIPIENTS": "https://ours.example"},
            "or a domain without its subdomains, as in example.com, not 'https://ours.example'",
        ),
        (
            {"ALLOWED_RECIPIENTS": "@ours.example"},
            "POSTCOMMIT_ALLOWED_RECIPIENTS must be an address",
        ),
        ({"ALLOWED_RECIPIENTS": "*.ours.example"}, "or a domain without its subdomains"),
        ({"ALLOWED_RECIPIENTS": "ours"}, "must be an address"),
        ({"ALLOWED_RECIPIENTS": "com,dev@@ours.example"}, "must be an address"),
        ({"ALLOWED_RECIPIENTS": "dev@@ours.example"}, "must be an address"),
        ({"ALLOWED_RECIPIENTS": "ours.example other.example"}, "must be an address"),
        ({"ALLOWED_RECIPIENTS": " , "}, "POSTCOMMIT_ALLOWED_RECIPIENTS must have at least one entry"),
        ({"SUBJECT_PREFIX": "[a]\nBcc: customer@elsewhere.example"}, "POSTCOMMIT_SUBJECT_PREFIX must be one line"),
    ],
)
def test_a_broken_value_is_an_error_at_start(raw: dict[str, str], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(raw)

    assert complaint in str(caught.value)


def test_values_are_normalized_like_recipients() -> None:
    parsed = parse(
        {"REDIRECT_ALL_TO": "QA@Bücher.example", "ALLOWED_RECIPIENTS": " Dev@Ours.example, BÜCHER.example ,"}
    )

    assert parse({"REDIRECT_ALL_TO": "", "ALLOWED_RECIPIENTS": " "}) == parse({})
    assert parsed.redirect_all_to == "qa@xn--bcher-kva.example"
    assert parsed.allowed_recipients == ("dev@ours.example", "xn--bcher-kva.example")


def test_send_defaults_that_add_recipients_are_an_error(on_staging: Callable[..., None]) -> None:
    on_staging(redirect=QA)

    assert [e.id for e in _transport("transport", SimpleNamespace(send_defaults={"bcc": [CUSTOMER]}))] == [
        "mailer.E016"
    ]
    assert list(_transport("transport", SimpleNamespace(send_defaults={"tags": ["x"], "track_opens": True}))) == []


# --- Who is allowed


@pytest.mark.parametrize(
    ("recipient", "allowed"),
    [
        (COLLEAGUE, True),
        ("DEV@OURS.EXAMPLE", True),
        (f"Dev <{COLLEAGUE}>", True),
        (f'"{CUSTOMER}" <{COLLEAGUE}>', True),
        ("any@bücher.example", True),
        ("any@BÜCHER.example", True),
        ("any@xn--bcher-kva.example", True),
        (CUSTOMER, False),
        (f'"{COLLEAGUE}" <{CUSTOMER}>', False),
        (f"{COLLEAGUE}, {CUSTOMER}", False),
        (f"{CUSTOMER}, {COLLEAGUE}", False),
        (f"{COLLEAGUE} <{CUSTOMER}>", False),
        (f"{COLLEAGUE} {CUSTOMER}", False),
        (f"{COLLEAGUE};{CUSTOMER}", False),
        (f"<{COLLEAGUE}><{CUSTOMER}>", False),
        (f"<{COLLEAGUE}:{CUSTOMER}>", False),
        (f"<@ours.example:{CUSTOMER}>", False),
        (f"team: {COLLEAGUE}, {CUSTOMER};", False),
        (f"{COLLEAGUE}\nBcc: {CUSTOMER}", False),
        (f"{COLLEAGUE} ({CUSTOMER})", True),
        (f"({COLLEAGUE}) {CUSTOMER}", False),
        ("dev+news@ours.example", False),
        ("other@ours.example", False),
        ("dev@sub.ours.example", False),
        ("any@sub.bücher.example", False),
        ("any@bücher.example.elsewhere.example", False),
        ("customer%elsewhere.example@bücher.example", False),
        ("elsewhere.example!customer@bücher.example", False),
        (f'"{CUSTOMER}"@bücher.example', False),
        ("\u212ain@ours.example", False),
        ("dev", False),
        ("", False),
        ("@ours.example", False),
    ],
)
def test_only_an_unambiguous_entry_is_allowed(on_staging: Callable[..., None], recipient: str, allowed: bool) -> None:
    on_staging(allowed=f"{COLLEAGUE},bücher.example,kin@ours.example")

    assert staging.reaches(recipient) is allowed


# --- Restricting a message


def test_without_the_settings_nothing_changes() -> None:
    message = message_to(
        f"A <{CUSTOMER}>", "broken, entry", bcc=(COLLEAGUE,), extra_headers={"Resent-To": "x@y.example"}
    )
    before = vars(message).copy()

    staging.intercept(message)

    assert vars(message) == before


def test_other_recipients_are_replaced_by_one_redirect_target(on_staging: Callable[..., None]) -> None:
    on_staging(redirect=QA, allowed=COLLEAGUE, prefix="[staging]")
    message = message_to(
        CUSTOMER,
        f"Dev <{COLLEAGUE}>",
        cc=("b@elsewhere.example",),
        bcc=("c@elsewhere.example", f"{CUSTOMER}, {COLLEAGUE}"),
    )

    assert intercepted(message) == [f"Dev <{COLLEAGUE}>", QA]
    assert message.subject == "[staging] Hello"
    assert message.extra_headers[staging.ORIGINAL] == f"{CUSTOMER}, b@elsewhere.example, c@elsewhere.example"

    once = vars(message).copy()
    staging.intercept(message)
    assert vars(message) == once


def test_without_a_redirect_target_other_recipients_are_removed(on_staging: Callable[..., None]) -> None:
    on_staging(allowed="ours.example")

    assert intercepted(message_to(CUSTOMER, cc=(COLLEAGUE,))) == [COLLEAGUE]
    with pytest.raises(staging.Blocked, match="none of its recipients is among POSTCOMMIT_ALLOWED_RECIPIENTS"):
        staging.intercept(message_to(CUSTOMER))


def test_an_allowed_entry_is_normalized(on_staging: Callable[..., None]) -> None:
    on_staging(allowed="straße.example")

    assert intercepted(message_to("Jörg <Dev@Straße.example>")) == ["Jörg <Dev@xn--strae-oqa.example>"]


@pytest.mark.parametrize(
    "name",
    [
        *("To", "CC", "bcc", "Resent-To", "resent-bcc", "Apparently-To", "Errors-To"),
        *("Disposition-Notification-To", "Return-Receipt-To", "X-Confirm-Reading-To"),
    ],
)
def test_header_fields_that_name_recipients_are_removed(on_staging: Callable[..., None], name: str) -> None:
    on_staging(redirect=QA)
    message = message_to(COLLEAGUE, extra_headers={name: CUSTOMER, "X-Order": "7"})

    staging.intercept(message)

    assert message.extra_headers == {"X-Order": "7", staging.ORIGINAL: COLLEAGUE}
    assert CUSTOMER not in message.message().as_string()


@pytest.mark.parametrize(
    "attributes",
    [
        {"esp_extra": {"personalizations": [{"to": [{"email": CUSTOMER}]}]}},
        {"extra_headers": {"X-SMTPAPI": '{"to": ["customer@elsewhere.example"]}'}},
        {"extra_headers": {"X-MC-BccAddress": CUSTOMER}},
        {"extra_headers": {"x-msys-api": '{"cc": []}'}},
        {"merge_headers": {COLLEAGUE: {"Cc": CUSTOMER}}},
        {"merge_headers": {COLLEAGUE: {"X-MC-BccAddress": CUSTOMER}}},
    ],
)
def test_a_message_with_hidden_recipients_is_blocked(
    on_staging: Callable[..., None], attributes: dict[str, Any]
) -> None:
    on_staging(redirect=QA, allowed="ours.example")

    with pytest.raises(staging.Blocked, match="recipients"):
        staging.intercept(message_to(COLLEAGUE, **attributes))


def test_merge_data_are_restricted_to_the_recipients(on_staging: Callable[..., None]) -> None:
    on_staging(redirect=QA, allowed=COLLEAGUE)
    merge = {
        "Customer@elsewhere.example": {"name": "C"},
        COLLEAGUE: {"name": "D"},
        "other@elsewhere.example": {"name": "O"},
    }
    message = message_to(CUSTOMER, COLLEAGUE, "other@elsewhere.example", merge_data=merge)

    staging.intercept(message)

    assert message.merge_data == {COLLEAGUE: {"name": "D"}, QA: {"name": "C"}}  # type: ignore[attr-defined]


def test_a_class_that_computes_its_recipients_is_blocked(on_staging: Callable[..., None]) -> None:
    on_staging(redirect=QA)

    class Stubborn(EmailMessage):
        def recipients(self) -> list[str]:
            return [CUSTOMER]

    with pytest.raises(staging.Blocked, match="its recipients cannot be changed"):
        staging.intercept(Stubborn("Hello", "text", None, [QA]))


def test_provider_headers_of_a_class_that_makes_its_mime_are_blocked(on_staging: Callable[..., None]) -> None:
    on_staging(redirect=QA)

    class Signed(EmailMessage):
        def message(self, **options: Any) -> Any:
            made = super().message(**options)
            made["X-SMTPAPI"] = CUSTOMER
            return made

    with pytest.raises(staging.Blocked, match="x-smtpapi may name recipients"):
        staging.intercept(Signed("Hello", "text", None, [CUSTOMER]))


# --- On the wire

LOCAL_PARTS = ("dev", "DEV", "customer", "qa", "dev+x", '"a@ours.example"', "customer%elsewhere.example", "m\u0131ke")
DOMAINS = (
    *(
        "ours.example",
        "OURS.example",
        "elsewhere.example",
        "redirect.example",
        "bücher.example",
        "xn--bcher-kva.example",
    ),
    *("ﬃ.example", "sub.ours.example", "ours.example.", "[127.0.0.1]", "ours.example@elsewhere.example"),
)
address = st.builds("{}@{}".format, st.sampled_from(LOCAL_PARTS), st.sampled_from(DOMAINS))
glue = st.sampled_from([", ", "; ", " ", "> <", ":", "\n", "\r\nBcc: ", "(", ")", '"', "\\", "\0", "=?utf-8?q?x?= "])
entry = st.one_of(
    address,
    st.builds("{} <{}>".format, address, address),
    st.builds('"{}" <{}>'.format, address, address),
    st.builds("{}{}{}".format, address, glue, address),
    st.builds("team: {}, {};".format, address, address),
    st.text(max_size=8),
)
entries = st.lists(entry, max_size=3)
headers = st.dictionaries(
    st.sampled_from(["To", "tO", "Cc", "Bcc", "Resent-To", "Resent-Bcc", "X-SMTPAPI", "X-Other", "Errors-To"]), address
)
configurations = st.sampled_from(
    [(QA, ""), (QA, COLLEAGUE), ("", "ours.example"), ("", "dev@bücher.example"), (QA, "bücher.example,ours.example")]
)
ARE_OURS = {"ours.example", "redirect.example", "xn--bcher-kva.example"}


def is_ours(recipient: str, redirect: str, allowed: str) -> bool:
    """An independent check of an address as a server reads it in RCPT TO."""
    ours = {redirect, *(a.encode("idna").decode() if "@" not in a else a for a in allowed.split(","))} - {""}
    ours = {a.replace("bücher", "xn--bcher-kva") for a in ours}
    local, _, domain = recipient.lower().rpartition("@")
    return recipient.count("@") == 1 and domain in ARE_OURS and bool({f"{local}@{domain}", domain} & ours)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configurations, entries, entries, entries, headers)
def test_no_message_names_a_customer_to_the_server(
    smtp: Sink,
    on_staging: Callable[..., None],
    configuration: tuple[str, str],
    to: list[str],
    cc: list[str],
    bcc: list[str],
    extra: dict[str, str],
) -> None:
    on_staging(*configuration)

    for path in "outbox", "transport":
        message = message_to(*to, cc=tuple(cc), bcc=tuple(bcc), extra_headers=dict(extra))
        if path == "outbox":
            send(message, "transport", exclude={COLLEAGUE} if len(cc) > 1 else ())
        else:
            with suppress(ValueError):  # Django refuses an address or a header that cannot be sent
                message.send(using="transport")

    assert [r for received in smtp.received for r in received.recipients if not is_ours(r, *configuration)] == []
    smtp.received.clear()


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configurations, entries, entries, entries)
def test_no_message_names_a_customer_to_a_provider(
    on_staging: Callable[..., None], configuration: tuple[str, str], to: list[str], cc: list[str], bcc: list[str]
) -> None:
    on_staging(*configuration)
    mail.outbox.clear()

    message = message_to(*to, cc=tuple(cc), bcc=tuple(bcc), merge_data={entry: {"name": "x"} for entry in to})
    mailers["provider"].send_messages([message])

    parameters: list[dict[str, Any]] = [vars(sent)["anymail_test_params"] for sent in mail.outbox]
    named = [box.addr_spec for each in parameters for field in ("to", "cc", "bcc") for box in each.get(field, ())]
    assert [address for address in named if not is_ours(address, *configuration)] == []


# --- The row


@pytest.mark.django_db
def test_the_row_names_the_original_recipient(user: User, smtp: Sink, on_staging: Callable[..., None]) -> None:
    on_staging(redirect=QA, prefix="[staging]")

    message = deliver(outbox.enqueue(Shared(user, copies=["bob@example.com"], hidden=["cid@example.com"])))

    assert (message.state, message.recipient) == (State.SENT, user.email)
    [received] = smtp.received
    assert received.recipients == [QA]
    assert received.parsed["To"] == QA
    assert received.parsed["Cc"] is None
    assert received.parsed["Subject"].startswith("[staging] ")
    assert received.parsed["X-Redirected-From"] == "ann@example.com, bob@example.com, cid@example.com"


@pytest.mark.django_db
def test_a_message_without_allowed_recipients_is_suppressed(
    user: User, smtp: Sink, on_staging: Callable[..., None]
) -> None:
    on_staging(allowed="ours.example")

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, message.attempts, smtp.received) == (State.SUPPRESSED, 0, [])
    assert message.reason == "none of its recipients is among POSTCOMMIT_ALLOWED_RECIPIENTS"


@pytest.mark.django_db
@pytest.mark.parametrize("copies", [[], [COLLEAGUE]])
def test_a_bounce_of_the_redirect_target_does_not_suppress_the_recipient(
    user: User, smtp: Sink, on_staging: Callable[..., None], copies: list[str]
) -> None:
    on_staging(redirect=QA, allowed="ours.example")
    smtp.script.to = {QA: "550 5.1.1 no such user"}

    message = deliver(outbox.enqueue(Shared(user, copies=copies)))

    assert (message.state, Suppression.objects.count()) == (State.FAILED, 0)
    smtp.script.to = {}
    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT


@pytest.mark.django_db
def test_a_bounce_of_an_allowed_copy_does_not_suppress_the_removed_recipient(
    user: User, smtp: Sink, on_staging: Callable[..., None]
) -> None:
    on_staging(allowed="ours.example")
    smtp.script.to = {COLLEAGUE: "550 5.1.1 no such user"}

    deliver(outbox.enqueue(Shared(user, copies=[COLLEAGUE])))

    assert not Suppression.objects.filter(address=user.email).exists()


@pytest.mark.django_db
def test_a_bounce_of_the_last_recipient_does_not_suppress_the_first(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Shared(user, copies=["bob@example.com"]))
    Message.objects.update(answers={user.email: ACCEPTED})
    smtp.script.to = {"bob@example.com": "550 5.1.1 no such user"}

    assert deliver(message).state == State.FAILED

    assert not Suppression.objects.filter(address=user.email).exists()


@pytest.mark.django_db
def test_a_suppressed_customer_stays_suppressed_as_in_production(
    user: User, smtp: Sink, on_staging: Callable[..., None]
) -> None:
    on_staging(redirect=QA)
    Suppression.objects.create(address=user.email, reason="550")

    assert deliver(outbox.enqueue(Plain(user))).state == State.SUPPRESSED
    assert smtp.received == []


@pytest.mark.django_db
def test_a_copied_production_row_with_answers_reaches_no_customer(
    user: User, smtp: Sink, on_staging: Callable[..., None]
) -> None:
    message = outbox.enqueue(Shared(user, copies=["bob@example.com"]))
    Message.objects.update(answers={user.email: ACCEPTED}, state=State.FAILED)
    on_staging(redirect=QA)

    assert outbox.retry(Message.objects.filter(pk=message.pk), reason="again") == 1
    deliver(message)
    deliver(outbox.resend(message))

    assert {recipient for received in smtp.received for recipient in received.recipients} == {QA}


def test_the_transport_restricts_mail_without_the_outbox(smtp: Sink, on_staging: Callable[..., None]) -> None:
    on_staging(redirect=QA)
    assert isinstance(send(message_to(CUSTOMER)), Accepted)
    assert smtp.received[0].recipients == [QA]

    on_staging(allowed="ours.example")
    assert isinstance(send(message_to(CUSTOMER)), PermanentRefusal)
    assert message_to(CUSTOMER).send(using="transport") == 0
    assert len(smtp.received) == 1


def test_without_the_settings_it_is_no_test_system() -> None:
    assert options().redirect_all_to == ""
    assert not staging.is_test_system()
