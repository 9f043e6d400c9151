from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from mailer.celery import BROKER_TRANSPORT_OPTIONS
from mailer.checks.settings import check_visibility_timeout
from mailer.conf import Options, options, parse


def test_values_come_as_strings_from_the_environment() -> None:
    parsed = parse({"MAX_MESSAGE_SIZE": "3", "BACKOFF_BASE": "0.5", "SMTP_TIMEOUT": timedelta(minutes=2)})

    assert parsed == Options(max_message_size=3, backoff_base=timedelta(seconds=0.5), smtp_timeout=timedelta(minutes=2))


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (
            {"BACKOF_BASE": "3"},
            "POSTCOMMIT_BACKOF_BASE is not a setting. Did you mean POSTCOMMIT_BACKOFF_BASE?",
        ),
        ({"COLOUR": "red"}, "POSTCOMMIT_COLOUR is not a setting"),
        ({"RETENTION_DAYS": "many"}, "POSTCOMMIT_RETENTION_DAYS must be a number above 0, not 'many'"),
        ({"RETENTION_DAYS": "2.5"}, "POSTCOMMIT_RETENTION_DAYS must be a whole number, not '2.5'"),
        ({"RETENTION_DAYS": "99999999999"}, "POSTCOMMIT_RETENTION_DAYS must be 36500 at most"),
        ({"RETENTION_DAYS": "0"}, "POSTCOMMIT_RETENTION_DAYS must be a number above 0"),
        ({"BACKOFF_BASE": "-1"}, "POSTCOMMIT_BACKOFF_BASE must be a number above 0"),
        ({"BACKOFF_BASE": "inf"}, "POSTCOMMIT_BACKOFF_BASE must be a number"),
        ({"BACKOFF_BASE": "nan"}, "POSTCOMMIT_BACKOFF_BASE must be a number"),
        ({"RATE_PER_SECOND": "fast"}, "POSTCOMMIT_RATE_PER_SECOND must be a number above 0, not 'fast'"),
        ({"RATE_PER_SECOND": "inf"}, "POSTCOMMIT_RATE_PER_SECOND must be a number above 0, not 'inf'"),
        ({"RATE_PER_SECOND": "0"}, "POSTCOMMIT_RATE_PER_SECOND must be a number above 0"),
        ({"INLINER": "juice"}, "POSTCOMMIT_INLINER must be css_inline or premailer, not 'juice'"),
        ({"INLINER": ""}, "POSTCOMMIT_INLINER must be css_inline or premailer, not ''"),
        ({"METRICS_TOKEN": "short"}, "POSTCOMMIT_METRICS_TOKEN must have 20 characters at least"),
        ({"METRICS_TOKEN": "é" * 20}, "POSTCOMMIT_METRICS_TOKEN must have 20 characters at least"),
        ({"HEALTHCHECK_PING_URL": "ftp://a.example/x"}, "POSTCOMMIT_HEALTHCHECK_PING_URL must be a URL"),
        ({"HEALTHCHECK_PING_URL": "https://a.example:x/y"}, "POSTCOMMIT_HEALTHCHECK_PING_URL must be a URL"),
        ({"HEALTHCHECK_PING_URL": "https:///x"}, "POSTCOMMIT_HEALTHCHECK_PING_URL must be a URL"),
        ({"CLAIM_LEASE": "60"}, "POSTCOMMIT_CLAIM_LEASE is not a setting"),  # of a former release
        ({"BACKOFF_BASE": "1e20"}, "POSTCOMMIT_BACKOFF_BASE "),
    ],
)
def test_a_broken_option_is_named(raw: dict[str, str], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(raw)

    assert complaint in str(caught.value)


@pytest.mark.parametrize("raw", [{"METRICS_TOKEN": "s3cret"}, {"HEALTHCHECK_PING_URL": "hc.example/s3cret"}])
def test_a_broken_secret_is_not_shown(raw: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(raw)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("raw", [{}, {"RATE_PER_SECOND": ""}])
def test_the_default_is_no_rate_limit(raw: dict[str, str]) -> None:
    assert parse(raw).rate_per_second is None


@pytest.mark.parametrize(("seconds", "errors"), [(30, ["mailer.E013"]), (60, ["mailer.E013"]), (61, []), (300, [])])
def test_a_countdown_must_not_outlast_the_visibility_timeout_of_the_broker(seconds: int, errors: list[str]) -> None:
    found = list(check_visibility_timeout({"visibility_timeout": seconds}))

    assert [error.id for error in found] == errors
    assert all(f"({seconds} s) must be more than 60 s" in error.msg for error in found)


def test_the_defaults_suit_the_default_broker() -> None:
    assert list(check_visibility_timeout({})) == []
    assert list(check_visibility_timeout(BROKER_TRANSPORT_OPTIONS)) == []


def test_overridden_settings_take_effect(settings: Settings) -> None:
    settings.POSTCOMMIT = {"RETENTION_DAYS": 2}

    assert options().retention_days == 2
