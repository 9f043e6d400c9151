"""Admit a message to a transport: check the circuit breaker and the rate limit."""

import time
from datetime import timedelta

from mailer.delivery import circuit, rate
from mailer.delivery.steps import Postponed, Transport
from mailer.models import Message


def admit(message: Message, longest_wait: timedelta) -> Transport | Postponed:
    """Return the first working transport of the message's route, after waiting for the rate limit.

    Postponed if every transport of the route is paused, or the wait would be longer than `longest_wait`. Raises
    NoSuchTransport.
    """
    is_any_paused: bool = message.is_any_paused  # type: ignore[attr-defined]  # annotated by pipeline.load
    transport = circuit.find_transport(message.transport, circuit.pauses() if is_any_paused else {})
    wait = rate.book_slot(transport.alias, longest_wait) if transport else None
    if transport is None or wait is None:
        return Postponed()
    time.sleep(wait)
    return transport
