"""What DNS says about the sender's domain, and what receivers miss: SPF, DKIM, DMARC and MX. It needs dnspython, an extra."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched

import dns.exception
import dns.resolver

LONGEST = 5.0
"""Seconds for each question."""

LONGEST_STRING = 255
"""Characters of one string in a TXT record, which may have several (RFC 1035, 3.3.14)."""

Ask = Callable[[str, str], Sequence[str]]
"""(name, type of record) → its records as text; empty if there are none."""


class NoAnswer(Exception):
    """DNS does not answer, so nothing can be said."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one kind of record."""

    is_good: bool
    sentence: str
    record: str = ""
    """The record to write, as in a zone file."""


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A DKIM key of this installation, as its record has to be."""

    selector: str
    domain: str
    algorithm: str
    """`rsa` or `ed25519`."""
    public: str
    """Base64, the `p=` of the record."""


def ask(name: str, kind: str) -> Sequence[str]:
    """Ask DNS. Raises NoAnswer."""
    try:
        answer = dns.resolver.resolve(f"{name}.", kind, raise_on_no_answer=False, lifetime=LONGEST)
    except dns.resolver.NXDOMAIN:
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise NoAnswer(f"DNS does not answer about {name}: {error}") from None
    if kind == "TXT":
        return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
    return [record.to_text() for record in answer]


def check(domain: str, keys: Sequence[PublishedKey], ask: Ask = ask) -> Iterator[Finding]:
    """Yield a finding for each kind of record. Raises NoAnswer."""
    yield mx(domain, ask)
    yield spf(domain, ask)
    if not keys:
        yield Finding(
            True, "DKIM: POSTCOMMIT_DKIM_KEYS is not set for this domain, so the provider or relay has to sign."
        )
    for key in keys:
        yield _dkim(key, ask)
    yield _dmarc(domain, ask)


def mx(domain: str, ask: Ask) -> Finding:
    """Return whether mail to the domain, such as a bounce, finds a server."""
    hosts = [record.split()[-1] for record in ask(domain, "MX")]
    if hosts == ["."]:
        return Finding(
            False, f"MX: {domain} says that it takes no mail (RFC 7505). Many servers refuse mail from such a domain."
        )
    without_address = [host for host in hosts if not (ask(host.rstrip("."), "A") or ask(host.rstrip("."), "AAAA"))]
    if hosts and without_address == hosts:
        sentence = (
            f"MX: mail to {domain} goes to {hosts[0].rstrip('.')}, which has no address. Bounces and replies are lost."
        )
        return Finding(False, sentence, f"{hosts[0]} A (the address of that server)")
    if hosts:
        return Finding(True, f"MX: mail to {domain} goes to {', '.join(sorted(host.rstrip('.') for host in hosts))}.")
    if ask(domain, "A") or ask(domain, "AAAA"):
        return Finding(True, f"MX: {domain} has none, so mail to it goes to the host of that name (RFC 5321, 5.1).")
    sentence = (
        f"MX: nothing takes mail to {domain}. Bounces and replies are lost, and many servers refuse mail from it."
    )
    return Finding(False, sentence, f"{domain}. MX 10 mail.{domain}.")


def spf(domain: str, ask: Ask) -> Finding:
    """Return whether the domain says which servers may send its mail (RFC 7208)."""
    records = [text for text in ask(domain, "TXT") if text.lower().split(" ")[0] == "v=spf1"]
    if len(records) > 1:
        return Finding(
            False, f"SPF: {domain} has {len(records)} records, and receivers then use none (RFC 7208, 4.5). Keep one."
        )
    if not records:
        sentence = (
            f"SPF: {domain} does not say which servers may send its mail. Put in the name that your provider gives."
        )
        return Finding(False, sentence, f'{domain}. TXT "v=spf1 include:spf.your-provider.example ~all"')
    terms = records[0].lower().split()
    if "+all" in terms or "all" in terms:
        return Finding(False, f"SPF: {domain} lets everyone send its mail. Replace +all by ~all or -all: {records[0]}")
    if not terms[-1].startswith(("~all", "-all", "redirect=")):
        return Finding(False, f"SPF: the record of {domain} forbids nothing. End it with ~all or -all: {records[0]}")
    return Finding(True, f"SPF: {records[0]}. Make sure that it names the servers of your transport.")


def _dkim(key: PublishedKey, ask: Ask) -> Finding:
    name = f"{key.selector}._domainkey.{key.domain}"
    text = f"v=DKIM1; k={key.algorithm}; p={key.public}"
    record = f"{name}. TXT " + " ".join(f'"{"".join(piece)}"' for piece in batched(text, LONGEST_STRING))
    found = [_tags(text) for text in ask(name, "TXT") if "p=" in text.replace(" ", "")]
    if not found:
        return Finding(False, f"DKIM: {name} has no record, so no receiver can check our signature.", record)
    if not any(tags.get("p") == key.public for tags in found):
        return Finding(
            False, f"DKIM: the record {name} has another key than this installation. Our signature is broken.", record
        )
    return Finding(True, f"DKIM: {name} has the key of this installation.")


def dmarc_records(domain: str, ask: Ask) -> list[tuple[str, dict[str, str]]]:
    """Return the DMARC records of the domain and its parents, the domain's own first, each with its name."""
    labels = domain.split(".")
    names = [".".join(labels[first:]) for first in range(max(len(labels) - 1, 1))]
    texts = [(name, text) for name in names for text in ask(f"_dmarc.{name}", "TXT")]
    return [(name, tags) for name, text in texts if (tags := _tags(text)).get("v") == "DMARC1"]


def _dmarc(domain: str, ask: Ask) -> Finding:
    found = dmarc_records(domain, ask)
    if not found:
        sentence = f"DMARC: {domain} has no record. Gmail and Yahoo want one of everyone who sends much mail."
        return Finding(False, sentence, f'_dmarc.{domain}. TXT "v=DMARC1; p=none; rua=mailto:dmarc@{domain}"')
    name, tags = found[0]
    record = "; ".join("=".join(pair) for pair in tags.items() if pair[0])
    if number := sum(other == name for other, _ in found[1:]):
        return Finding(False, f"DMARC: _dmarc.{name} has {number + 1} records, and receivers then use none. Keep one.")
    if tags.get("p") not in ("none", "quarantine", "reject"):
        return Finding(False, f"DMARC: the record of {name} has no policy p=none, quarantine or reject: {record}")
    return Finding(True, f"DMARC: {record}")


def _tags(record: str) -> dict[str, str]:
    """Parse `v=DKIM1; p=…` (RFC 6376, 3.2)."""
    pairs = (pair.partition("=") for pair in record.split(";"))
    return {name.strip(): "".join(value.split()) for name, _, value in pairs}
