"""Run everything on one machine that has only Python: `make start`, `make restart`, `make stop`.

For development only: production code does not import this package, and the image does not contain it.
"""


class CannotStart(Exception):
    """Raised with a message that says at the terminal what to do."""
