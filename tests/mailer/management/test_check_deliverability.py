"""`check_deliverability`: the sender's domain in DNS, asked of a small DNS server in this process."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from types import SimpleNamespace

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from mailer.email import Stream
from mailer.management.commands import check_deliverability
from mailer.models import Queue
from mailer.transports import dkim, dns_records, dns_sending
from mailer.transports.dns_records import PublishedKey
from tests.mailer.transports.test_dkim import KeyFile, keys

__all__ = ["keys"]  # a fixture

GOOD = {
    ("example.com", "MX"): ["10 mail.example.com."],
    ("mail.example.com", "A"): ["192.0.2.7"],
    ("7.2.0.192.in-addr.arpa", "PTR"): ["mail.example.com."],
    ("example.com", "TXT"): ['"a=note"', '"v=spf1 include:spf.provider.example ~all"'],
    ("_dmarc.example.com", "TXT"): ['"v=DMARC1; p=none; rua=mailto:dmarc@example.com"'],
}
Zone = dict[tuple[str, str], list[str]]


class Dns:
    """A DNS server on a free port, for the records in `zone`. It answers nothing while `is_silent`."""

    def __init__(self) -> None:
        self.zone: Zone = dict(GOOD)
        self.is_silent = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            data, client = self.socket.recvfrom(4096)
            if not data:
                return self.socket.close()
            if not self.is_silent:
                self.socket.sendto(self.answer(dns.message.from_wire(data)).to_wire(), client)

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        [question] = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        if records := self.zone.get((name, kind)):
            reply.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, records))
        elif not any(name == known for known, _ in self.zone):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dns]:
    server = Dns()
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
    monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
    yield server
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"", ("127.0.0.1", server.port))


@pytest.fixture(autouse=True)
def sender(settings: Settings, through: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEFAULT_FROM_EMAIL = "Shop <shop@example.com>"
    through("smtp://relay.example.net")
    monkeypatch.setattr(check_deliverability, "KINDS", {})


def run(*arguments: str) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    out = StringIO()
    try:
        call_command("check_deliverability", *arguments, stdout=out)
    except CommandError as error:
        return error.returncode, out.getvalue() + str(error)
    return 0, out.getvalue()


def test_a_domain_with_all_records_is_good(server: Dns) -> None:
    code, said = run()

    assert code == 0
    assert "MX: mail to example.com goes to mail.example.com." in said
    assert "change" not in said


def test_what_is_missing_is_named_with_the_record_to_write(server: Dns) -> None:
    server.zone = {}

    code, said = run("--domain", "Bücher.example")

    assert code == 1
    assert 'Write: xn--bcher-kva.example. TXT "v=spf1 ' in said
    assert 'Write: _dmarc.xn--bcher-kva.example. TXT "v=DMARC1; p=none; ' in said
    assert said.endswith("3 of 6 need a change for xn--bcher-kva.example.")


def test_a_dns_that_is_silent_is_one_sentence_and_exit_code_2(server: Dns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_records, "LONGEST", 0.2)
    server.is_silent = True

    code, said = run()

    assert code == 2
    assert said.startswith("DNS does not answer about example.com: ")


def test_a_name_that_is_no_domain_is_one_sentence(server: Dns) -> None:
    assert run("--domain", "a" * 300 + "é.example")[1].startswith("'aaa")
    assert run("--domain", "a..b")[0] == 2


@pytest.mark.parametrize("algorithm", ["pkcs8", "pkcs1", "ed"])
def test_the_published_key_is_compared_with_the_one_that_signs(
    algorithm: str, server: Dns, keys: dict[str, KeyFile], settings: Settings
) -> None:
    settings.POSTCOMMIT = {"DKIM_KEYS": f"s1:{keys[algorithm].path}"}
    code, said = run()
    assert code == 1
    assert "s1._domainkey.example.com has no record" in said
    written = said.partition("Write: s1._domainkey.example.com. TXT ")[2].partition("\n")[0]
    assert written.replace('" "', "") == f'"{keys[algorithm].record}"'

    server.zone["s1._domainkey.example.com", "TXT"] = [written]
    assert run()[0] == 0

    server.zone["s1._domainkey.example.com", "TXT"] = ['"v=DKIM1; k=rsa; p=AAAA"']
    assert "has another key than this installation" in run()[1]


Records = Callable[[str, str], Sequence[str]]


def asking(**zone: list[str]) -> Records:
    """`asking(TXT=[…])` answers about every name."""
    return lambda name, kind: zone.get(f"dmarc_{kind}" if name.startswith("_dmarc.") else kind, [])


@pytest.mark.parametrize(
    ("zone", "sentence"),
    [
        ({"MX": ["0 ."]}, "says that it takes no mail"),
        ({"A": ["192.0.2.1"]}, "goes to the host of that name"),
        ({"MX": ["10 mail.example.com."]}, "goes to mail.example.com, which has no address"),
        ({"TXT": ["v=spf1 -all", "v=spf1 mx -all"]}, "has 2 records, and receivers then use none"),
        ({"TXT": ["v=spf1 mx +all"]}, "lets everyone send its mail"),
        ({"TXT": ["v=spf1 mx ?all"]}, "forbids nothing"),
        ({"TXT": ["v=spf10 mx -all"]}, "does not say which servers"),
        ({"dmarc_TXT": ["v=DMARC1; p=none", "v=DMARC1; p=reject"]}, "has 2 records"),
        ({"dmarc_TXT": ["v=DMARC1; rua=mailto:a@b.example"]}, "has no policy"),
    ],
)
def test_a_record_that_receivers_cannot_use_is_named(zone: dict[str, list[str]], sentence: str) -> None:
    assert sentence in " ".join(found.sentence for found in dns_records.check("example.com", [], asking(**zone)))


def test_the_policy_of_a_parent_domain_counts() -> None:
    def ask(name: str, kind: str) -> Sequence[str]:
        return ["v=DMARC1; p=reject"] if name == "_dmarc.example.com" else []

    [*_, dmarc] = dns_records.check("mail.shop.example.com", [], ask)

    assert dmarc.is_good


def test_the_signer_is_asked_only_for_its_own_domain(server: Dns, keys: dict[str, KeyFile], settings: Settings) -> None:
    settings.POSTCOMMIT = {"DKIM_KEYS": f"s1:{keys['ed'].path}"}
    assert dkim.signer().domain == "example.com"

    assert "POSTCOMMIT_DKIM_KEYS is not set for this domain" in run("--domain", "other.example")[1]


def test_json_has_the_same_findings(server: Dns) -> None:
    server.zone.pop(("_dmarc.example.com", "TXT"))

    code, said = run("--json")

    found = json.loads(said.splitlines()[0])
    assert (code, found["domain"], found["note"]) == (1, "example.com", "")
    [bad] = [each for each in found["findings"] if not each["is_good"]]
    assert bad["record"] == '_dmarc.example.com. TXT "v=DMARC1; p=none; rua=mailto:dmarc@example.com"'


@pytest.mark.parametrize("sender", ["shop@localhost", "Postcommit <hello@postcommit.example>"])
def test_a_local_installation_has_no_records_to_look_for(sender: str, settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = sender

    code, said = run()

    assert code == 0
    assert "DNS has no records of it, and its mail stays here" in said


KEY = PublishedKey("s1", "example.com", "rsa", "AAAA")


@pytest.mark.parametrize(
    ("bounces_to", "keys", "policy", "is_good", "sentence"),
    [
        ("example.com", [], "", True, "come to example.com itself"),
        ("bounces.example.com", [], "", True, "which belongs to example.com: SPF counts"),
        (
            "bounces.example.com",
            [],
            "; aspf=s",
            False,
            "is strict (aspf=s), so SPF does not count for DMARC, and we do not",
        ),
        ("bounces.example.com", [KEY], "; aspf=s", True, "Our DKIM signature does."),
        ("bounces.example.net", [], "", False, "is not under example.com"),
        ("badexample.com", [], "", False, "is not under example.com"),
        ("bounces.example.net", [KEY], "", True, "Our DKIM signature does."),
    ],
)
def test_mail_from_is_compared_with_the_sender(
    bounces_to: str, keys: list[PublishedKey], policy: str, is_good: bool, sentence: str
) -> None:
    ask = asking(dmarc_TXT=[f"v=DMARC1; p=none{policy}"])

    found = next(dns_sending.mail_from("example.com", bounces_to, keys, ask))

    assert found.is_good is is_good
    assert sentence in found.sentence


def test_a_sister_domain_belongs_to_the_same_organization() -> None:
    def ask(name: str, kind: str) -> Sequence[str]:
        return ["v=DMARC1; p=reject"] if name == "_dmarc.example.com" else []

    alignment, bounces, spf = dns_sending.mail_from("shop.example.com", "bounces.example.com", [], ask)

    assert alignment.is_good
    assert bounces.record == "bounces.example.com. MX 10 mail.bounces.example.com."
    assert spf.record.startswith("bounces.example.com. TXT")


@pytest.mark.parametrize(
    ("zone", "sentence", "record"),
    [
        ({}, "192.0.2.7 has no name", "7.2.0.192.in-addr.arpa. PTR mail.example.com."),
        ({"PTR": ["mail.example.com."]}, "does not have this address", "mail.example.com. A 192.0.2.7"),
        ({"PTR": ["mail.example.com."], "A": ["192.0.2.7"]}, "which has this address", ""),
    ],
)
def test_the_address_that_mail_leaves_from_has_a_name(zone: dict[str, list[str]], sentence: str, record: str) -> None:
    found = dns_sending.pointer("192.0.2.7", "example.com", asking(**zone))

    assert sentence in found.sentence
    assert found.record == record


@pytest.mark.parametrize(
    ("url", "own", "arguments", "sentence"),
    [
        ("smtp://localhost", "192.0.2.7", [], "PTR: 192.0.2.7 is called mail.example.com"),
        ("smtp://localhost", "", [], "has no public address that can be seen here"),
        ("smtp://localhost", "", ["--address", "192.0.2.7"], "PTR: 192.0.2.7 is called mail.example.com"),
        ("postmark:?server_token=t", "192.0.2.7", [], "MAIL FROM: the provider chooses it."),
    ],
)
def test_what_is_asked_depends_on_the_transport(
    url: str,
    own: str,
    arguments: list[str],
    sentence: str,
    server: Dns,
    through: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    through(url)
    monkeypatch.setattr(dns_sending, "own_address", lambda: own)

    code, said = run(*arguments)

    assert code == 0
    assert sentence in said


def test_an_address_that_is_none_is_refused(server: Dns) -> None:
    assert "'mail' is not an address of a server" in run("--address", "mail")[1]


@pytest.mark.parametrize(
    ("kind", "site", "sentence"),
    [
        (
            SimpleNamespace(kind="news", queue=Queue.BULK, stream=None),
            "https://x",
            "news is bulk mail without a stream",
        ),
        (
            SimpleNamespace(kind="news", queue=Queue.BULK, stream=Stream("n", "N")),
            "http://x",
            "SITE_URL must begin with",
        ),
    ],
)
def test_bulk_mail_without_one_click_is_named(
    kind: object, site: str, sentence: str, server: Dns, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SITE_URL = site
    monkeypatch.setattr(check_deliverability, "KINDS", {"news": type("News", (), vars(kind))})

    code, said = run()

    assert code == 1
    assert sentence in said
