"""Learn how many messages a second a transport takes, from what it took. Pure functions, and one SQL expression.

The rate goes down to a share of the measured throughput, as in TCP Westwood: C. Casetti, M. Gerla, S. Mascolo, M. Sanadidi and
R. Wang, "TCP Westwood: End-to-End Congestion Control for Wired/Wireless Networks", 2002. AIMD (D. Chiu and R. Jain, 1989)
would halve it once for each of the messages that are refused together; a measured rate stays the same however often it is set.
The rate goes up by a constant for each message, as in slow start (V. Jacobson, "Congestion Avoidance and Control", 1988): it
doubles in about a minute whatever its size, and a limit that rose or vanished is found soon. It need not be fair: the limit is
this sender's alone.
"""

from datetime import timedelta

WINDOW = timedelta(seconds=60)
"""Older acceptances say nothing about what the transport takes now."""
SHORTEST = timedelta(seconds=1)
"""The shortest pause after a refusal, and the shortest time in which a throughput is measured."""
SHARE = 0.8
"""Of the measured throughput, after a refusal."""
GAIN = 0.01
"""Messages a second that each message adds to the rate; also the share of itself by which an idle rate grows in a second."""
SLOWEST = 1 / 60
"""Messages a second."""
FORGET_ABOVE = 100.0
"""Messages a second. A limit above this is none."""

_GROWN = f"({{rate}} + {GAIN} + {{rate}} * least({GAIN} * greatest({{idle}}, 0), 1))"
FASTER = f"CASE WHEN {_GROWN} <= {FORGET_ABOVE} THEN {_GROWN} END"
"""The rate after one more message, in SQL; NULL if the limit may be forgotten.

Format it with the rate, and with the seconds for which the transport could have taken a message and there was none: they at
most double the rate.
"""


def slower(rate: float | None, accepted: int, within: timedelta) -> float:
    """Return the rate after a refusal for a rate that was too high, in messages a second.

    `rate` is the learnt one so far, if there is one. `accepted` is the number of messages that the transport accepted in
    WINDOW, the first of them so long ago.
    """
    measured = min(SHARE * accepted / max(within, SHORTEST).total_seconds(), 0.9 * FORGET_ABOVE)
    return max(measured if rate is None else min(rate, measured), SLOWEST)


def pause(accepted_ago: timedelta) -> timedelta:
    """Return the pause after a refusal, so long after the last acceptance: as long again, so it doubles until one is taken.

    It is not known for how long the server counts: Postfix's default is a minute.
    """
    return min(max(accepted_ago, SHORTEST), WINDOW)
