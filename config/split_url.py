"""urlsplit without its complaints, which quote what they complain about: a password, at worst."""

from urllib.parse import SplitResult, urlsplit

from environs import EnvError

HINT = "write @ : / in a user or password as %40 %3A %2F"


def split(url: str) -> SplitResult:
    """The parts of a URL whose port, if it has one, is a number. Raises EnvError, without the URL in it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise EnvError(f"not a URL with a host and a port that is a number; {HINT}") from None
    return parts
