"""The network that a request comes from, as far as its headers can be trusted."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

Address = IPv4Address | IPv6Address

UNKNOWN = "unknown"
WITH_PORT = re.compile(r"([\d.]+):\d+|\[(.+)\](?::\d+)?")
"""The form in which some proxies write an address."""


def network_of(request: HttpRequest) -> str:
    """Return the request's network: one IPv4 address, or the /64 of one IPv6 subscriber.

    X-Forwarded-For is read from its end while the addresses are in TRUSTED_PROXIES: an untrusted client wrote everything
    before its own address. Return UNKNOWN on a Unix socket, which has no address.
    """
    hops = [request.META.get("REMOTE_ADDR", "")]
    hops += reversed([hop.strip() for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")])
    trusted = UNKNOWN
    for hop in hops:
        address = _address(hop)
        if address is None:
            break
        trusted = str(ip_network((address, 32 if address.version == 4 else 64), strict=False))
        if not _is_trusted(address):
            break
    return trusted


def widened(network: str) -> str:
    """Return a wider network, to be kept and shown: users can recognise it, but it does not reveal an address."""
    if network == UNKNOWN:
        return network
    exact = ip_network(network)
    return str(exact.supernet(new_prefix=24 if exact.version == 4 else 48))


def beginning(network: str) -> str:
    """Return what all addresses of a widened network begin with, such as "203.0.113"; nothing if it is not known."""
    if not network or network == UNKNOWN:
        return ""
    exact = ip_network(network)
    octets = str(exact.network_address).split(".")
    return ".".join(octets[: exact.prefixlen // 8]) if exact.version == 4 else str(exact.network_address).rstrip(":")


def subscriber_networks(network: str) -> list[str]:
    """Return the network and those around it that one subscriber may have: of IPv6, the /64, the /56 and the /48."""
    if ":" not in network:
        return [network]
    exact = ip_network(network)
    return [str(exact.supernet(new_prefix=prefix)) for prefix in (64, 56, 48)]


def _address(hop: str) -> Address | None:
    if match := WITH_PORT.fullmatch(hop):
        hop = match[1] or match[2]
    try:
        address = ip_address(hop)
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address


def _is_trusted(address: Address) -> bool:
    proxies = (proxy.strip() for proxy in settings.TRUSTED_PROXIES)
    return any(proxy == "*" or address in ip_network(proxy, strict=False) for proxy in proxies)
