"""Which transport of its route a message tries first: a share of the default route goes to the fallback."""

from mailer import routes
from mailer.delivery import limits

GOLDEN_RATIO = 0x9E3779B97F4A7C15
"""Of 2^64. Its multiples spread evenly, also those of every second or every tenth number (D. E. Knuth, "The Art of Computer
Programming", volume 3, 6.4)."""


def in_order(route: str, message_id: int) -> list[str]:
    """Return the transports of a route in the order in which this message tries them, which is the same each time."""
    aliases, weight = routes.transports(route), limits.of(routes.FALLBACK).weight
    if route == routes.DEFAULT and weight and is_in_share(message_id, weight):
        aliases.reverse()
    return aliases


def is_in_share(message_id: int, percent: int) -> bool:
    """Return whether the message is one of so many percent of all."""
    return message_id * GOLDEN_RATIO % 2**64 < percent * 2**64 // 100
