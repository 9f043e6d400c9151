"""Every setting of the project. What differs between two installations comes from the environment, and only from there.

Variables that are missing or broken stop the process with a sentence that names them, all at once.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.utils.csp import CSP
from environs import Env, EnvError, EnvValidationError, validate
from limits import parse_many

from config import email_url, logging, redis_url
from config.split_url import split

BASE_DIR = Path(__file__).resolve().parent.parent

# --- The environment -------------------------------------------------------------------------------------------------

KEY_LENGTH = 50

env = Env(eager=False)  # errors are collected, and told by seal()
for file in env.list("ENV_FILES", [".env", ".local/env"]):  # a variable that is set already wins over every file
    env.read_env(str(BASE_DIR / file), recurse=False)


@env.parser_for("origin")
def parse_origin(value: str) -> str:
    """An address without a path, the base of every link: `https://example.com`."""
    parts = split(value)
    beside = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in ("http", "https") or not parts.hostname or beside:
        raise EnvError("write scheme and host alone, as in https://example.com")
    return f"{parts.scheme}://{parts.netloc}"


@env.parser_for("basic_auth")
def parse_basic_auth(value: str) -> str:
    """`user:password`, or nothing."""
    if value and not all(value.partition(":")):
        raise EnvError("write user:password")
    return value


@env.parser_for("keys")
def parse_keys(value: str) -> list[str]:
    """Keys with commas between; an empty or a short one would verify what anybody signed."""
    keys = [key for key in value.split(",") if key]
    if any(len(key) < KEY_LENGTH for key in keys):
        raise EnvError(f"each key needs {KEY_LENGTH} characters at the least")
    return keys


@env.parser_for("limits")
def parse_limits(value: str) -> str:
    """One or several limits, as in `10/minute; 60/hour`."""
    try:
        parse_many(value)
    except ValueError:
        raise EnvError("write limits as in 10/minute; 60/hour") from None
    return value


env.add_parser("redis_url", redis_url.parse)
env.add_parser("email_url", email_url.parse)

DEBUG: bool = env.bool("DEBUG", False)


def in_debug(value: str) -> dict[str, Any]:
    """A default that production does not get: there the variable has to be set."""
    return {"default": value} if DEBUG else {}


SECRET_KEY: str = env.str("SECRET_KEY", validate=validate.Length(min=KEY_LENGTH), **in_debug("only-for-debug" * 4))
SECRET_KEY_FALLBACKS: list[str] = env.keys("SECRET_KEY_FALLBACKS", "")
SITE_URL: str = env.origin("SITE_URL", **in_debug("http://localhost:8000"))
hosts: list[str] = env.list("ALLOWED_HOSTS", [])
TRUSTED_PROXIES: list[str] = env.list("TRUSTED_PROXIES", [])
database: dict[str, Any] = env.dj_db_url("DATABASE_URL")
broker: redis_url.Broker = env.redis_url("REDIS_URL")
transport: email_url.Mailer = env.email_url("EMAIL_URL")
fallback_transport: email_url.Mailer | None = (
    env.email_url("FALLBACK_EMAIL_URL") if env.str("FALLBACK_EMAIL_URL", "") else None
)
DEFAULT_FROM_EMAIL: str = env.str("DEFAULT_FROM_EMAIL", **in_debug("Postcommit <hello@postcommit.example>"))
FLOWER_BASIC_AUTH: str = env.basic_auth("FLOWER_BASIC_AUTH", "")
FLOWER_URL: str = env.str("FLOWER_URL", "")
ACCOUNTS_MAIL_PER_NETWORK: str = env.limits("ACCOUNTS_MAIL_PER_NETWORK", "60/hour")
VERIFICATION_DELAY: float = env.float("VERIFICATION_DELAY", 5.0, validate=validate.Range(min=0, max=86_400))
LOG_LEVEL: str = env.str("LOG_LEVEL", "INFO", validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"]))

try:
    env.seal()
except EnvValidationError as error:
    messages: Any = error.error_messages
    broken = (f"{name}: {' '.join(map(str, reasons))}" for name, reasons in messages.items())
    raise ImproperlyConfigured("The environment is not usable. " + " | ".join(broken)) from None

if DEBUG and urlsplit(SITE_URL).hostname not in ("localhost", "127.0.0.1", "::1"):
    raise ImproperlyConfigured(
        f"DEBUG shows errors and settings to everybody, and SITE_URL ({SITE_URL}) is not this machine alone: set DEBUG=0."
    )

# --- Applications and pages ------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "config.admin.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "anymail",
    "accounts",
    "mailer",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.access_log.AccessLogMiddleware",
    "config.refusals.NulMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.csp",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "static-collected"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_AUTOREFRESH = WHITENOISE_USE_FINDERS = DEBUG
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("th", "ไทย")]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Accounts --------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
AUTH_PASSWORD_VALIDATORS.append({"NAME": "accounts.password_length.MaximumLengthValidator"})
PASSWORD_RESET_TIMEOUT = 3600
SESSION_ENGINE = "accounts.sessions"
RATE_LIMITS_URL, RATE_LIMITS_OPTIONS = broker.limits_url, broker.limits_options
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"

# --- Security --------------------------------------------------------------------------------------------------------

ALLOWED_HOSTS = hosts or [str(urlsplit(SITE_URL).hostname)]
over_https = SITE_URL.startswith("https://")
SECURE_CSP = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.SELF, CSP.NONCE],
    "style-src": [CSP.SELF, CSP.NONCE],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    "form-action": [CSP.SELF],
    "base-uri": [CSP.NONE],
    "frame-ancestors": [CSP.NONE],
}
FILE_UPLOAD_HANDLERS = ["config.uploads.RefuseFiles"]
SECURE_SSL_REDIRECT = over_https
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]  # asked for by probes inside the network
SECURE_HSTS_SECONDS = 365 * 86_400 if over_https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = over_https
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = over_https
X_FRAME_OPTIONS = "DENY"

# --- Servers ---------------------------------------------------------------------------------------------------------

DATABASES = {"default": database | {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}}
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 3)

MAILERS: dict[str, dict[str, Any]] = {"default": {"BACKEND": "mailer.backend.OutboxBackend"}, "transport": transport}
if fallback_transport:
    MAILERS["fallback"] = fallback_transport

# mailer/conf.py converts and explains the values; `manage.py check` names a broken one.
POSTCOMMIT = {
    name.removeprefix("POSTCOMMIT_"): value for name, value in os.environ.items() if name.startswith("POSTCOMMIT_")
}

CELERY_BROKER_URL = broker.url
CELERY_BROKER_TRANSPORT_OPTIONS = broker.transport_options  # mailer.celery.configure() adds the rest
CELERY_TASK_IGNORE_RESULT = True
CELERY_TIMEZONE = TIME_ZONE
CELERY_WORKER_SEND_TASK_EVENTS = True  # what Flower shows
CELERY_BEAT_SCHEDULE = {
    "purge-accounts": {
        "task": "accounts.tasks.purge",
        "schedule": 3600.0,
        "options": {"queue": "bulk", "expires": 3600.0},
    },
}

LOGGING = logging.configure(level=LOG_LEVEL, as_json=not DEBUG)
