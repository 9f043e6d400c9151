from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from mailer.conf import Options, options, parse


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
        ({"SMTP_TIMEOUT": "60"}, "MAILER_SMTP_TIMEOUT must be less than MAILER_CLAIM_LEASE"),
        ({"BACKOFF_BASE": "9", "BACKOFF_MAX": "5"}, "MAILER_BACKOFF_BASE must be less than MAILER_BACKOFF_MAX"),
    ],
)
def test_a_broken_option_is_named(raw: dict[str, str], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse(raw)

    assert complaint in str(caught.value)


def test_overridden_settings_take_effect(settings: Settings) -> None:
    settings.MAILER = {"MAX_ATTEMPTS": 2}

    assert options().max_attempts == 2
