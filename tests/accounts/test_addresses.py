"""What an e-mail address may look like, and what becomes of it: by table, and for whatever Hypothesis thinks of."""

import pytest
from django.core.exceptions import ValidationError
from django.forms import EmailField
from django.utils import translation
from hypothesis import example, given
from hypothesis import strategies as st

from accounts.addresses import DOMAIN, DOTS, LOCAL_PART, ONE_AT, RESERVED, TOO_LONG, canonical
from accounts.forms import AddressForm
from accounts.models import User

LONGEST_LOCAL = "a" * 64
LABELS = ".".join(["b" * 61] * 3)  # with the longest local part and its @ sign, 250 characters


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("ann@example.com", "ann@example.com"),
        ("ANN@EXAMPLE.COM", "ann@example.com"),
        ("Ann.O'Neil@Example.com", "ann.o'neil@example.com"),
        ("ann+tag@example.com", "ann+tag@example.com"),
        ("ann_b-c@example.com", "ann_b-c@example.com"),
        ("!#$%&'*+/=?^_`{|}~-@x.com", "!#$%&'*+/=?^_`{|}~-@x.com"),
        ("a%0aBcc%3Ab@x.com", "a%0abcc%3ab@x.com"),  # a percent sign is a percent sign; nothing decodes it
        ("1@2.com", "1@2.com"),
        ("a@sub.sub.example.co.uk", "a@sub.sub.example.co.uk"),
        ("a@1and1.com", "a@1and1.com"),
        # Domains in other scripts become punycode, whatever they look like: they are addresses, and mail goes there.
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("a@BÜCHER.example", "a@xn--bcher-kva.example"),
        ("a@bu\u0308cher.example", "a@xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("a@XN--BCHER-KVA.example", "a@xn--bcher-kva.example"),
        ("a@straße.example", "a@xn--strae-oqa.example"),  # IDNA 2008; 2003 made "strasse" of it
        ("a@例え.jp", "a@xn--r8jz45g.jp"),
        ("a@ไทย.ไทย", "a@xn--o3cw4h.xn--o3cw4h"),
        (
            "a@ex\u0430mple.com",
            "a@xn--exmple-4nf.com",
        ),  # a Cyrillic letter, and in punycode nobody takes it for another
        # What UTS 46 takes for the same name, as browsers do.
        ("a@oﬃce.com", "a@office.com"),
        ("a@ｅxample.com", "a@example.com"),
        ("a@\u212aelvin.com", "a@kelvin.com"),
        ("a@ⅷ.com", "a@viii.com"),
        ("a@x\u3002com", "a@x.com"),
        # Only names that no mail can reach are reserved; those of somebody's own network are not.
        ("a@x.example", "a@x.example"),
        ("a@mail.internal", "a@mail.internal"),
        (f"{LONGEST_LOCAL}@example.com", f"{LONGEST_LOCAL}@example.com"),
        (f"{LONGEST_LOCAL}@{LABELS}.com", f"{LONGEST_LOCAL}@{LABELS}.com"),
        (f"a@{'b' * 63}.com", f"a@{'b' * 63}.com"),
    ],
)
def test_an_address_has_one_form(typed: str, address: str) -> None:
    assert canonical(typed) == address


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("", ONE_AT),
        ("@", ONE_AT),
        ("ann", ONE_AT),
        ("a@", ONE_AT),
        ("@x.com", ONE_AT),
        ("a@b@c.com", ONE_AT),
        ("a＠x.com", ONE_AT),
        ("a﹫x.com", ONE_AT),
        ("a@x.com, b@x.com", ONE_AT),
        ("a@x.com;b@x.com", ONE_AT),
        ("a@x.com b@x.com", ONE_AT),
        ("@x.com,@y.com:a@z.com", ONE_AT),  # a source route
        ("a@x.com\r\nBcc: b@x.com", ONE_AT),
        ("a@x.com%0aBcc:b@x.com", ONE_AT),
        ('"a@b"@x.com', ONE_AT),
        ("mıke@x.com", LOCAL_PART),
        ("\u212aim@x.com", LOCAL_PART),
        ("аnn@example.com", LOCAL_PART),
        ("é@x.com", LOCAL_PART),
        ("e\u0301@x.com", LOCAL_PART),
        ("ก@x.com", LOCAL_PART),
        ("a\u200bb@x.com", LOCAL_PART),
        ("a\u202eb@x.com", LOCAL_PART),
        ("a\u00adb@x.com", LOCAL_PART),
        ("\ufeffa@x.com", LOCAL_PART),
        ("\ud800@x.com", LOCAL_PART),
        (" a@x.com", LOCAL_PART),
        ("a @x.com", LOCAL_PART),
        ("a\t@x.com", LOCAL_PART),
        ("a\n@x.com", LOCAL_PART),
        ("a\x00@x.com", LOCAL_PART),
        ("a\x7f@x.com", LOCAL_PART),
        ('"ann"@x.com', LOCAL_PART),
        ('"a b"@x.com', LOCAL_PART),
        ('"a\x01b"@x.com', LOCAL_PART),
        ("a(comment)@x.com", LOCAL_PART),
        ("a\\b@x.com", LOCAL_PART),
        ("a,b@x.com", LOCAL_PART),
        ("mailto:a@x.com", LOCAL_PART),
        ("https://a@x.com", LOCAL_PART),
        ("a%0aBcc:b@x.com", LOCAL_PART),
        ("<script>@x.com", LOCAL_PART),
        ("<a@x.com>", LOCAL_PART),
        ("Ann <a@x.com>", LOCAL_PART),
        (".a@x.com", DOTS),
        ("a.@x.com", DOTS),
        ("a..b@x.com", DOTS),
        ("a@x..com", DOTS),
        ("a@.x.com", DOTS),
        ("a@x.com.", DOTS),
        ("a@b", DOMAIN),
        ("a@b.c", DOMAIN),  # no top-level domain has one letter
        ("a@[127.0.0.1]", DOMAIN),
        ("a@[IPv6:::1]", DOMAIN),
        ("a@127.0.0.1", DOMAIN),
        ("a@x.123", DOMAIN),
        ("a@x.c0m1", DOMAIN),
        ("a@٣.com", DOMAIN),
        ("a@a_b.com", DOMAIN),
        ("a@_dmarc.x.com", DOMAIN),
        ("a@-x.com", DOMAIN),
        ("a@x-.com", DOMAIN),
        ("a@ab--cd.com", DOMAIN),
        ("a@xn--zzzz.example", DOMAIN),
        ("a@xn--a.com", DOMAIN),
        ("a@😀.example", DOMAIN),
        ("a@x\u200b.com", DOMAIN),
        ("a@\u202ex.com", DOMAIN),
        ("a@ex\u00adample.com", DOMAIN),
        ("a@\ud800.com", DOMAIN),
        ("a@x.com\x00", DOMAIN),
        ("a@x.com ", DOMAIN),
        ("a@x com", DOMAIN),
        ("a@x,com", DOMAIN),
        ("a@x.com>", DOMAIN),
        ("a@x.com(comment)", DOMAIN),
        ("a@x.com/", DOMAIN),
        ("a@x.com?subject=1", DOMAIN),
        ("a@x.com#f", DOMAIN),
        ("a@*.com", DOMAIN),
        ("a@<script>.com", DOMAIN),
        (f"a@{'b' * 64}.com", DOMAIN),
        (f"a@{'ü' * 60}.com", DOMAIN),  # longer than 63 as punycode
        ("a@localhost", RESERVED),
        ("a@x.localhost", RESERVED),
        ("a@x.test", RESERVED),
        ("a@x.INVALID", RESERVED),
        ("a@x.local", RESERVED),
        ("a@x.onion", RESERVED),
        ("a@in-addr.arpa", RESERVED),
        (f"{LONGEST_LOCAL}a@example.com", TOO_LONG),
        (f"{LONGEST_LOCAL}@{LABELS}.b.com.uk", TOO_LONG),
        (f"{LONGEST_LOCAL}@{LABELS}.museum", TOO_LONG),  # 257 characters
        ("a" * 100_000 + "@x.com", TOO_LONG),
        ("a@" + "b." * 200 + "com", TOO_LONG),
    ],
)
def test_what_is_no_address_is_refused_with_a_reason(typed: str, complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        canonical(typed)

    assert caught.value.message is complaint


def test_a_reason_is_told_in_thai() -> None:
    for complaint in (ONE_AT, TOO_LONG, DOTS, LOCAL_PART, RESERVED, DOMAIN):
        with translation.override("th"):
            in_thai = str(complaint)
        with translation.override("en"):
            assert in_thai != str(complaint)


@pytest.mark.parametrize("typed", [" ann@example.com ", "ann@example.com\r\n", "\u00a0Ann@example.com\t"])
def test_space_around_an_address_is_a_slip_of_the_hand(typed: str) -> None:
    form = AddressForm({"email": typed})

    assert form.is_valid()
    assert form.cleaned_data["email"] == "ann@example.com"


@pytest.mark.django_db
def test_however_it_was_written_an_address_has_one_account() -> None:
    User.objects.create_user("Ann@BÜCHER.example")

    assert User.objects.get().email == "ann@xn--bcher-kva.example"


anything = st.text(max_size=80)
near_addresses = st.builds(
    "{}@{}.{}".format,
    st.text(st.sampled_from("aZ0.+'_-\u212aıﬃé \"\\(\x00"), max_size=8),
    st.text(st.sampled_from("aZ0.-_üßK\u212aﬃⅷ。\u0430ไ\u200d😀"), max_size=12),
    st.sampled_from(["com", "COM", "c", "ไทย", "xn--o3cw4h", "co.uk", "example", "ﬃ", "\u212ao"]),
)


@given(anything | near_addresses | st.emails())
@example("a@b.c")
@example("a@\u212ao.\u212ao")
def test_the_one_form_is_stable_ascii_and_fit_for_every_field(typed: str) -> None:
    try:
        address = canonical(typed)
    except ValidationError:
        return
    assert address.isascii()
    assert address == address.lower()
    assert len(address) <= 254
    assert canonical(address) == address
    assert EmailField().clean(address) == address
    assert User._meta.get_field("email").clean(address, None) == address
