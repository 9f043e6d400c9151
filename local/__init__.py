"""The project on one machine, with nothing but Python: `make start`, `make restart`, `make stop`.

Never part of a production process: nothing imports this package, and the image leaves it out.
"""


class CannotStart(Exception):
    """The message is one sentence for the person at the terminal, and says what to do."""
