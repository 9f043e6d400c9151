"""Routes: which transports of MAILERS a message may take."""

from django.core.mail import mailers
from django.core.mail.handler import DEFAULT_MAILER_BACKEND
from django.utils.module_loading import import_string

PRIMARY = "transport"
FALLBACK = "fallback"
"""Aliases in MAILERS. The fallback is optional."""

DEFAULT = ""
"""The route of a message that names no transport: PRIMARY, or FALLBACK while PRIMARY is down."""


def names() -> list[str]:
    """Return the routes that a message may name: DEFAULT, and each alias in MAILERS that is not an outbox."""
    return [DEFAULT, *(alias for alias in mailers.settings if not _leads_into_outbox(alias))]


def _leads_into_outbox(alias: str) -> bool:
    """Ask the class and not its path, because a project may have a subclass."""
    backend = mailers.settings[alias].get("BACKEND", DEFAULT_MAILER_BACKEND)
    return getattr(import_string(backend), "leads_into_outbox", False)


def transports(route: str = DEFAULT) -> list[str]:
    """Return the aliases of the transports on this route, the preferred one first.

    An alias that became an outbox after a message was pinned to it is left out: the message would loop.
    """
    wanted = (PRIMARY, FALLBACK) if route == DEFAULT else (route,)
    return [alias for alias in wanted if alias in mailers and not _leads_into_outbox(alias)]


def server(alias: str) -> str:
    """Return host and port of a transport's server, or nothing if it has none, such as a provider with an API."""
    options = mailers.settings.get(alias, {}).get("OPTIONS", {})
    return ":".join(str(options[name]) for name in ("host", "port") if options.get(name))
