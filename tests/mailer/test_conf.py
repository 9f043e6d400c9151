from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from mailer.conf import Options, hold_against_broker, options, parse


def test_values_come_as_strings_from_the_environment() -> None:
    parsed = parse({"MAX_ATTEMPTS": "3", "BACKOFF_BASE": "0.5", "CLAIM_LEASE": timedelta(minutes=2)})

    assert parsed == Options(max_attempts=3, backoff_base=timedelta(seconds=0.5), claim_lease=timedelta(minutes=2))


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"MAX_ATEMPTS": "3"}, "MAILER_MAX_ATEMPTS is not an option of the mailer; did you mean MAILER_MAX_ATTEMPTS?"),
        ({"COLOUR": "red"}, "MAILER_COLOUR is not an option"),
        ({"MAX_ATTEMPTS": "many"}, "MAILER_MAX_ATTEMPTS must be a whole number, not 'many'"),
        ({"MAX_ATTEMPTS": "2.5"}, "MAILER_MAX_ATTEMPTS must be a whole number, not '2.5'"),
        ({"RETENTION_DAYS": "99999999999"}, "MAILER_RETENTION_DAYS must be 36500 at the most"),
        ({"MAX_ATTEMPTS": "0"}, "MAILER_MAX_ATTEMPTS must be more than 0"),
        ({"BACKOFF_BASE": "-1"}, "MAILER_BACKOFF_BASE must be more than 0"),
        ({"BACKOFF_BASE": "inf"}, "MAILER_BACKOFF_BASE must be a number"),
        ({"BACKOFF_BASE": "nan"}, "MAILER_BACKOFF_BASE must be a number"),
        ({"RATE_PER_SECOND": "fast"}, "MAILER_RATE_PER_SECOND must be a number, not 'fast'"),
        ({"RATE_PER_SECOND": "inf"}, "MAILER_RATE_PER_SECOND must be a number, not 'inf'"),
        ({"RATE_PER_SECOND": "0"}, "MAILER_RATE_PER_SECOND must be more than 0"),
        ({"INLINER": "juice"}, "MAILER_INLINER must be css_inline or premailer, not 'juice'"),
        ({"INLINER": ""}, "MAILER_INLINER must be css_inline or premailer, not ''"),
        ({"SMTP_TIMEOUT": "60"}, "MAILER_SMTP_TIMEOUT must be less than MAILER_CLAIM_LEASE"),
        ({"BACKOFF_BASE": "9", "BACKOFF_MAX": "5"}, "MAILER_BACKOFF_BASE must be less than MAILER_BACKOFF_MAX"),
    ],
)
def test_a_broken_option_is_named(raw: dict[str, str], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(raw)

    assert complaint in str(caught.value)


@pytest.mark.parametrize("raw", [{}, {"RATE_PER_SECOND": ""}])
def test_there_is_no_rate_unless_one_is_set(raw: dict[str, str]) -> None:
    assert parse(raw).rate_per_second is None


@pytest.mark.parametrize(
    ("raw", "visibility_timeout", "complaint"),
    [
        ({}, 120, "visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS (120 s) must be more than twice MAILER_CLAIM"),
        ({"CLAIM_LEASE": "150"}, 300, "(300 s) must be more than twice MAILER_CLAIM_LEASE (300 s)"),
        ({"CLAIM_LEASE": "20"}, 60, "(60 s) must be more than the countdown of a task (60 s)"),
    ],
)
def test_a_task_must_not_outlast_the_patience_of_the_broker(
    raw: dict[str, str], visibility_timeout: int, complaint: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        hold_against_broker(parse(raw), {"visibility_timeout": visibility_timeout})

    assert complaint in str(caught.value)


def test_the_defaults_hold_against_the_default_broker() -> None:
    hold_against_broker(parse({}), {})


def test_overridden_settings_take_effect(settings: Settings) -> None:
    settings.MAILER = {"MAX_ATTEMPTS": 2}

    assert options().max_attempts == 2
