"""Everything on one machine that has only Python: `make start`, `make restart`, `make stop`.

For development alone: production code does not import this package, and the image does not contain it.
"""


class CannotStart(Exception):
    """The message tells the person at the terminal what to do."""
