"""REDIS_URL → what Celery's broker wants."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from environs import EnvError

from config.split_url import split

SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's address as kombu reads it, with the transport options that belong to that address alone."""

    url: str
    transport_options: dict[str, Any] = field(default_factory=dict)


def parse(url: str) -> Broker:
    """Reads `redis://`, `rediss://`, `redis+socket://` and `sentinel://h1:p;sentinel://h2:p/0?master_name=…`.

    A `rediss://` address without `ssl_cert_reqs` gets `required`: kombu itself would check no certificate.
    Raises EnvError with a sentence that says what is wrong; the sentence never holds the URL, which may hold a password.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise EnvError(f"unknown scheme {scheme!r}; use one of {', '.join(f'{s}://' for s in SCHEMES)}")
    if scheme == "sentinel":
        address, _, query = url.partition("?")
        master_name = parse_qs(query).get("master_name")
        if not master_name:
            raise EnvError("a sentinel:// address needs ?master_name=… at its end")
        return Broker(address, {"master_name": master_name[0]})
    split(url)
    if scheme == "rediss" and "ssl_cert_reqs=" not in url:
        return Broker(f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required")
    return Broker(url)
