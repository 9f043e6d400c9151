"""Read the name of a transport from the command line."""

from django.core.management.base import CommandError

from mailer import routes


def known_transport(alias: str) -> str:
    """Return the alias. Raises CommandError with those that are in MAILERS, if it is not."""
    known = routes.names()[1:]
    if alias not in known:
        raise CommandError(f"MAILERS has no transport {alias!r}. It has {', '.join(known) or 'none'}.")
    return alias
