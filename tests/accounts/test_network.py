"""The network of a request: X-Forwarded-For is used as far as TRUSTED_PROXIES allow."""

import pytest
from django.test import RequestFactory
from pytest_django import Settings

from accounts.network import beginning, network_of, widened

PROXIES = ["10.0.0.0/8", " 2001:db8::/32 "]  # spaces as in "a, b" are not removed earlier


def network(peer: str, forwarded: str | None) -> str:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    return network_of(RequestFactory().get("/", headers=headers, REMOTE_ADDR=peer))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        # Without a trusted proxy the header is ignored …
        ("192.0.2.7", None, "192.0.2.7/32"),
        ("192.0.2.7", "198.51.100.1", "192.0.2.7/32"),
        ("2a00:1450:1:2:3::4", None, "2a00:1450:1:2::/64"),
        ("::ffff:192.0.2.7", None, "192.0.2.7/32"),
        ("fe80::1%eth0", None, "fe80::/64"),
        # … but trusted proxies may add addresses.
        ("10.0.0.1", None, "10.0.0.1/32"),
        ("10.0.0.1", "", "10.0.0.1/32"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1/32"),
        ("10.0.0.1", "  198.51.100.1\t", "198.51.100.1/32"),
        ("10.0.0.1", "2a00:1450:1:2:3::4", "2a00:1450:1:2::/64"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1/32"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1/32"),
        ("2001:db8::1", "198.51.100.1", "198.51.100.1/32"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1/32"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1/32"),  # the second wrote the first
        ("10.0.0.1", "127.0.0.1, 198.51.100.1", "198.51.100.1/32"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3/32"),
        # With a port, as some proxies add it.
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1/32"),
        ("10.0.0.1", "[2a00:1450:1:2:3::4]:4711", "2a00:1450:1:2::/64"),
        ("10.0.0.1", "[2a00:1450:1:2:3::4]", "2a00:1450:1:2::/64"),
        # Reading ends at an invalid address.
        ("10.0.0.1", "garbage", "10.0.0.1/32"),
        ("10.0.0.1", "unknown, 10.0.0.2", "10.0.0.2/32"),
        ("10.0.0.1", "garbage, 198.51.100.1", "198.51.100.1/32"),
        ("10.0.0.1", "198.51.100.1, garbage", "10.0.0.1/32"),
        ("10.0.0.1", "198.51.100.256", "10.0.0.1/32"),
        ("10.0.0.1", "198.51.100.01", "10.0.0.1/32"),
        ("10.0.0.1", ",,,", "10.0.0.1/32"),
        ("10.0.0.1", "[]:1", "10.0.0.1/32"),
        ("10.0.0.1", "x" * 8000, "10.0.0.1/32"),
        ("10.0.0.1", "fe80::1%ann@example.com", "fe80::/64"),
        # A unix socket has no address, and its clients are not trusted.
        ("", None, "unknown"),
        ("", "198.51.100.1", "unknown"),
    ],
)
def test_the_network_of_a_request(settings: Settings, peer: str, forwarded: str | None, expected: str) -> None:
    settings.TRUSTED_PROXIES = PROXIES

    assert network(peer, forwarded) == expected


@pytest.mark.parametrize(
    ("proxies", "expected"), [([], "192.0.2.7/32"), (["10.0.0.0/8"], "192.0.2.7/32"), (["*"], "203.0.113.9/32")]
)
def test_a_forwarded_address_is_used_only_if_every_proxy_is_trusted(
    settings: Settings, proxies: list[str], expected: str
) -> None:
    settings.TRUSTED_PROXIES = proxies

    assert network("192.0.2.7", "203.0.113.9, 198.51.100.1") == expected


@pytest.mark.parametrize(
    ("exact", "told"),
    [
        ("198.51.100.77/32", "198.51.100.0/24"),
        ("2a00:1450:1:2::/64", "2a00:1450:1::/48"),
        ("unknown", "unknown"),
    ],
)
def test_mails_show_a_wider_network(exact: str, told: str) -> None:
    assert widened(exact) == told


@pytest.mark.parametrize(
    ("network", "begins"),
    [("198.51.100.0/24", "198.51.100"), ("2a00:1450:1::/48", "2a00:1450:1"), ("unknown", ""), ("", "")],
)
def test_people_read_the_beginning_of_an_address_and_no_prefix_length(network: str, begins: str) -> None:
    assert beginning(network) == begins
