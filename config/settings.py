"""Every setting of the project. Values that differ between installations come only from environment variables.

A missing or broken variable stops the process. The error names every such variable.
"""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.utils.csp import CSP
from dotenv import load_dotenv
from environs import validate

from config import logging
from config.environment import KEY_LENGTH, Broker, Environment, Mailer

BASE_DIR = Path(__file__).resolve().parent.parent

# --- The environment -------------------------------------------------------------------------------------------------

env = Environment()
for file in env.list("ENV_FILES", [".env", ".local/env"]):  # a variable that is already set wins over every file
    load_dotenv(BASE_DIR / file)

DEBUG: bool = env.bool("DEBUG", False)


def in_debug(value: str) -> dict[str, Any]:
    """Return a default that applies only with DEBUG. In production the variable must be set."""
    return {"default": value} if DEBUG else {}


SECRET_KEY: str = env.str("SECRET_KEY", validate=validate.Length(min=KEY_LENGTH), **in_debug("only-for-debug" * 4))
SECRET_KEY_FALLBACKS: list[str] = env.secret_keys("SECRET_KEY_FALLBACKS", "")
SITE_URL: str = env.origin("SITE_URL", local_only=DEBUG, **in_debug("http://localhost:8000"))
hosts: list[str] = env.hosts("ALLOWED_HOSTS", "")
TRUSTED_PROXIES: list[str] = env.list("TRUSTED_PROXIES", [])
database: dict[str, Any] = env.database_url("DATABASE_URL")
broker: Broker = env.redis_url("REDIS_URL")
transport: Mailer = env.email_url("EMAIL_URL")
fallback: Mailer | None = env.email_url("FALLBACK_EMAIL_URL") if env.str("FALLBACK_EMAIL_URL", "") else None
DEFAULT_FROM_EMAIL: str = env.line("DEFAULT_FROM_EMAIL", **in_debug("Postcommit <hello@postcommit.example>"))
HEALTHCHECK_PING_URL: str = env.line("HEALTHCHECK_PING_URL", "")  # mailer/conf.py checks it
SUPPORT_EMAIL: str = env.mail_address("SUPPORT_EMAIL", "")
PRIVACY_URL: str = env.page("PRIVACY_URL", "")
TERMS_URL: str = env.page("TERMS_URL", "")
login_of_flower = validate.Regexp(r"(.+:.+)?\Z", error="write user:password")
FLOWER_BASIC_AUTH: str = env.str("FLOWER_BASIC_AUTH", "", validate=login_of_flower)
webhooks: dict[str, Any] = {
    "WEBHOOK_SECRET": env.logins("ANYMAIL_WEBHOOK_SECRET", ""),
    "MAILERSEND_SIGNING_SECRET": env.line("ANYMAIL_MAILERSEND_SIGNING_SECRET", ""),
    "MAILERSEND_INBOUND_SECRET": env.line("ANYMAIL_MAILERSEND_INBOUND_SECRET", ""),
    "MAILGUN_WEBHOOK_SIGNING_KEY": env.line("ANYMAIL_MAILGUN_WEBHOOK_SIGNING_KEY", ""),
    "MAILTRAP_TRACKING_SECRET": env.line("ANYMAIL_MAILTRAP_TRACKING_SECRET", ""),
    "MAILTRAP_INBOUND_SECRET": env.line("ANYMAIL_MAILTRAP_INBOUND_SECRET", ""),
    "MANDRILL_WEBHOOK_KEY": env.line("ANYMAIL_MANDRILL_WEBHOOK_KEY", ""),
    "POSTAL_WEBHOOK_KEY": env.line("ANYMAIL_POSTAL_WEBHOOK_KEY", ""),
    "SENDGRID_TRACKING_WEBHOOK_VERIFICATION_KEY": env.line("ANYMAIL_SENDGRID_TRACKING_WEBHOOK_VERIFICATION_KEY", ""),
    "UNISENDER_GO_API_KEY": env.line("ANYMAIL_UNISENDER_GO_API_KEY", ""),
    "BREVO_API_KEY": env.line("ANYMAIL_BREVO_API_KEY", ""),
    "MAILTRAP_API_TOKEN": env.line("ANYMAIL_MAILTRAP_API_TOKEN", ""),
    "RESEND_API_KEY": env.line("ANYMAIL_RESEND_API_KEY", ""),
}
FLOWER_URL: str = env.line("FLOWER_URL", "")
ACCOUNTS_MAIL_PER_NETWORK: list[tuple[int, int]] = env.rate_limits("ACCOUNTS_MAIL_PER_NETWORK", "60/hour")
VERIFICATION_DELAY: float = env.float("VERIFICATION_DELAY", 5.0, validate=validate.Range(min=0, max=86_400))
LOG_LEVEL: str = env.str("LOG_LEVEL", "INFO", validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"]))
STAFF_SECOND_FACTOR: bool = env.bool("STAFF_SECOND_FACTOR", not DEBUG)
env.seal()

# --- Applications and pages ------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "config.admin.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "anymail",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "django_otp_webauthn",
    "accounts",
    "mailer",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.AccessLogMiddleware",
    "config.middleware.NoStoreMiddleware",
    "config.middleware.NulMiddleware",
    "config.middleware.DatabaseAwayMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
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
                "config.footer.links",
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

# --- Accounts --------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}Validator"}
    for name in ("UserAttributeSimilarity", "MinimumLength", "CommonPassword", "NumericPassword")
]
AUTH_PASSWORD_VALIDATORS.append({"NAME": "accounts.password_length.MaximumLengthValidator"})
PASSWORD_HASHERS = [
    "accounts.password_hash.Argon2Hasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",  # what it was: a log-in replaces these hashes with Argon2's
]
PASSWORD_RESET_TIMEOUT = 3600
SESSION_ENGINE = "accounts.sessions"
AUTHENTICATION_BACKENDS = ["accounts.backends.VerifiedAddressBackend"]
OTP_TOTP_ISSUER = OTP_WEBAUTHN_RP_NAME = "Postcommit"
# Passkeys belong to the host of SITE_URL, whatever host a request names.
OTP_WEBAUTHN_RP_ID = str(urlsplit(SITE_URL).hostname)
OTP_WEBAUTHN_ALLOWED_ORIGINS = [SITE_URL]
OTP_WEBAUTHN_ALLOW_PASSWORDLESS_LOGIN = False
OTP_WEBAUTHN_EXCEPTION_LOGGER_NAME = ""  # accounts/views/passkeys.py logs a line without what was sent
SILENCED_SYSTEM_CHECKS = ["otp_webauthn.E031"]  # without HTTPS browsers have no passkeys; apps remain
OTP_STATIC_THROTTLE_FACTOR = 0  # guessing 80 bits is hopeless, and wrong ones must not lock the owner out
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "home"

# --- Security --------------------------------------------------------------------------------------------------------

ALLOWED_HOSTS = hosts or [urlsplit(SITE_URL).netloc.removesuffix(f":{urlsplit(SITE_URL).port}")]
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
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$", r"^accounts/staff/$"]  # asked for inside the network
SECURE_HSTS_SECONDS = 365 * 86_400 if over_https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = over_https
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = over_https
# Browsers take a cookie of this name from this host alone, over https: no subdomain can plant one (RFC 6265bis, 4.1.3.2).
cookie_prefix = "__Host-" if over_https else ""
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = f"{cookie_prefix}sessionid", f"{cookie_prefix}csrftoken"
DEVICE_COOKIE_NAME = f"{cookie_prefix}device"

# --- Servers ---------------------------------------------------------------------------------------------------------

# A pooler that lends connections by transaction, such as pgbouncer, has neither cursors nor prepared statements that outlive a
# transaction, and takes no `options` from a client: there the role has the limits (docs/scaling.md).
is_pooled: bool = database["DISABLE_SERVER_SIDE_CURSORS"]
# A connection that fell silent is given up within about 10 s, and a statement after 30 s. A migration may take longer, but
# while it waits for a lock all queries of the table wait behind it.
is_migration = sys.argv[1:2] == ["migrate"]
limits = "-c statement_timeout=0 -c lock_timeout=10s" if is_migration else "-c statement_timeout=30s"
of_one_server = {
    "options": limits,
    "prepare_threshold": 5,  # statements that every mail needs are prepared after some uses
}
connecting = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
DATABASES = {
    "default": database
    | {
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": connecting | ({"prepare_threshold": None} if is_pooled else of_one_server) | database["OPTIONS"],
    }
}

MAILERS: dict[str, dict[str, Any]] = {"default": {"BACKEND": "mailer.backend.OutboxBackend"}, "transport": transport}
if fallback:
    MAILERS["fallback"] = fallback

# What Anymail checks webhooks by, and fetches the mail with that they announce. Anymail takes an empty key for a key.
ANYMAIL: dict[str, Any] = {name: value for name, value in webhooks.items() if value}

# mailer/conf.py explains and converts the values; `manage.py check` names a broken one.
POSTCOMMIT = {"SUPPORT_ADDRESS": SUPPORT_EMAIL, "HEALTHCHECK_PING_URL": HEALTHCHECK_PING_URL} | {
    name.removeprefix("POSTCOMMIT_"): value for name, value in os.environ.items() if name.startswith("POSTCOMMIT_")
}

CELERY_BROKER_URL = broker.url
CELERY_BROKER_TRANSPORT_OPTIONS = broker.transport_options  # mailer.celery.configure() adds more
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_SEND_TASK_EVENTS = True  # for Flower, which asks for them only some seconds after a worker has started
CELERY_TIMEZONE = TIME_ZONE
CELERY_BEAT_SCHEDULE = {
    "purge-accounts": {
        "task": "accounts.tasks.purge",
        "schedule": 3600.0,
        "options": {"queue": "bulk", "expires": 3600.0},
    },
}

LOGGING = logging.configure(level=LOG_LEVEL, as_json=not DEBUG)
