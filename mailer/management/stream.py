"""Read the name of a stream from the command line."""

from django.core.management.base import CommandError

from mailer.recipients import subscriptions


def known_stream(name: str) -> str:
    """Return the name. Raises CommandError with the streams of this release, if it is none of them."""
    known = subscriptions.streams()
    if name not in known:
        raise CommandError(f"No kind of e-mail has the stream {name!r}. The streams are: {', '.join(known) or 'none'}.")
    return name
