"""Limits on requests, on mail to one mailbox and on wrong passwords.

Strangers cannot spend the limits of a verified account. Mail is counted when it really goes, in the worker. A wrong password
counts against the browser that typed it if that is known to the account, and otherwise against the account and the network.

Known and unknown addresses are counted alike, so an answer above a limit reveals nothing. Keys are hashes, so the table
contains no address.
"""

import itertools
from collections.abc import Iterable
from enum import StrEnum
from uuid import UUID

from django.conf import settings
from django.utils.crypto import salted_hmac

from accounts.moving_window import Count, Limit, allows, hit, hit_once
from accounts.network import subscriber_networks

SALT = "accounts.throttling"


class Purpose(StrEnum):
    """What a mail that strangers can cause is for."""

    SIGN_UP = "sign-up"
    VERIFY = "verify"
    ACCOUNT_EXISTS = "account exists"
    RESET = "reset"
    NEW_ADDRESS = "new address"
    ALERT = "alert"


MINUTE, HOUR, DAY = 60, 3600, 86_400

PAUSE = [Limit(1, MINUTE)]
"""For mail about one thing, such as a link: a form that is sent twice must not mail it twice."""
MAIL_OF_A_PURPOSE = [Limit(3, HOUR)]
"""To one mailbox, for one purpose."""
ALERTS = [Limit(1, DAY)]
"""To one mailbox."""
MAIL_OF_ALL_KINDS = [Limit(5, HOUR)]
"""To one mailbox."""
ALWAYS = (Purpose.SIGN_UP, Purpose.RESET, Purpose.ALERT)
"""Purposes that MAIL_OF_ALL_KINDS does not limit: requests for other mail must not block them."""
ONE_MAIL = Limit(1, 7 * DAY)
"""However often the worker tries to send it."""

WRONG_PASSWORDS = [Limit(5, 15 * MINUTE)]
"""For one account. Above it, the owner gets an alert."""
GUESSES = [Limit(10, 15 * MINUTE)]
"""For one account, from one network or known browser. Above it, every password is refused."""
GUESSES_FOR_ACCOUNT = [Limit(20, 15 * MINUTE), Limit(40, 2 * HOUR), Limit(60, DAY)]
"""For one account, from all networks."""
TRIES_OF_DIGITS = [Limit(5, DAY)]
"""For one sign-up, whose link works for a day. Right digits count too."""
GUESSES_FROM_NETWORK = [Limit(20, 15 * MINUTE)]
"""For all accounts, from one network: passwords, and tries of digits."""
WIDER = 2
"""The factor by which a wider network may ask more often."""


def may_ask(network: str) -> bool:
    """Whether a request from this network may do work that costs: hash a password or cause a mail. Counts the request."""
    limits = itertools.starmap(Limit, settings.ACCOUNTS_MAIL_PER_NETWORK)
    return hit(_from_network(list(limits), "ask", network))


def may_mail(purpose: Purpose, box: str, *, about: str, request: str) -> bool:
    """Whether this mailbox may get another mail for this purpose. Counts the mail once for each `request`.

    `about` names what it is about: the same is mailed once a minute.
    """
    [this_mail] = _for([ONE_MAIL], "one mail", request)
    counts = [
        *_for(PAUSE, "mail about", about),
        *_for(ALERTS if purpose is Purpose.ALERT else MAIL_OF_A_PURPOSE, "mail", purpose, box),
        *_for([] if purpose in ALWAYS else MAIL_OF_ALL_KINDS, "mail", box),
    ]
    return hit_once(this_mail, counts)


def guesses(address: str, *, known: str | None = None, network: str = "") -> list[Count]:
    """Return the counts for a password that is typed for this account.

    `known` names a browser, a session or a secret link that only its owner should have. It counts for itself, so that
    strangers cannot lock the owner out. Everything else counts for the account and for the network.
    """
    if known:
        return _for(GUESSES, "guess", address, known)
    return [
        *_for(GUESSES, "guess", address, network),
        *_for(GUESSES_FOR_ACCOUNT, "guess", address),
        *_from_network(GUESSES_FROM_NETWORK, "guess", network),
    ]


def note_wrong_password(address: str, counts: Iterable[Count]) -> bool:
    """Count a wrong password. Return True if the account's owner should be alerted."""
    for count in counts:
        hit([count])
    wrong = _for(WRONG_PASSWORDS, "wrong password", address)
    return hit(wrong) and not allows(wrong)


def may_try_digits(sign_up: str, network: str) -> bool:
    """Whether the browser of this sign-up may try digits. Counts the try."""
    of_network = _from_network(GUESSES_FROM_NETWORK, "digits", network)
    return hit(of_network) and hit(_for(TRIES_OF_DIGITS, "digits", sign_up))


def _for(limits: Iterable[Limit], *identity: str) -> list[Count]:
    return [(limit, _key(limit, identity)) for limit in limits]


def _from_network(limits: Iterable[Limit], what: str, network: str) -> list[Count]:
    """Return the counts of the network and of the wider ones around it, which may ask more often."""
    return [
        count
        for step, around in enumerate(subscriber_networks(network))
        for limit in limits
        for count in _for([Limit(limit.amount * WIDER**step, limit.seconds)], what, "network", around)
    ]


def _key(limit: Limit, identity: Iterable[str]) -> UUID:
    text = "\n".join([*map(str, limit), *identity])
    return UUID(bytes=salted_hmac(SALT, text, algorithm="sha256").digest()[:16])
