"""EMAIL_URL and REDIS_URL, by table."""

from typing import Any

import pytest
from django.utils.module_loading import import_string
from environs import EnvError

from config.environment import NOT_PROVIDERS, PROVIDERS, email_url, rate_limits, redis_url

SMTP: dict[str, Any] = {"host": "h", "port": None, "username": "", "password": "", "use_tls": False, "use_ssl": False}


@pytest.mark.parametrize(
    ("url", "backend", "options"),
    [
        ("smtp://h", "mailer.transports.smtp", SMTP),
        ("smtp://h:2525", "mailer.transports.smtp", SMTP | {"port": 2525}),
        ("smtps://h", "mailer.transports.smtp", SMTP | {"use_ssl": True}),
        (
            "smtp://me%40gmail.com:pass%3Aword@smtp.gmail.com:587/?tls=1",
            "mailer.transports.smtp",
            SMTP
            | {
                "host": "smtp.gmail.com",
                "port": 587,
                "username": "me@gmail.com",
                "password": "pass:word",
                "use_tls": True,
            },
        ),
        (
            "smtp://noreply%40shop.example@smtp.office365.com:587/?tls=1&oauth=microsoft&tenant=t&client_id=c"
            "&client_secret=a%2Bb",
            "mailer.transports.smtp",
            SMTP
            | {
                "host": "smtp.office365.com",
                "port": 587,
                "username": "noreply@shop.example",
                "use_tls": True,
                "oauth": {"provider": "microsoft", "tenant": "t", "client_id": "c", "client_secret": "a+b"},
            },
        ),
        ("postmark:?server_token=a+b/c?d%26e%3D", "anymail.backends.postmark", {"server_token": "a+b/c?d&e="}),
        ("postmark:?server_token=t", "anymail.backends.postmark", {"server_token": "t"}),
        ("mailgun:?api_key=k&sender_domain=d", "anymail.backends.mailgun", {"api_key": "k", "sender_domain": "d"}),
        (
            "ses:?region_name=eu-west-1&configuration_set_name=c",
            "anymail.backends.amazon_ses",
            {"configuration_set_name": "c", "client_params": {"region_name": "eu-west-1"}},
        ),
        ("amazon_ses:", "anymail.backends.amazon_ses", {}),
    ],
)
def test_the_url_of_a_transport_becomes_a_mailer(url: str, backend: str, options: dict[str, Any]) -> None:
    assert email_url(url) == {"BACKEND": f"{backend}.EmailBackend", "OPTIONS": options}


@pytest.mark.parametrize("url", ["smtp://h/?tls=1&{}", "ses:?region_name=eu-west-1&{}", "postmark:?{}&server_token=t"])
def test_limits_are_no_options_of_the_backend(url: str) -> None:
    made = email_url(url.format("rate=14/s&quota=50000/day&weight=10&domains=gmail.com:5"))

    assert made.pop("LIMITS") == {"rate": "14/s", "quota": "50000/day", "weight": "10", "domains": "gmail.com:5"}
    assert made == email_url(url.format(""))


def test_a_limit_without_a_value_is_not_dropped() -> None:
    assert email_url("smtp://h/?rate=")["LIMITS"] == {"rate": ""}


def test_every_provider_of_anymail_is_known() -> None:
    assert {"amazon_ses", "brevo", "mailgun", "postmark", "resend", "sendgrid", "unisender_go"} <= PROVIDERS
    assert PROVIDERS.isdisjoint(NOT_PROVIDERS)
    for provider in PROVIDERS:
        assert import_string(email_url(f"{provider}:")["BACKEND"])


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "unknown transport ''"),
        ("smpt://h", "did you mean smtp?"),
        ("postmrk:?server_token=secret", "did you mean postmark?"),
        ("carrier-pigeon:", "unknown transport 'carrier-pigeon'; use one of smtp"),
        ("smtp://", "needs a host"),
        ("smtp://secret@h", "needs a user and a password"),
        ("smtp://user:pa/secret@h", "write @ : / ? # % as %40"),
        ("smtp://h:secret", "write @ : / ? # % as %40"),
        ("smtp://h/?ssl=1", "unknown option 'ssl'"),
        ("smtps://h/?tls=1", "remove tls=1"),
        (
            "smtps://h/?tenant=secret",
            "unknown option 'tenant' of an SMTP transport; it has tls=1, domains, quota, rate, weight, and oauth=… with",
        ),
        ("smtps://h/?oauth=google&refresh_token=secret", "needs the mailbox as its user, and no password"),
        ("smtps://me:secret@h/?oauth=google&refresh_token=secret", "needs the mailbox as its user, and no password"),
    ],
)
def test_a_broken_transport_is_explained_without_its_secrets(url: str, complaint: str) -> None:
    with pytest.raises(EnvError) as caught:
        email_url(url)

    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kombus", "transport_options"),
    [
        ("redis://h:6379/0", "redis://h:6379/0", {}),
        ("redis+socket:///run/s.sock", "redis+socket:///run/s.sock", {}),
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required", {}),
        ("rediss://h/0?", "rediss://h/0?ssl_cert_reqs=required", {}),
        ("rediss://h/0?a=b", "rediss://h/0?a=b&ssl_cert_reqs=required", {}),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none", {}),
        (
            "rediss://h/0?ssl_ca_certs=/my%20ca.pem",
            "rediss://h/0?ssl_ca_certs=%2Fmy%20ca.pem&ssl_cert_reqs=required",
            {},
        ),
        ("redis://h/1?heartbeat=60&global_keyprefix=a%3A", "redis://h/1?heartbeat=60", {"global_keyprefix": "a:"}),
        ("sentinel://a:1;sentinel://b:2/0?master_name=m", "sentinel://a:1;sentinel://b:2/0", {"master_name": "m"}),
        (
            "sentinel://a/0?global_keyprefix=a&master_name=m",
            "sentinel://a/0",
            {"master_name": "m", "global_keyprefix": "a"},
        ),
    ],
)
def test_kombu_gets_its_form_of_the_brokers_url(url: str, kombus: str, transport_options: dict[str, str]) -> None:
    broker = redis_url(url)

    assert (broker.url, broker.transport_options) == (kombus, transport_options)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("valkey://h", "unknown scheme 'valkey'; use one of redis://"),
        ("h:6379", "unknown scheme 'h'"),
        ("sentinel://a:1/0", "needs ?master_name="),
    ],
)
def test_a_broken_broker_is_explained(url: str, complaint: str) -> None:
    with pytest.raises(EnvError, match=complaint.replace("?", r"\?")):
        redis_url(url)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("60/hour", [(60, 3600)]),
        ("10/minute; 60/hour", [(10, 60), (60, 3600)]),
        ("20 per 15 minutes;1/Day", [(20, 900), (1, 86_400)]),
        (" 10000 / 2 seconds ", [(10_000, 2)]),
        ("1 per 366 days", [(1, 366 * 86_400)]),
    ],
)
def test_limits_are_read_as_people_write_them(text: str, limits: list[tuple[int, int]]) -> None:
    assert rate_limits(text) == limits


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        *(
            (text, "write limits as in 10/minute; 60/hour")
            for text in ("", "many", "5", "5/", "/hour", "-5/hour", "5/month")
        ),
        *(
            (text, "write limits as in")
            for text in ("5/hour;", "5/hour,6/day", "5.5/hour", "\u0665/hour", "9999999999/hour")
        ),
        *(
            (text, "from 1 to 10000 in at most 366 days")
            for text in ("0/hour", "10001/hour", "1/0hour", "1 per 367 days")
        ),
    ],
)
def test_a_broken_limit_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(EnvError, match=complaint):
        rate_limits(text)
