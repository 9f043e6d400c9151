"""The settings, as a process reads them from its environment."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.environment import ENVIRONMENT
from tests.stack import PROJECT

PRODUCTION = ENVIRONMENT | {
    "DEBUG": "0",
    "SECRET_KEY": "".join(chr(33 + n % 90) for n in range(7, 7 + 60 * 13, 13)),
    "SITE_URL": "https://shop.example",
    "DEFAULT_FROM_EMAIL": "Shop <shop@shop.example>",
    "TRUSTED_PROXIES": "10.0.0.1",
}


def manage(*arguments: str, without: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **PRODUCTION, **changes}
    environment.pop(without, None)
    return subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_deployment_check_is_clean_under_production_values() -> None:
    done = manage("check", "--deploy", "--fail-level", "DEBUG")

    assert done.returncode == 0, done.stderr
    assert "no issues (0 silenced)" in done.stdout


@pytest.mark.drill
def test_a_machine_may_have_no_time_zones_no_home_and_no_folder_for_temporary_files() -> None:
    pytest.importorskip("tzdata")

    done = manage("check", without="TMPDIR", PYTHONTZPATH="", HOME="/nonexistent")

    assert done.returncode == 0, done.stderr


@pytest.mark.drill
def test_the_deployment_check_asks_for_a_proxy() -> None:
    done = manage("check", "--deploy", "--fail-level", "WARNING", without="TRUSTED_PROXIES")

    assert done.returncode == 1
    assert "(config.W001) TRUSTED_PROXIES is empty" in done.stderr
    assert "1 issue (0 silenced)" in done.stderr
    assert manage("check", "--fail-level", "WARNING", without="TRUSTED_PROXIES").returncode == 0


def read_settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> dict[str, Any]:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(PROJECT / "config" / "settings.py"))


def test_no_subdomain_can_plant_a_cookie_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings(monkeypatch, PRODUCTION)

    names = [value for name, value in settings.items() if name.endswith("_COOKIE_NAME")]
    assert len(names) == 3
    assert all(name.startswith("__Host-") for name in names)


@pytest.mark.parametrize(
    "name", ["SECRET_KEY", "SITE_URL", "DATABASE_URL", "REDIS_URL", "EMAIL_URL", "DEFAULT_FROM_EMAIL"]
)
def test_production_does_not_start_without_what_it_needs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        read_settings(monkeypatch, {key: value for key, value in PRODUCTION.items() if key != name})

    assert str(caught.value) == f"The environment is not usable. {name}: Environment variable not set."


@pytest.mark.parametrize(
    ("changes", "complaints"),
    [
        ({"SECRET_KEY": "short"}, ["SECRET_KEY: Shorter than minimum length 50."]),
        ({"SITE_URL": "shop.example"}, ["SITE_URL: write only scheme and host"]),
        ({"SITE_URL": "https://shop.example/path"}, ["SITE_URL: write only scheme and host"]),
        ({"SITE_URL": "https://user:pass@shop.example"}, ["SITE_URL: write only scheme and host"]),
        ({"SITE_URL": "https://shop.example:x"}, ["SITE_URL: not a URL"]),
        ({"SECRET_KEY_FALLBACKS": "short"}, ["SECRET_KEY_FALLBACKS: each key needs at least 50 characters"]),
        ({"REDIS_URL": "redis://:hunter2/x@h:6379/0"}, ["REDIS_URL: not a URL with a host and a port"]),
        ({"EMAIL_URL": "smtp://u:hunter2@h\u2100"}, ["EMAIL_URL: not a URL with a host and a port"]),
        ({"SITE_URL": "https://my_shop.example"}, ["SITE_URL: the host must be a domain of letters"]),
        ({"SITE_URL": "https://b\u00fccher-.example"}, ["SITE_URL: the host must be a domain of letters"]),
        ({"SITE_URL": "https://[fe80::1%25eth0]"}, ["SITE_URL: the host must be a domain of letters"]),
        ({"ALLOWED_HOSTS": "https://shop.example"}, ["ALLOWED_HOSTS: write hosts without a scheme"]),
        ({"ALLOWED_HOSTS": "shop.example,my shop.example"}, ["ALLOWED_HOSTS: the host must be a domain of letters"]),
        ({"DEFAULT_FROM_EMAIL": "Shop\n <shop@shop.example>"}, ["DEFAULT_FROM_EMAIL: write one line"]),
        ({"EMAIL_URL": "hunter2"}, ["EMAIL_URL: unknown transport ''"]),
        ({"EMAIL_URL": "postmark:?server_token=hunt#er2"}, ["EMAIL_URL: behind the ? write name=value"]),
        ({"EMAIL_URL": "mailgun:?api_key=hunt&er2"}, ["EMAIL_URL: behind the ? write name=value"]),
        ({"DEBUG": "1"}, ["SITE_URL: shop.example is not this machine, and DEBUG shows settings"]),
        (
            {"DEBUG": "1", "LOG_LEVEL": "LOUD"},
            ["SITE_URL: shop.example is not this machine", "LOG_LEVEL: Must be one of"],
        ),
        ({"DEBUG": "perhaps"}, ["DEBUG: Not a valid boolean."]),
        ({"DATABASE_URL": "nonsense"}, ["DATABASE_URL: PostgreSQL 15 or newer is needed"]),
        ({"DATABASE_URL": "mysql://u:hunter2@h/d"}, ["DATABASE_URL: PostgreSQL 15 or newer is needed"]),
        ({"DATABASE_URL": "sqlite:///db.sqlite3"}, ["DATABASE_URL: PostgreSQL 15 or newer is needed"]),
        ({"DATABASE_URL": "postgres://u:hunter2@h:port/d"}, ["DATABASE_URL: a port must be a number"]),
        ({"DATABASE_URL": "postgres://u:hunter2@h:70000/d"}, ["DATABASE_URL: a port must be a number"]),
        ({"DATABASE_URL": "postgres://u:hunter2@h"}, ["DATABASE_URL: name the database"]),
        ({"DATABASE_URL": "postgres://u:hunter2@h/d?currentSchema=x"}, ["no option 'currentSchema'"]),
        ({"DATABASE_URL": "postgres://u:hunter2@[h/d"}, ["DATABASE_URL: not a URL that PostgreSQL's library can read"]),
        ({"EMAIL_URL": "smpt://h"}, ["EMAIL_URL: unknown transport 'smpt'; did you mean smtp?"]),
        ({"FALLBACK_EMAIL_URL": "smpt://h"}, ["FALLBACK_EMAIL_URL: unknown transport"]),
        ({"FLOWER_BASIC_AUTH": "nocolon"}, ["FLOWER_BASIC_AUTH: write user:password"]),
        ({"FLOWER_BASIC_AUTH": "user:"}, ["FLOWER_BASIC_AUTH: write user:password"]),
        ({"ACCOUNTS_MAIL_PER_NETWORK": "many"}, ["ACCOUNTS_MAIL_PER_NETWORK: write limits as in 10/minute; 60/hour"]),
        ({"VERIFICATION_DELAY": "-1"}, ["VERIFICATION_DELAY: "]),
        ({"LOG_LEVEL": "LOUD"}, ["LOG_LEVEL: "]),
        ({"SITE_URL": "x", "REDIS_URL": "http://x"}, ["SITE_URL: write", "REDIS_URL: unknown scheme 'http'"]),
    ],
)
def test_all_broken_variables_are_named_at_once(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], complaints: list[str]
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        read_settings(monkeypatch, PRODUCTION | changes)

    for complaint in complaints:
        assert complaint in str(caught.value)
    assert "hunt" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "limits"),
    [
        (["gunicorn", "config.wsgi"], "-c statement_timeout=30s"),
        (["celery", "-A", "config", "worker"], "-c statement_timeout=30s"),
        (["manage.py", "purge_mail"], "-c statement_timeout=30s"),
        (["manage.py", "migrate"], "-c statement_timeout=0 -c lock_timeout=10s"),
    ],
)
def test_every_statement_ends_in_time_except_in_a_migration(
    monkeypatch: pytest.MonkeyPatch, program: list[str], limits: str
) -> None:
    monkeypatch.setattr(sys, "argv", program)

    options = read_settings(monkeypatch, PRODUCTION)["DATABASES"]["default"]["OPTIONS"]

    assert options["options"] == limits


@pytest.mark.parametrize(
    ("query", "timeouts"),
    [("", "30s 0"), ("?options=-c%20statement_timeout%3D0%20-c%20lock_timeout%3D1min", "0 1min")],
)
@pytest.mark.drill
def test_the_database_knows_the_limits_which_an_operator_may_change(query: str, timeouts: str) -> None:
    code = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')")
    print(*cursor.fetchone())
"""
    server = PRODUCTION["DATABASE_URL"].rpartition("/")[0]
    done = manage("shell", "--no-imports", "-c", code, DATABASE_URL=f"{server}/postgres{query}")

    assert done.stdout.strip() == timeouts, done.stderr


@pytest.mark.drill
def test_the_second_of_two_servers_is_used_if_it_takes_writes() -> None:
    """The first one is a folder without a server."""
    user, _, server = PRODUCTION["DATABASE_URL"].partition("@")
    first, second = server.replace(server.partition(":")[0], "%2Fnowhere").partition("/")[0], server.partition("/")[0]
    url = f"{user}@{first},{second}/postgres?target_session_attrs=read-write"
    code = "from django.db import connection; connection.cursor(); print(connection.connection.info.host)"

    done = manage("shell", "--no-imports", "-c", code, DATABASE_URL=url)

    assert done.stdout.strip() == unquote(second.partition(":")[0]), done.stderr


@pytest.mark.parametrize(
    ("query", "is_pooled"), [("?disable_server_side_cursors=true&sslmode=require", True), ("", False)]
)
def test_behind_a_pooler_nothing_is_expected_to_outlive_a_transaction(
    monkeypatch: pytest.MonkeyPatch, query: str, is_pooled: bool
) -> None:
    url = PRODUCTION["DATABASE_URL"] + query

    database = read_settings(monkeypatch, PRODUCTION | {"DATABASE_URL": url})["DATABASES"]["default"]

    options = database["OPTIONS"]
    assert database["DISABLE_SERVER_SIDE_CURSORS"] is is_pooled
    assert (options["prepare_threshold"] is None) is is_pooled
    assert ("options" not in options) is is_pooled
    assert options.get("sslmode") == ("require" if is_pooled else None)
    assert "disable_server_side_cursors" not in options


def test_spaces_and_line_breaks_around_a_value_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DATABASES", "MAILERS", "CELERY_BROKER_URL", "SITE_URL", "ALLOWED_HOSTS", "PRIVACY_URL")
    given = PRODUCTION | {"PRIVACY_URL": "https://shop.example/@us#privacy", "SUPPORT_EMAIL": "help@shop.example"}
    kept = ("SECRET_KEY", "ENV_FILES", "DEBUG", "TRUSTED_PROXIES", "FLOWER_BASIC_AUTH", "DJANGO_SETTINGS_MODULE")
    pasted = {name: value if name in kept else f" \t{value} \r\n" for name, value in given.items()}

    settings, others = read_settings(monkeypatch, given), read_settings(monkeypatch, given | pasted)

    for name in (*names, "DEFAULT_FROM_EMAIL", "SUPPORT_EMAIL"):
        assert others[name] == settings[name]


@pytest.mark.parametrize(
    ("url", "expected", "host"),
    [
        (" HTTPS://Shop.Example/ \n", "https://shop.example", "shop.example"),
        ("https://shop.example.", "https://shop.example", "shop.example"),
        ("https://shop.example:443", "https://shop.example", "shop.example"),
        ("http://shop.example:8200", "http://shop.example:8200", "shop.example"),
        ("https://B\u00fccher.example./", "https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://stra\u00dfe.example:8443", "https://xn--strae-oqa.example:8443", "xn--strae-oqa.example"),
        ("http://[::1]:8200", "http://[::1]:8200", "[::1]"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]", "[::1]"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "127.0.0.1"),
    ],
)
def test_the_sites_url_is_written_as_browsers_write_it(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str, host: str
) -> None:
    settings = read_settings(monkeypatch, PRODUCTION | {"SITE_URL": url})

    assert (settings["SITE_URL"], settings["ALLOWED_HOSTS"]) == (expected, [host])
    assert settings["OTP_WEBAUTHN_RP_ID"] == host.strip("[]")
    assert settings["OTP_WEBAUTHN_ALLOWED_ORIGINS"] == [expected]


def test_allowed_hosts_have_the_form_in_which_requests_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = " Shop.Example. , .b\u00fccher.example,::1,[::2], 10.0.0.7 ,"

    settings = read_settings(monkeypatch, PRODUCTION | {"ALLOWED_HOSTS": given})

    assert settings["ALLOWED_HOSTS"] == ["shop.example", ".xn--bcher-kva.example", "[::1]", "[::2]", "10.0.0.7"]
    assert read_settings(monkeypatch, PRODUCTION | {"ALLOWED_HOSTS": "*"})["ALLOWED_HOSTS"] == ["*"]


def test_a_process_ends_with_one_line() -> None:
    done = manage("check", SECRET_KEY="short")

    assert done.returncode == 1
    assert "SECRET_KEY: Shorter than minimum length 50." in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.drill
def test_every_variable_may_stand_in_a_file(tmp_path: Path) -> None:
    """The mailer's and gunicorn's too, which nothing asks environs for."""
    file = tmp_path / "env"
    file.write_text(
        "POSTCOMMIT_RETENTION_DAYS=7\nWEB_PORT=9000\nLOG_LEVEL=ERROR\nHEALTHCHECK_PING_URL=https://hc.example/x\n"
    )
    code = (
        "import os, config.settings as s; from mailer.conf import options; "
        "print(options().retention_days, options().healthcheck_ping_url, os.environ['WEB_PORT'], s.LOG_LEVEL)"
    )

    done = manage("shell", "--no-imports", "-c", code, ENV_FILES=str(file), LOG_LEVEL="INFO")

    assert done.stdout == "7 https://hc.example/x 9000 INFO\n", done.stderr


BROKEN = [
    {
        "EMAIL_URL": ("postmark:?server_token=t&colour=red", "mailer.E014", "colour"),
        "FALLBACK_EMAIL_URL": ("postmark:", "mailer.E014", "OPTIONS must define 'server_token'"),
        "DEFAULT_FROM_EMAIL": ("Shop", "mailer.E011", "DEFAULT_FROM_EMAIL is not one address"),
    },
    {"POSTCOMMIT_RETENTON_DAYS": ("1", "mailer.E010", "Did you mean POSTCOMMIT_RETENTION_DAYS?")},
    {"POSTCOMMIT_SWEEP_EVERY": ("soon", "mailer.E010", "POSTCOMMIT_SWEEP_EVERY must be a number")},
]


@pytest.mark.parametrize("changes", BROKEN)
def test_check_names_each_invalid_setting(changes: dict[str, tuple[str, str, str]]) -> None:
    done = manage("check", **{name: value for name, (value, _, _) in changes.items()})

    assert done.returncode == 1
    for _, check, complaint in changes.values():
        assert re.search(rf"\({check}\) .*{re.escape(complaint)}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "program",
    [["-c", "import config.wsgi"], ["-m", "celery", "-A", "config", "worker", "--pool", "solo"]],
    ids=["web", "worker"],
)
def test_a_server_does_not_start_with_an_invalid_setting(program: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *program],
        cwd=PROJECT,
        env={**os.environ, **PRODUCTION, "POSTCOMMIT_RETENTION_DAYS": "many"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode != 0
    assert "POSTCOMMIT_RETENTION_DAYS must be a number above 0, not 'many'" in done.stderr


def test_models_and_migrations_agree() -> None:
    done = manage("makemigrations", "--check", "--dry-run")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, True), ({"DEBUG": "1"}, False), ({"STAFF_SECOND_FACTOR": "0"}, False)]
)
def test_production_asks_staff_for_a_second_factor(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], expected: bool
) -> None:
    local = {"SITE_URL": "http://localhost:8000"} if changes.get("DEBUG") else {}
    for name, value in (PRODUCTION | local | changes).items():
        monkeypatch.setenv(name, value)
    settings = runpy.run_path(str(PROJECT / "config" / "settings.py"))
    assert settings["STAFF_SECOND_FACTOR"] is expected


def test_anymail_gets_the_secrets_of_webhooks_and_no_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = ENVIRONMENT | {"ANYMAIL_WEBHOOK_SECRET": "hooks:new,hooks:old", "ANYMAIL_POSTAL_WEBHOOK_KEY": ""}
    assert read_settings(monkeypatch, environment)["ANYMAIL"] == {"WEBHOOK_SECRET": ["hooks:new", "hooks:old"]}


def test_a_secret_of_webhooks_that_no_request_could_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImproperlyConfigured, match="ANYMAIL_WEBHOOK_SECRET: write user:password") as refusal:
        read_settings(monkeypatch, ENVIRONMENT | {"ANYMAIL_WEBHOOK_SECRET": "only-a-password"})
    assert "only-a-password" not in str(refusal.value)
