"""The limits of a transport, as a project writes them."""

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from config.environment import email_url
from mailer.delivery import limits
from mailer.delivery.limits import DOMAINS, Limits, parse


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, Limits()),
        ({"rate": "14/s"}, Limits(rate=14)),
        ({"rate": 14}, Limits(rate=14)),
        ({"rate": "0.5"}, Limits(rate=0.5)),
        ({"rate": "120/minute"}, Limits(rate=2)),
        ({"rate": "90 / min"}, Limits(rate=1.5)),
        ({"rate": "1800/h"}, Limits(rate=0.5)),
        ({"quota": "50000/day"}, Limits(quota=50_000)),
        ({"quota": "50000/24h"}, Limits(quota=50_000)),
        ({"quota": 300}, Limits(quota=300)),
        ({"weight": "10"}, Limits(weight=10)),
        ({"weight": "100%"}, Limits(weight=100)),
        ({"weight": 0}, Limits()),
        ({"rate": "14/s", "quota": "50000/day"}, Limits(rate=14, quota=50_000)),
        ({"domains": "gmail.com:5, Example.ORG:2"}, Limits(domains=DOMAINS | {"gmail.com": 5, "example.org": 2})),
        ({"domains": {"hotmail.com": 3}}, Limits(domains=DOMAINS | {"outlook.com": 3})),
    ],
)
def test_limits_are_parsed(raw: dict[str, object], expected: Limits) -> None:
    assert parse("fallback", raw) == expected


RATE = "rate must be messages a second, minute or hour"
QUOTA = "quota must be a whole number of messages a day"
AT_A_TIME = "domains must be domains with their numbers of messages at a time"
WEIGHT = "weight must be a whole number of percent from 0 to 100"


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        *(
            ({"rate": rate}, RATE)
            for rate in ["", "fast", "0", "-1", "nan", "inf", "1e3", "14/day", "14/s/s", "14/s,quota=5"]
        ),
        *(({"quota": quota}, QUOTA) for quota in ["", "0", "-5", "1.5", "50 000", "5/hour", "٣", "10" * 9, None]),
        *(({"weight": weight}, WEIGHT) for weight in ["", "-1", "101", "0.5", "a tenth", "1000"]),
        *(
            ({"domains": text}, AT_A_TIME)
            for text in ["", "5", "gmail.com", "gmail.com:0", "gmail:5", "a.com:1;b.com:2"]
        ),
        ({"domains": {"gmail.com": "many"}}, AT_A_TIME),
        ({"domains": {"gmail.com": None}}, AT_A_TIME),
        ({"qouta": "5"}, "'qouta' is no limit; there are rate, quota, weight, domains"),
        ("14/s", "LIMITS must be a dictionary"),
    ],
)
def test_a_wrong_limit_is_a_sentence_that_names_the_parameter_and_not_its_value(raw: object, complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint) as caught:
        parse("fallback", raw)  # type: ignore[arg-type]

    assert "quota=5" not in str(caught.value)


def test_only_the_fallback_may_have_a_weight() -> None:
    assert parse("transport", {"weight": 0}) == Limits()
    with pytest.raises(ImproperlyConfigured, match="only 'fallback' may have a weight"):
        parse("transport", {"weight": 10})


def test_no_process_starts_with_a_wrong_limit(settings: Settings) -> None:
    settings.MAILERS = {
        "transport": email_url("smtp://h/?rate=14/s&quota=many"),
        "fallback": email_url("smtp://h?rate=1"),
    }

    found = [error.msg for error in checks.run_checks(tags=["postcommit"]) if "quota" in error.msg]

    assert found == [f"MAILERS['transport']: {QUOTA}, as in 50000/day."]


def test_a_transport_without_a_rate_of_its_own_has_that_of_all(settings: Settings) -> None:
    settings.MAILERS = {"transport": email_url("smtp://h/?rate=14/s"), "fallback": email_url("smtp://h?quota=5")}
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "2"}

    assert limits.of("transport") == Limits(rate=14)
    assert limits.of("fallback") == Limits(rate=2, quota=5)

    settings.POSTCOMMIT = {}
    assert limits.of("fallback") == Limits(quota=5)
