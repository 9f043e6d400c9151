"""How often one may ask for mail, or mistype a password: moving windows, in Redis, or in a table while Redis is away.

The caller is never told: an answer that changes with the number of tries would tell whether an address is known, and a
limit that nobody sees is one that nobody can measure. Keys are hashes, so neither store holds an address.
"""

import re
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils.crypto import salted_hmac
from limits import RateLimitItem, parse, parse_many
from limits.errors import StorageError
from limits.storage import MovingWindowSupport, Storage, storage_from_string
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from accounts.models import Hit

log = structlog.get_logger("accounts")

SALT = "accounts.throttling"

MAIL_OF_A_PURPOSE = parse_many("1/minute; 3/hour")
"""To one address, for one purpose."""
MAIL_OF_ALL_KINDS = parse_many("5/hour")
"""To one address."""
RESET = "reset"
"""The one purpose that stands apart: nobody may keep an owner from it by asking for mail of other kinds."""
SUBADDRESS = re.compile(r"\+.*(?=@)")
"""`ann+shop@…` and `ann+bank@…` are one mailbox nearly everywhere (RFC 5233)."""
WRONG_PASSWORDS = parse("5 per 15 minutes")
"""For one account; then its owner hears of it …"""
LOGIN_ALERTS = parse("1/day")
"""… so often."""
GUESSES = parse("10 per 15 minutes")
"""For one account from one network; after that no password is right."""

BREAK = 5.0
"""For so many seconds after a failure the table counts instead of Redis."""
TIMEOUT = 0.25
"""Seconds for connecting to Redis, and for each answer."""


class TableStorage(Storage, MovingWindowSupport):
    """Moving windows in a table, one row a hit. Slower than Redis, and there as long as anything is."""

    STORAGE_SCHEME = ["table"]  # noqa: RUF012 - as the library declares it

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return ()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        with transaction.atomic():
            with connection.cursor() as cursor:  # counting and adding are one step, for each key
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])
            hits = Hit.objects.filter(key=key)
            hits.filter(at__lt=time.time() - expiry).delete()
            if hits.count() + amount > limit:
                return False
            Hit.objects.bulk_create([Hit(key=key, at=time.time())] * amount)
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        hits = list(
            Hit.objects.filter(key=key, at__gte=time.time() - expiry).order_by("at").values_list("at", flat=True)
        )
        return (hits[0] if hits else time.time()), len(hits)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError("only moving windows are counted here")

    def get(self, key: str) -> int:
        raise NotImplementedError("only moving windows are counted here")

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError("only moving windows are counted here")

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        return Hit.objects.all().delete()[0]

    def clear(self, key: str) -> None:
        Hit.objects.filter(key=key).delete()


class Counter:
    """Counts in Redis while it answers, and else in the table."""

    def __init__(self) -> None:
        self._try_redis_at = 0.0

    def hit(self, limit: RateLimitItem, *identity: str) -> bool:
        """Counts one more; False, and nothing is counted, if there were too many."""
        return self._with(lambda limiter: limiter.hit(limit, *identity))

    def would_allow(self, limit: RateLimitItem, *identity: str) -> bool:
        """Whether `hit` would be True; counts nothing."""
        return self._with(lambda limiter: limiter.test(limit, *identity))

    def _with(self, question: Callable[[MovingWindowRateLimiter], bool]) -> bool:
        if time.monotonic() >= self._try_redis_at:
            try:
                return question(_redis())
            except StorageError as error:
                self._try_redis_at = time.monotonic() + BREAK
                log.warning("Redis away; the database counts", error=type(error.storage_error).__name__)
        return question(_table())


counter = Counter()


def may_mail(purpose: str, address: str, network: str | None) -> bool:
    """Whether a request from this network may cause a mail of this purpose to this address; counts it.

    Without a network it is no request that asks, and that limit does not apply.
    """
    return allows_mail(purpose, address, network) and all(
        counter.hit(limit, *identity) for limit, identity in _limits_of_mail(purpose, address, network)
    )


def allows_mail(purpose: str, address: str, network: str | None) -> bool:
    """As `may_mail`, and counts nothing."""
    limits = _limits_of_mail(purpose, address, network)
    return all(counter.would_allow(limit, *identity) for limit, identity in limits)


def count_mail(purpose: str, address: str, network: str | None) -> None:
    """Counts a mail that `allows_mail` let pass, once it is sure to go out."""
    for limit, identity in _limits_of_mail(purpose, address, network):
        counter.hit(limit, *identity)


def _limits_of_mail(purpose: str, address: str, network: str | None) -> list[tuple[RateLimitItem, tuple[str]]]:
    of_network = parse_many(settings.ACCOUNTS_MAIL_PER_NETWORK) if network else []
    of_all_kinds = [] if purpose == RESET else MAIL_OF_ALL_KINDS
    address = SUBADDRESS.sub("", address)
    return [
        *((limit, _hashed("mail", "network", network or "")) for limit in of_network),
        *((limit, _hashed("mail", purpose, address)) for limit in MAIL_OF_A_PURPOSE),
        *((limit, _hashed("mail", address)) for limit in of_all_kinds),
    ]


def note_wrong_password(address: str, network: str) -> bool:
    """Counts a log-in that failed. True if it is time to tell the owner of the account, if there is one."""
    counter.hit(GUESSES, *_hashed("guess", address, network))
    counter.hit(WRONG_PASSWORDS, *_hashed("wrong password", address))
    too_many = not counter.would_allow(WRONG_PASSWORDS, *_hashed("wrong password", address))
    return too_many and counter.hit(LOGIN_ALERTS, *_hashed("login alert", address))


def may_guess(address: str, network: str) -> bool:
    """Whether a password for this account is looked at at all."""
    return counter.would_allow(GUESSES, *_hashed("guess", address, network))


def purge() -> int:
    """Deletes the table's hits that no window reaches back to. Returns how many."""
    return Hit.objects.filter(at__lt=time.time() - 86_400).delete()[0]


def _hashed(*identity: str) -> tuple[str]:
    return (salted_hmac(SALT, "\n".join(identity), algorithm="sha256").hexdigest(),)


@cache
def _redis() -> MovingWindowRateLimiter:
    patience: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    options = settings.RATE_LIMITS_OPTIONS | patience
    if "sentinel_kwargs" in options:  # for the sentinels themselves, which `limits` gives no patience to
        options["sentinel_kwargs"] = options["sentinel_kwargs"] | patience
    return MovingWindowRateLimiter(storage_from_string(settings.RATE_LIMITS_URL, wrap_exceptions=True, **options))


@cache
def _table() -> MovingWindowRateLimiter:
    return MovingWindowRateLimiter(TableStorage())
