"""Mail sent by SMTP is signed, and another implementation, Perl's Mail::DKIM, verifies it."""

import base64
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import dkim as dkimpy
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from mailer.checks.settings import check_settings
from mailer.mime import encoding
from mailer.outcomes import Accepted, PermanentRefusal
from mailer.transports import dkim
from tests import mail_dkim
from tests.mailer.transports.sending import send
from tests.mailer.transports.test_smtp import NASTY, text
from tests.smtp_sink import Sink


@dataclass(frozen=True)
class KeyFile:
    """A private key written by OpenSSL, with its DNS record."""

    path: Path
    record: str


def openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyFile]:
    """Make one key of each kind; its name is the selector."""
    folder = tmp_path_factory.mktemp("dkim")
    made = {
        "pkcs8": ("genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"),
        "pkcs1": ("genrsa", "-traditional", "2048"),
        "short": ("genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1023"),
        "tiny": ("genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:512"),
        "ed": ("genpkey", "-algorithm", "ed25519"),
        "locked": ("genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:opensesame"),
        "ec": ("genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    }
    for name, command in made.items():
        (folder / name).write_bytes(openssl(*command))
    (folder / "public").write_bytes(openssl("pkey", "-in", str(folder / "ed"), "-pubout"))
    seed = openssl("pkey", "-in", str(folder / "ed"), "-outform", "DER")[-32:]
    (folder / "dknewkey").write_bytes(base64.b64encode(seed))
    (folder / "windows").write_bytes((folder / "pkcs8").read_bytes().replace(b"\n", b"\r\n"))
    (folder / "nothing").write_bytes(b"")
    (folder / "noise").write_bytes(b"this is not a key, but a s3cret")
    pem = (folder / "pkcs8").read_bytes().splitlines(keepends=True)
    (folder / "truncated").write_bytes(b"".join(pem[:9] + pem[10:]))
    # in the middle of the first prime, so that it still parses
    (folder / "flipped").write_bytes(b"".join([*pem[:13], pem[13].swapcase(), *pem[14:]]))
    return {file.name: KeyFile(file, record(file)) for file in folder.iterdir()}


def record(file: Path) -> str:
    """The TXT record that publishes the key, made by OpenSSL."""
    source = file.with_name("ed") if file.name == "dknewkey" else file
    command = ["openssl", "pkey", "-in", str(source), "-pubout", "-outform", "DER", "-passin", "pass:opensesame"]
    public = subprocess.run(command, capture_output=True, check=False).stdout
    if file.name in ("ed", "dknewkey"):
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(public[-32:]).decode()}"
    return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


@dataclass
class Installation:
    """Configure the keys, and verify messages with Mail::DKIM."""

    settings: Settings
    keys: Mapping[str, KeyFile]
    folder: Path
    domain: str = "example.com"
    used: list[str] = field(default_factory=list)

    def use(self, *names: str, domain: str = "") -> None:
        self.used = list(names)
        self.domain = domain or "example.com"
        entries = ",".join(f"{name}:{self.keys[name].path}" for name in names)
        self.settings.POSTCOMMIT = {"DKIM_KEYS": entries} | ({"DKIM_DOMAIN": domain} if domain else {})

    def verify(self, source: bytes) -> dict[str, str]:
        records = {f"{name}._domainkey.{self.domain}": self.keys[name].record for name in self.used}
        return mail_dkim.verify(source, records, self.folder)


@pytest.fixture
def installation(settings: Settings, keys: dict[str, KeyFile], tmp_path: Path) -> Installation:
    settings.DEFAULT_FROM_EMAIL = "Us <us@example.com>"
    return Installation(settings, keys, tmp_path)


def sent(sink: Sink, message: EmailMessage) -> bytes:
    outcome = send(message)
    assert isinstance(outcome, Accepted), outcome
    return sink.received[-1].source


def signatures(source: bytes) -> int:
    return source.split(b"\r\n\r\n")[0].count(b"DKIM-Signature:")


STREAM = {
    "List-Unsubscribe": "<https://example.com/leave/1234567890>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    "List-Id": "News <news.example.com>",
    "Feedback-ID": "1:news:example",
    "Auto-Submitted": "auto-generated",
}


@pytest.mark.parametrize("name", ["pkcs8", "pkcs1", "windows", "ed", "dknewkey"])
def test_another_implementation_verifies_the_signature(name: str, installation: Installation, smtp: Sink) -> None:
    installation.use(name)

    assert installation.verify(sent(smtp, text())) == {name: "pass"}


def test_two_keys_sign_twice(installation: Installation, smtp: Sink) -> None:
    installation.use("pkcs8", "ed")

    source = sent(smtp, text(headers=STREAM))

    assert installation.verify(source) == {"pkcs8": "pass", "ed": "pass"}


def test_without_a_key_nothing_is_signed(installation: Installation, smtp: Sink) -> None:
    installation.use()

    assert signatures(sent(smtp, text())) == 0


@pytest.mark.parametrize("message", NASTY.values(), ids=NASTY.keys())
@pytest.mark.parametrize("without", [(), ("8BITMIME", "SMTPUTF8")], ids=["8BITMIME", "7bit"])
def test_the_signature_of_every_message_verifies_on_arrival(
    message: EmailMessage, without: tuple[str, ...], installation: Installation, through: Callable[[str], None]
) -> None:
    installation.use("ed")
    with Sink(without=without) as sink:
        through(sink.url)

        assert installation.verify(sent(sink, message)) == {"ed": "pass"}


def test_a_signed_message_is_7bit_so_that_no_relay_encodes_it(installation: Installation, smtp: Sink) -> None:
    """RFC 6376, 5.3."""
    installation.use("ed")

    assert sent(smtp, text()).isascii()


def test_headers_in_utf8_are_signed(installation: Installation, smtp: Sink) -> None:
    installation.use("pkcs8", "ed")
    message = EmailMessage("Grüße", "Hallo", "Jörg <jörg@example.com>", ["jürgen@bücher.example"])

    source = sent(smtp, message)

    assert "Subject: Grüße".encode() in source
    assert installation.verify(source) == {"pkcs8": "pass", "ed": "pass"}


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (b"Hello, Ann", b"Hello, Bob"),
        (b"leave/1234567890", b"leave/0987654321"),
        (b"=One-Click", b"=Two-Clicks"),
        (b"Subject: Hello", b"Subject: Hullo"),
        (b"us@example.com", b"me@example.com"),
        (b"1:news:example", b"2:news:example"),
        (b"auto-generated", b"auto-replied"),
        (b"\r\nTo:", b"\r\nTo: eve@example.com\r\nTo:"),
        (b"\r\nFrom:", b"\r\nFrom: eve@example.com\r\nFrom:"),
        (b"\r\nSubject:", b"\r\nSubject: Win\r\nSubject:"),
        (b"\r\nSubject:", b"\r\nCc: eve@example.com\r\nSubject:"),
        (b"\r\nSubject:", b"\r\nReply-To: eve@example.com\r\nSubject:"),
        (b"\r\nList-Unsubscribe:", b"\r\nList-Unsubscribe: <https://evil.example>\r\nList-Unsubscribe:"),
        (b"text/plain", b"text/html"),
    ],
)
@pytest.mark.parametrize("name", ["pkcs8", "ed"])
def test_a_change_in_transit_breaks_the_signature(
    name: str, pattern: bytes, replacement: bytes, installation: Installation, smtp: Sink
) -> None:
    installation.use(name)
    source = sent(smtp, text("Hello, Ann\n", headers=STREAM))
    changed = source.replace(pattern, replacement)
    assert changed != source

    assert installation.verify(source) == {name: "pass"}
    assert installation.verify(changed)[name].startswith("fail")


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [(b"Subject: Hello", b"SUBJECT:   Hello  "), (b"Ann\r\n", b"Ann  \r\n\r\n\r\n"), (b"Hello, ", b"Hello,\t ")],
)
def test_changed_white_space_does_not_break_the_signature(
    pattern: bytes, replacement: bytes, installation: Installation, smtp: Sink
) -> None:
    """Both halves of relaxed/relaxed (RFC 6376, 3.4)."""
    installation.use("ed")
    source = sent(smtp, text("Hello, Ann\n"))

    assert installation.verify(source.replace(pattern, replacement)) == {"ed": "pass"}


@pytest.mark.parametrize(
    ("author", "is_signed"),
    [
        ("us@example.com", True),
        ("Us <us@EXAMPLE.com>", True),
        ("us@mail.example.com", True),
        ("us@notexample.com", False),
        ("us@example.com.evil.example", False),
        ("us@other.example", False),
        ('"us@example.com" <me@other.example>', False),
        ("us@example.com, me@other.example", False),
    ],
)
def test_only_mail_of_the_own_domain_is_signed(author: str, is_signed: bool, installation: Installation) -> None:
    installation.use("ed")
    signer = dkim.signer()
    assert signer

    assert signer.signs(text(headers={"From": author})) == is_signed
    assert signer.signs(EmailMessage("H", "x", author, ["ann@example.com"])) == is_signed


def test_mail_of_another_domain_is_sent_unsigned(installation: Installation, smtp: Sink) -> None:
    installation.use("ed")

    assert signatures(sent(smtp, EmailMessage("H", "Grüße", "us@other.example", ["ann@example.com"]))) == 0
    assert "BODY=8BITMIME" in smtp.received[0].mail_options


def test_the_domain_may_differ_from_default_from_email(installation: Installation, smtp: Sink) -> None:
    installation.use("ed", domain="bücher.example")
    installation.domain = "xn--bcher-kva.example"

    source = sent(smtp, EmailMessage("H", "x", "us@Bücher.example", ["ann@example.com"]))

    assert installation.verify(source) == {"ed": "pass"}


def test_openssl_signs_as_dkimpy_does(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.use("pkcs1")
    signer = dkim.signer()
    assert signer
    octets = encoding.octets(encoding.build(text(headers=STREAM), eight_bit=False))
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000)

    ours = signer.sign(octets)
    monkeypatch.delattr(dkim._Message, "gen_header")

    assert ours == signer.sign(octets)


def test_many_threads_sign_with_the_same_keys(installation: Installation) -> None:
    installation.use("pkcs8", "ed")

    def sign(number: int) -> bytes:
        signer = dkim.signer()
        assert signer
        return signer.sign(encoding.octets(encoding.build(text(f"Number {number}\n"), eight_bit=False)))

    with ThreadPoolExecutor(8) as pool:
        sources = list(pool.map(sign, range(40)))

    assert {str(installation.verify(source)) for source in sources[::8]} == {"{'pkcs8': 'pass', 'ed': 'pass'}"}
    records = {f"{n}._domainkey.example.com.": installation.keys[n].record.encode() for n in installation.used}
    for source in sources:
        for index in range(2):
            assert dkimpy.DKIM(source).verify(index, dnsfunc=lambda name, timeout: records[name.decode()])


def test_a_message_that_cannot_be_signed_fails_and_is_not_quoted(installation: Installation, smtp: Sink) -> None:
    installation.use("ed")

    outcome = send(text(headers={"No Name For A Header": "s3cret"}))

    assert outcome == PermanentRefusal("", "the message cannot be signed: MessageFormatError")
    assert smtp.received == []
    assert isinstance(send(text()), Accepted)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "cannot be read: No such file or directory"),
        ("nothing", dkim.NO_KEY),
        ("noise", dkim.NO_KEY),
        ("short", "has 1023 bits; receivers want at least 1024, and 2048 are better (RFC 8301)"),
        ("tiny", "has 512 bits; receivers want at least 1024, and 2048 are better (RFC 8301)"),
        ("locked", dkim.NO_KEY),
        ("public", dkim.NO_KEY),
        ("ec", dkim.NO_KEY),
        ("truncated", dkim.NO_KEY),
        ("flipped", dkim.NO_KEY),
    ],
)
def test_the_error_about_an_unusable_key_names_its_path_and_quotes_nothing(
    name: str, reason: str, settings: Settings, keys: dict[str, KeyFile]
) -> None:
    path = keys["pkcs8"].path.with_name(name)
    settings.POSTCOMMIT = {"DKIM_KEYS": f"s1:{path}"}

    with pytest.raises(ImproperlyConfigured) as caught:
        dkim.signer()

    said = str(caught.value)
    assert said.startswith(f"POSTCOMMIT_DKIM_KEYS: the key of the selector 's1', {path}, {reason}")
    content = path.read_text() if path.exists() else ""
    assert not [line for line in content.splitlines() if len(line) > 12 and "-----" not in line and line in said]


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"DKIM_KEYS": "mail"}, "POSTCOMMIT_DKIM_KEYS must be selector:path"),
        ({"DKIM_KEYS": "a b:/key"}, "POSTCOMMIT_DKIM_KEYS must be selector:path"),
        ({"DKIM_KEYS": "-:/key"}, "POSTCOMMIT_DKIM_KEYS must be selector:path"),
        ({"DKIM_KEYS": "s:{ed},S:{pkcs8}"}, "POSTCOMMIT_DKIM_KEYS names a selector twice"),
        ({"DKIM_KEYS": "s:{ed}", "DKIM_DOMAIN": "us@example.com"}, "POSTCOMMIT_DKIM_DOMAIN must be a domain"),
        ({"DKIM_KEYS": "s:{ed}", "DKIM_DOMAIN": "example..com"}, "POSTCOMMIT_DKIM_DOMAIN must be a domain"),
    ],
)
def test_the_error_names_a_broken_setting(
    raw: dict[str, str], complaint: str, settings: Settings, keys: dict[str, KeyFile]
) -> None:
    paths = {name: key.path for name, key in keys.items()}
    settings.POSTCOMMIT = {name: value.format_map(paths) for name, value in raw.items()}

    with pytest.raises(ImproperlyConfigured) as caught:
        dkim.signer()

    assert complaint in str(caught.value)


def test_check_names_a_missing_key(settings: Settings) -> None:
    settings.POSTCOMMIT = {"DKIM_KEYS": "s1:/no/such/key"}

    [found] = check_settings(None)
    assert (found.id, found.msg) == (
        "mailer.E012",
        "POSTCOMMIT_DKIM_KEYS: the key of the selector 's1', /no/such/key, cannot be read: No such file or directory.",
    )


def test_the_repr_of_a_signer_shows_no_key(installation: Installation) -> None:
    installation.use("ed", "pkcs8")

    signer = dkim.signer()

    assert signer
    assert not [key for key in signer.keys if key.private.decode() in repr(signer)]
    assert "private" not in repr(signer)


BODIES = st.text(st.sampled_from("é. \t\r\nxก=-") | st.characters(codec="utf-8"), max_size=300)


@given(body=BODIES, subject=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=200))
@hypothesis_settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_signature_of_any_text_verifies(body: str, subject: str, keys: dict[str, KeyFile], tmp_path: Path) -> None:
    key = dkim.parse_key("ed", keys["ed"].path.read_bytes())
    message = EmailMessage(subject, body, "us@example.com", ["ann@example.com"])

    source = dkim.Signer("example.com", (key,)).sign(encoding.octets(encoding.build(message, eight_bit=True)))

    records = {"ed._domainkey.example.com": keys["ed"].record}
    assert mail_dkim.verify(source, records, tmp_path) == {"ed": "pass"}


@pytest.mark.parametrize(
    "value", ["-----BEGIN PRIVATE KEY-----\nMC4CAQ", "bm90IGEga2V5IGF0IGFsbCBub3QgYSBrZXkgYXQgYWxsIQ=="]
)
def test_a_key_instead_of_its_path_is_not_quoted(value: str, settings: Settings) -> None:
    settings.POSTCOMMIT = {"DKIM_KEYS": (f"s1:{value}",)}

    with pytest.raises(ImproperlyConfigured, match="POSTCOMMIT_DKIM_KEYS must be selector:path") as caught:
        dkim.signer()
    assert value[:8] not in str(caught.value)
