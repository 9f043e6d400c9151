"""One form of an address: for the envelope, the header, and to compare."""

from email.headerregistry import Address, AddressHeader
from email.utils import parseaddr
from typing import Any

import idna
import pytest
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, send_mail
from django.utils import timezone
from hypothesis import assume, example, given
from hypothesis import strategies as st

from accounts import addresses as of_accounts
from accounts.models import User
from mailer import outbox
from mailer.addresses import (
    PLAIN_MAILBOX,
    InvalidAddress,
    as_compared,
    as_transmitted,
    canonical,
    domain_in_ascii,
    for_envelope,
    mailbox,
)
from mailer.delivery import pipeline
from mailer.mime import encoding, serializer
from mailer.models import Message, State, Suppression
from mailer.recipients import suppression
from tests.mailer.kinds import Plain, Shared
from tests.smtp_sink import Sink

BOOKS = "xn--bcher-kva.example"
SPELLINGS = [
    f"ann@{BOOKS}",
    "ann@bücher.example",
    "ann@BÜCHER.example",
    "ann@bu\u0308cher.example",
    "ann@BU\u0308CHER.EXAMPLE",
    "ann@ｂüｃｈｅｒ.example",
    "ann@bücher\u3002example",
    "ann@bücher.example.",
    "ann@bücher.example\uff61",
    f"ann@{BOOKS}.",
    "ann@XN--BCHER-KVA.Example",
    "ANN@Bücher.Example",
    '"ann"@bücher.example',
    '"Ann"@BÜCHER.example.',
    "Ann Müller <ann@bücher.example>",
    '"Müller, Ann" <Ann@bücher.example>',
    "ann@bücher.example (at work)",
]

DIFFERENT_BY_IDNA_2008 = [
    ("straße.example", "xn--strae-oqa.example"),
    ("strasse.example", "strasse.example"),
    ("STRAẞE.example", "xn--strae-oqa.example"),
    ("faß.de", "xn--fa-hia.de"),
    ("fass.de", "fass.de"),
    ("βόλος.com", "xn--nxasmm1c.com"),
    ("βόλοσ.com", "xn--nxasmq6b.com"),
    ("نامه\u200cای.com", "xn--mgba3gch31f060k.com"),
    ("نامهای.com", "xn--mgba3gch31f.com"),
]

INVALID = [
    "i❤.example",
    "a_b.bücher.example",
    "bücher..example",
    ".bücher.example",
    "-ü.example",
    f"{'ü' * 64}.example",
    "ü\u200d.x",
    "ü" * 70_000,
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_of_an_address_have_one_form(spelling: str) -> None:
    assert canonical(spelling) == f"ann@{BOOKS}"
    assert as_transmitted(spelling) in {f"ann@{BOOKS}", f"Ann@{BOOKS}", f"ANN@{BOOKS}"}
    box = mailbox(spelling)
    assert box is None or as_compared(box) == f"ann@{BOOKS}"  # a dot at the end is a defect of a header


@pytest.mark.parametrize(("domain", "encoded"), DIFFERENT_BY_IDNA_2008)
def test_domains_that_idna_2003_confuses_stay_different(domain: str, encoded: str) -> None:
    assert domain_in_ascii(domain) == encoded


@pytest.mark.parametrize(
    ("typed", "transmitted", "compared"),
    [
        ("John.Smith@Example.COM", "John.Smith@example.com", "john.smith@example.com"),
        ('"John Smith"@Example.COM', '"John Smith"@example.com', '"john smith"@example.com'),
        ('"john"@example.com', "john@example.com", "john@example.com"),
        ('"a@b"@example.com', '"a@b"@example.com', '"a@b"@example.com'),
        ('"a\\"b"@example.com', '"a\\"b"@example.com', '"a\\"b"@example.com'),
        ("O'Neil+Tag@example.com", "O'Neil+Tag@example.com", "o'neil+tag@example.com"),
        ("Jörg@Bücher.example", f"Jörg@{BOOKS}", f"jörg@{BOOKS}"),
        ("JO\u0308RG@bücher.example", f"JO\u0308RG@{BOOKS}", f"jörg@{BOOKS}"),
        ("ann@[192.0.2.1]", "ann@[192.0.2.1]", "ann@[192.0.2.1]"),
        ("ann@[IPv6:2001:DB8::1]", "ann@[ipv6:2001:db8::1]", "ann@[ipv6:2001:db8::1]"),
        ("ann@a_b.example", "ann@a_b.example", "ann@a_b.example"),
        ("root", "root", "root"),
        ("", "", ""),
    ],
)
def test_the_local_part_is_transmitted_as_typed_and_compared_in_lower_case(
    typed: str, transmitted: str, compared: str
) -> None:
    assert (as_transmitted(typed), for_envelope(typed), canonical(typed)) == (transmitted, transmitted, compared)


@pytest.mark.parametrize("domain", INVALID)
def test_a_domain_that_cannot_be_encoded_is_refused(domain: str) -> None:
    with pytest.raises(InvalidAddress, match="its domain"):
        for_envelope(f"Ann@{domain}")

    assert mailbox(f"ann@{domain}") is None
    assert canonical(f"Ann@{domain}") == f"ann@{domain}".lower()  # it can still be looked up


labels = st.text(
    st.sampled_from("abz09-ßüÜéşıiIςσΣäöłžæøñ\u0301\u0308\u200dжяЯقفไทย例え中国ﬃⅷＡ\u212a"), min_size=1, max_size=12
)
international = st.lists(labels, min_size=1, max_size=3).map(".".join)


def encoded(domain: str) -> str:
    try:
        domain_in_ascii(f"{domain}\u3002")  # so that an ASCII domain is checked too
        return domain_in_ascii(domain)
    except InvalidAddress:
        assume(False)
        raise


def decoded(form: str) -> str:
    return ".".join(idna.ulabel(label) if label.startswith("xn--") else label for label in form.split("."))


@given(international)
@example("Straße.example")
def test_every_spelling_of_a_generated_domain_is_one_domain(domain: str) -> None:
    form = encoded(domain)
    unicode = decoded(form)

    spellings = [form, form.upper(), unicode, domain + ".", unicode + "\u3002", domain.replace(".", "\uff0e")]
    assert {domain_in_ascii(spelling) for spelling in spellings} == {form}
    assert {canonical(f"Ann@{spelling}") for spelling in spellings} == {f"ann@{form}"}


@given(international, international)
@example("straße.de", "strasse.de")
@example("βόλος.com", "βόλοσ.com")
def test_two_different_idna_2008_domains_are_never_the_same(one: str, other: str) -> None:
    first, second = encoded(one), encoded(other)

    assert (first == second) == (decoded(first) == decoded(second))
    assert first.isascii()
    assert domain_in_ascii(decoded(first)) == first


messy = st.text('\n\r\t\\"@aB.()<> ;:,[]é。\u2028\0', max_size=8)
"""What parsers of addresses take for parts of one, in any order."""
anything = messy | st.text(max_size=60) | st.emails() | st.builds("{}@{}".format, st.text(max_size=20), international)


@given(anything)
@example("İ@example.com")
@example("ΑΣ@example.com")
@example('"" <a@b>')
@example("a@b@c")
@example("\n\\")
@example(":\u2028é")
@example("a:<@[\t")
def test_the_forms_are_stable(entry: str) -> None:
    assert as_transmitted(as_transmitted(entry)) == as_transmitted(entry)
    assert canonical(canonical(entry)) == canonical(entry) == canonical(as_transmitted(entry))


@given(anything)
def test_accounts_and_mailer_agree(typed: str) -> None:
    try:
        of_account = of_accounts.canonical(typed)
    except ValidationError:
        return
    assert canonical(typed) == canonical(of_account) == of_account


@given(st.sampled_from(SPELLINGS[:-1]))
def test_envelope_and_header_name_the_same_domain(spelling: str) -> None:
    assume(mailbox(spelling) is not None)
    mail = EmailMessage("Hello", "x", "us@straße.example", [spelling], reply_to=["us@faß.de"])

    for utf8 in (False, True):
        built = encoding.build(serializer.load(serializer.dump(mail)), eight_bit=False, utf8=utf8)
        assert [a.domain.lower() for a in built["To"].addresses] == [for_envelope(spelling).rpartition("@")[2]]
        assert "us@xn--strae-oqa.example" in built["From"]
        assert "us@xn--fa-hia.de" in built["Reply-To"]
    assert b"strasse" not in encoding.octets(built)


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to", "from_email"])
def test_a_built_message_with_an_invalid_domain_is_refused(field: str) -> None:
    entry = "ann@i❤.example"
    fields: dict[str, Any] = {"to": ["bob@example.com"]} | {field: entry if field == "from_email" else [entry]}

    with pytest.raises(ValueError, match=r"domain|Invalid address") as refused:
        serializer.dump(EmailMessage("Hello", "x", **fields))
    assert "❤" not in str(refused.value)


@pytest.mark.django_db
def test_an_invalid_domain_is_refused_when_it_is_enqueued(user: User) -> None:
    user.email = "ann@i❤.example"

    with pytest.raises(InvalidAddress, match="not a valid international domain"):
        outbox.enqueue(Plain(user))
    with pytest.raises(InvalidAddress, match="not a valid international domain"):
        outbox.enqueue_many([Plain(user)])
    assert not Message.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("stored", [SPELLINGS[0], SPELLINGS[2], SPELLINGS[5]])
def test_a_suppression_in_any_spelling_stops_mail_to_every_spelling(stored: str, spelling: str) -> None:
    suppression.suppress(stored, "550 5.1.1 unknown")
    suppression.suppress(spelling, "550 5.1.1 unknown")

    assert list(Suppression.objects.values_list("address", flat=True)) == [f"ann@{BOOKS}"]
    assert Suppression.objects.filter(address=spelling).exists()
    assert suppression.reason_for(spelling) == "550 5.1.1 unknown"
    assert suppression.suppressed([spelling, "ann@bucher.example"]) == {spelling}


@pytest.mark.django_db
@pytest.mark.parametrize("spelling", ["ann@bücher.example", "Ann@BÜCHER.example", "ann@ｂücher.example"])
def test_mail_to_another_spelling_of_a_suppressed_address_is_not_sent(user: User, smtp: Sink, spelling: str) -> None:
    suppression.suppress(f"ann@{BOOKS}", "550 5.1.1 unknown")
    User.objects.filter(pk=user.pk).update(email=spelling)
    user.refresh_from_db()
    alone, beside = outbox.enqueue(Plain(user)), outbox.enqueue(Shared(user, copies=["bob@example.com"]))

    for message in (alone, beside):
        Message.objects.filter(pk=message.pk).update(due_at=timezone.now())
        pipeline.deliver(message.pk)
        message.refresh_from_db()

    assert (alone.state, beside.state) == (State.SUPPRESSED, State.SENT)
    assert [received.recipients for received in smtp.received] == [["bob@example.com"]]


@pytest.mark.django_db
def test_a_mail_never_goes_to_the_domain_of_another_owner(smtp: Sink) -> None:
    send_mail("Hello", "x", None, ["Ann@straße.example"])
    pipeline.deliver(Message.objects.get().pk)

    [received] = smtp.received
    assert received.recipients == ["Ann@xn--strae-oqa.example"]
    assert received.parsed["To"] == "Ann@xn--strae-oqa.example"


@pytest.mark.django_db
def test_the_admins_form_stores_the_canonical_form_once() -> None:
    row = Suppression(address="Ann@BÜCHER.example", reason="by hand")
    row.full_clean()
    row.save()

    assert Suppression.objects.get().address == f"ann@{BOOKS}"
    with pytest.raises(ValidationError, match="suppression_unique"):
        Suppression(address="ann@bücher.example", reason="again").full_clean()


@given(st.from_regex(PLAIN_MAILBOX, fullmatch=True))
def test_a_plain_mailbox_is_the_same_for_every_parser(entry: str) -> None:
    found = PLAIN_MAILBOX.fullmatch(entry)
    assert found is not None
    parsed = AddressHeader.value_parser(entry)
    name, address = parseaddr(entry)

    assert (parsed.all_defects, [each.addr_spec for each in parsed.all_mailboxes]) == ([], [found["address"]])
    assert (address, str(Address(name, addr_spec=address))) == (found["address"], entry)
