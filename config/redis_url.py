"""REDIS_URL → what Celery's broker wants."""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlencode

from environs import EnvError

from config.split_url import split

SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's address as kombu reads it, with the transport options that belong to that address alone."""

    url: str
    transport_options: dict[str, Any] = field(default_factory=dict)

    @property
    def limits_url(self) -> str:
        """The same server as the library `limits` reads it, which has other words for a socket and for Sentinel."""
        address, _, query = self.url.partition("?")
        options = parse_qs(query)
        if self.url.startswith("sentinel:"):
            hosts = ",".join(_with_port(part.netloc.rpartition("@")[2]) for part in self._sentinels)
            return f"redis+sentinel://{hosts}/{self.transport_options['master_name']}"
        if self.url.startswith("redis+socket:"):
            return f"{address.replace('redis+socket', 'redis+unix', 1)}?db={options.get('virtual_host', ['0'])[0]}"
        tls = {
            name: values[0] for name, values in options.items() if name.startswith("ssl_")
        }  # kombu passes on no others
        if not tls:
            return address
        tls["ssl_cert_reqs"] = tls.get("ssl_cert_reqs", "required").removeprefix("CERT_").lower()
        return f"rediss:{address.partition(':')[2]}?{urlencode(tls)}"

    @property
    def limits_options(self) -> dict[str, Any]:
        """What `limits` does not read out of a URL. As in kombu, the first password is the server's; sentinels have none."""
        if not self.url.startswith("sentinel:"):
            return {}
        first = self._sentinels[0]
        credentials = {"username": unquote(first.username or ""), "password": unquote(first.password or "")}
        nobody = dict.fromkeys(credentials)
        return {name: value for name, value in credentials.items() if value} | {"sentinel_kwargs": nobody}

    @property
    def _sentinels(self) -> list[SplitResult]:
        return [split(part) for part in self.url.split(";")]


def _with_port(host: str) -> str:
    return host if re.search(r":\d+$", host) else f"{host}:26379"


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
        for part in address.split(";"):
            split(part)
        return Broker(address, {"master_name": master_name[0]})
    split(url)
    if scheme == "rediss" and "ssl_cert_reqs=" not in url:
        return Broker(f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required")
    return Broker(url)
