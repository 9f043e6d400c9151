from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from mailer.addresses import InvalidAddress, domain_in_ascii
from mailer.conf import options as mailer_options
from mailer.conf import sender_domain
from mailer.management.operator import OperatorCommand

if TYPE_CHECKING:
    from mailer.transports.dns_records import PublishedKey

MISSING, NO_ANSWER = 1, 2
"""Exit codes; 0 if nothing is missing."""


class Command(OperatorCommand):
    help = (
        "Ask DNS whether receivers can trust mail from the domain of DEFAULT_FROM_EMAIL: SPF, DKIM (with the keys of "
        "POSTCOMMIT_DKIM_KEYS), DMARC and MX. It says what is missing and which record to write. Exit code: 0 if nothing is "
        "missing, 1 if something is, 2 if DNS does not answer. Example: check_deliverability --domain example.com"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--domain", metavar="DOMAIN", help="another domain than that of DEFAULT_FROM_EMAIL")

    def handle(self, *args: Any, domain: str | None, **options: Any) -> None:
        if not find_spec("dns"):
            raise CommandError("This needs dnspython: pip install django-postcommit[dns]", returncode=NO_ANSWER)
        from mailer.transports import dns_records

        domain = _ascii(domain or sender_domain())
        try:
            findings = list(dns_records.check(domain, _keys(domain)))
        except (dns_records.NoAnswer, ImproperlyConfigured) as error:
            raise CommandError(str(error), returncode=NO_ANSWER) from None
        for finding in findings:
            style = self.style.SUCCESS if finding.is_good else self.style.WARNING
            self.stdout.write(("good    " if finding.is_good else "change  ") + finding.sentence, style)
            if finding.record:
                self.stdout.write(f"        Write: {finding.record}")
        if missing := sum(not finding.is_good for finding in findings):
            raise CommandError(
                f"{missing} of {len(findings)} need a change in the DNS of {domain}.", returncode=MISSING
            )


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
