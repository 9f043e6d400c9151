from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from mailer.checks.settings import check_visibility_timeout
from mailer.conf import Options, options, parse


def test_values_come_as_strings_from_the_environment() -> None:
    parsed = parse({"MAX_ATTEMPTS": "3", "BACKOFF_BASE": "0.5", "CLAIM_LEASE": timedelta(minutes=2)})

    assert parsed == Options(max_attempts=3, backoff_base=timedelta(seconds=0.5), claim_lease=timedelta(minutes=2))


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (
            {"MAX_ATEMPTS": "3"},
            "POSTCOMMIT_MAX_ATEMPTS is not a setting. Did you mean POSTCOMMIT_MAX_ATTEMPTS?",
        ),
        ({"COLOUR": "red"}, "POSTCOMMIT_COLOUR is not a setting"),
        ({"MAX_ATTEMPTS": "many"}, "POSTCOMMIT_MAX_ATTEMPTS must be a number above 0, not 'many'"),
        ({"MAX_ATTEMPTS": "2.5"}, "POSTCOMMIT_MAX_ATTEMPTS must be a whole number, not '2.5'"),
        ({"RETENTION_DAYS": "99999999999"}, "POSTCOMMIT_RETENTION_DAYS must be 36500 at most"),
        ({"MAX_ATTEMPTS": "0"}, "POSTCOMMIT_MAX_ATTEMPTS must be a number above 0"),
        ({"BACKOFF_BASE": "-1"}, "POSTCOMMIT_BACKOFF_BASE must be a number above 0"),
        ({"BACKOFF_BASE": "inf"}, "POSTCOMMIT_BACKOFF_BASE must be a number"),
        ({"BACKOFF_BASE": "nan"}, "POSTCOMMIT_BACKOFF_BASE must be a number"),
        ({"RATE_PER_SECOND": "fast"}, "POSTCOMMIT_RATE_PER_SECOND must be a number above 0, not 'fast'"),
        ({"RATE_PER_SECOND": "inf"}, "POSTCOMMIT_RATE_PER_SECOND must be a number above 0, not 'inf'"),
        ({"RATE_PER_SECOND": "0"}, "POSTCOMMIT_RATE_PER_SECOND must be a number above 0"),
        ({"INLINER": "juice"}, "POSTCOMMIT_INLINER must be css_inline or premailer, not 'juice'"),
        ({"INLINER": ""}, "POSTCOMMIT_INLINER must be css_inline or premailer, not ''"),
        ({"SMTP_TIMEOUT": "60"}, "POSTCOMMIT_SMTP_TIMEOUT must be less than POSTCOMMIT_CLAIM_LEASE"),
        ({"BACKOFF_BASE": "1e20"}, "POSTCOMMIT_BACKOFF_BASE "),
    ],
)
def test_a_broken_option_is_named(raw: dict[str, str], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(raw)

    assert complaint in str(caught.value)


@pytest.mark.parametrize("raw", [{}, {"RATE_PER_SECOND": ""}])
def test_the_default_is_no_rate_limit(raw: dict[str, str]) -> None:
    assert parse(raw).rate_per_second is None


@pytest.mark.parametrize(
    ("raw", "visibility_timeout", "complaint"),
    [
        ({}, 120, "(120 s) must be more than twice POSTCOMMIT_CLAIM_LEASE"),
        ({"CLAIM_LEASE": "150"}, 300, "(300 s) must be more than twice POSTCOMMIT_CLAIM_LEASE"),
        ({"CLAIM_LEASE": "20"}, 60, "(60 s) must be more than twice POSTCOMMIT_CLAIM_LEASE, and more than 60 s"),
    ],
)
def test_a_task_must_not_outlast_the_visibility_timeout_of_the_broker(
    raw: dict[str, str], visibility_timeout: int, complaint: str, settings: Settings
) -> None:
    settings.POSTCOMMIT = raw

    found = list(check_visibility_timeout({"visibility_timeout": visibility_timeout}))

    assert {error.id for error in found} == {"mailer.E013"}
    assert complaint in found[0].msg


def test_the_defaults_suit_the_default_broker() -> None:
    assert list(check_visibility_timeout({})) == []


def test_overridden_settings_take_effect(settings: Settings) -> None:
    settings.POSTCOMMIT = {"MAX_ATTEMPTS": 2}

    assert options().max_attempts == 2
