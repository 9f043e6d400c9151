import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import mailers
from django.core.management.base import CommandError

from mailer.addresses import InvalidAddress, domain_in_ascii
from mailer.conf import options as mailer_options
from mailer.conf import sender_domain
from mailer.email import KINDS
from mailer.management.operator import OperatorCommand
from mailer.models import Queue
from mailer.routes import PRIMARY
from mailer.transports import smtp

if TYPE_CHECKING:
    from mailer.transports.dns_records import Finding, PublishedKey

MISSING, NO_ANSWER = 1, 2
"""Exit codes; 0 if nothing is missing."""
RESERVED = {"localhost", "local", "internal", "test", "example", "invalid"}
"""Names that the Internet's DNS never has (RFC 6761, 6762)."""
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Command(OperatorCommand):
    help = (
        "Ask DNS whether receivers can trust mail from the domain of DEFAULT_FROM_EMAIL: MX, SPF, DKIM (with the keys of "
        "POSTCOMMIT_DKIM_KEYS), DMARC, MAIL FROM, and the name of the address that mail leaves from. It says what is missing "
        "and which record to write. Exit code: 0 if nothing is missing, 1 if something is, 2 if DNS does not answer. Example: "
        "check_deliverability --domain example.com"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--domain", metavar="DOMAIN", help="another domain than that of DEFAULT_FROM_EMAIL")
        parser.add_argument(
            "--address", type=_address, help="the public address of your own mail server, such as 203.0.113.5"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, domain: str | None, address: str, **options: Any) -> None:
        if not find_spec("dns"):
            raise CommandError("This needs dnspython: pip install django-postcommit[dns]", returncode=NO_ANSWER)
        from mailer.transports import dns_records

        asked = _ascii(domain or sender_domain())
        note = "" if domain else _why_no_records(asked)
        try:
            findings = [] if note else list(_findings(asked, address))
        except (dns_records.NoAnswer, ImproperlyConfigured) as error:
            raise CommandError(str(error), returncode=NO_ANSWER) from None
        if options["json"]:
            self.stdout.write(json.dumps({"domain": asked, "note": note, "findings": [*map(asdict, findings)]}))
        else:
            self._print(note, findings)
        if missing := sum(not finding.is_good for finding in findings):
            raise CommandError(f"{missing} of {len(findings)} need a change for {asked}.", returncode=MISSING)

    def _print(self, note: str, findings: "Sequence[Finding]") -> None:
        if note:
            self.stdout.write(note)
        for finding in findings:
            style = self.style.SUCCESS if finding.is_good else self.style.WARNING
            self.stdout.write(("good    " if finding.is_good else "change  ") + finding.sentence, style)
            if finding.record:
                self.stdout.write(f"        Write: {finding.record}")


def _findings(domain: str, address: str) -> "Iterator[Finding]":
    """Raises NoAnswer and ImproperlyConfigured."""
    from mailer.transports import dns_records

    keys = _keys(domain)
    yield from dns_records.check(domain, keys)
    yield from _sending(domain, keys, address)
    yield _unsubscribing()


def _sending(domain: str, keys: "Sequence[PublishedKey]", address: str) -> "Iterator[Finding]":
    """Yield what is to be said about the transport of this installation."""
    from mailer.transports import dns_sending
    from mailer.transports.dns_records import Finding

    backend = mailers[PRIMARY]
    if not isinstance(backend, smtp.EmailBackend):
        yield Finding(
            True,
            "MAIL FROM: the provider chooses it. If its pages offer a return path or MAIL FROM in your domain, set it up; "
            "otherwise only DKIM counts for DMARC.",
        )
        return
    bounces_to = mailer_options().bounce_address
    yield from dns_sending.mail_from(domain, _ascii(bounces_to) if bounces_to else domain, keys)
    is_direct = backend.host in THIS_MACHINE
    if address := address or (dns_sending.own_address() if is_direct else ""):
        yield dns_sending.pointer(address, domain)
    elif is_direct:
        yield Finding(
            True,
            "PTR: the mail server of this machine has no public address that can be seen here. Give it as --address.",
        )


def _unsubscribing() -> "Finding":
    """Say whether recipients can end bulk mail with one click (RFC 8058)."""
    from mailer.transports.dns_records import Finding

    kinds = set(KINDS.values())
    without = sorted(kind.kind for kind in kinds if kind.queue == Queue.BULK and not kind.stream)
    if without:
        return Finding(
            False,
            f"List-Unsubscribe: {', '.join(without)} is bulk mail without a stream, so nobody can unsubscribe from it. Gmail "
            "and Yahoo want that of everyone who sends much mail. Give it a stream.",
        )
    if any(kind.stream for kind in kinds) and not settings.SITE_URL.startswith("https://"):
        return Finding(
            False, "List-Unsubscribe: SITE_URL must begin with https://, or one click does not work (RFC 8058)."
        )
    return Finding(True, "List-Unsubscribe: every kind of bulk mail has it.")


def _why_no_records(domain: str) -> str:
    """Return why DNS can have no records of this domain; empty if it can."""
    if "." in domain and domain.rpartition(".")[2] not in RESERVED:
        return ""
    return (
        f"{domain or 'localhost'} is a name for this machine or for examples: DNS has no records of it, and its mail stays "
        "here. Set DEFAULT_FROM_EMAIL to an address in your domain, or ask with --domain."
    )


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not an address of a server, as in 203.0.113.5") from None


def _ascii(domain: str) -> str:
    try:
        return domain_in_ascii(domain.strip().rpartition("@")[2])
    except InvalidAddress as error:
        raise CommandError(f"{domain!r} is not a domain: {error}") from None


def _keys(domain: str) -> "Sequence[PublishedKey]":
    """Return the keys that sign mail from this domain. Raises ImproperlyConfigured."""
    if not mailer_options().dkim_keys:
        return []
    from mailer.transports import dkim
    from mailer.transports.dns_records import PublishedKey

    signer = dkim.signer()
    if domain != signer.domain and not domain.endswith(f".{signer.domain}"):
        return []
    return [
        PublishedKey(key.selector, signer.domain, key.algorithm.decode().partition("-")[0], key.public)
        for key in signer.keys
    ]
