"""What DNS says about the way that mail leaves: MAIL FROM, which SPF is about, and the address of the last server of ours."""

import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import dns.reversename

from mailer.transports.dns_records import Ask, Finding, PublishedKey, ask, dmarc_records, mx, spf

SOMEWHERE = ("198.41.0.4", 53)
"""A root server of DNS. Nothing is sent to it: the system only says which address of ours it would see."""


def mail_from(domain: str, envelope: str, keys: Sequence[PublishedKey], ask: Ask = ask) -> Iterator[Finding]:
    """Yield whether SPF counts for DMARC, if bounces come to an address of the domain `envelope`. Raises NoAnswer.

    It counts if both domains are of one organization, or are the same if `aspf=s` (RFC 7489, 3.1.2). DKIM is enough, too.
    """
    if envelope == domain:
        yield Finding(True, f"MAIL FROM: bounces come to {domain} itself, so SPF counts for DMARC.")
        return
    yield _alignment(domain, envelope, keys, ask)
    yield mx(envelope, ask)
    yield spf(envelope, ask)


def _alignment(domain: str, envelope: str, keys: Sequence[PublishedKey], ask: Ask) -> Finding:
    policies = dmarc_records(domain, ask)
    is_strict = any(tags.get("aspf") == "s" for _, tags in policies[:1])
    organization = min((name for name, _ in policies), key=len, default=domain)
    of_one = all(name == organization or name.endswith(f".{organization}") for name in (domain, envelope))
    if of_one and not is_strict:
        return Finding(
            True, f"MAIL FROM: bounces come to {envelope}, which belongs to {organization}: SPF counts for DMARC."
        )
    reason = f"the policy of {domain} is strict (aspf=s)" if of_one else f"{envelope} is not under {organization}"
    sentence = f"MAIL FROM: bounces come to {envelope}, and {reason}, so SPF does not count for DMARC"
    if keys:
        return Finding(True, f"{sentence}. Our DKIM signature does.")
    return Finding(
        False,
        f"{sentence}, and we do not sign. Choose an address for bounces in {domain}, or sign with DKIM.",
    )


def pointer(address: str, domain: str, ask: Ask = ask) -> Finding:
    """Return whether the address that mail leaves from has a name, and the name this address (RFC 1912, 2.1)."""
    name = dns.reversename.from_address(address).to_text(omit_final_dot=True)
    hosts = [record.rstrip(".") for record in ask(name, "PTR")]
    kind = "AAAA" if ":" in address else "A"
    if not hosts:
        sentence = f"PTR: {address} has no name, and many servers refuse mail from it. Your hosting company sets it."
        return Finding(False, sentence, f"{name}. PTR mail.{domain}.")
    if not any(ip_address(address) in map(ip_address, ask(host, kind)) for host in hosts):
        sentence = f"PTR: {address} is called {hosts[0]}, but {hosts[0]} does not have this address."
        return Finding(False, sentence, f"{hosts[0]}. {kind} {address}")
    return Finding(True, f"PTR: {address} is called {hosts[0]}, which has this address.")


def own_address() -> str:
    """Return the public address of this machine; empty if it has none of its own, as in a container."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            any_socket.connect(SOMEWHERE)
            found = ip_address(any_socket.getsockname()[0])
    except OSError:
        return ""
    return str(found) if found.is_global else ""
