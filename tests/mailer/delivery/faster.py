"""`pacing.FASTER` in Python, for simulations; `test_pacing` compares them."""

from datetime import timedelta

from mailer.delivery.pacing import FORGET_ABOVE, GAIN


def faster(rate: float, idle: timedelta = timedelta(0)) -> float | None:
    """Return the rate after one more message. None if the limit may be forgotten.

    `idle` is the time for which the transport could have taken a message and there was none. It at most doubles the rate.
    """
    grown = rate + GAIN + rate * min(GAIN * max(idle.total_seconds(), 0.0), 1.0)
    return grown if grown <= FORGET_ABOVE else None
