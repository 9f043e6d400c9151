"""Django's settings for the pages of the inbox: no database, no secret, nothing of the project."""

import secrets
from pathlib import Path

import django
from django.conf import settings
from django.utils.csp import CSP

HERE = Path(__file__).parent
STATIC = HERE / "static"

# Nothing inline and nothing from other sites: a mail that escaped from its frame could still run no script.
PAGE_POLICY = {
    "default-src": CSP.NONE,
    "script-src": CSP.SELF,
    "style-src": CSP.SELF,
    "img-src": CSP.SELF,
    "connect-src": CSP.SELF,
    "frame-src": CSP.SELF,
    "form-action": CSP.SELF,
    "base-uri": CSP.NONE,
    "frame-ancestors": CSP.NONE,
}


def configure() -> None:
    """Set up Django, to answer as localhost alone.

    With any other Host header a web site could point its own name at this machine (DNS rebinding) and read the mail
    through the browser.
    """
    settings.configure(
        SECRET_KEY=secrets.token_urlsafe(),  # required by Django; signs nothing here
        ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]"],
        ROOT_URLCONF="local.inbox.urls",
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.csp.ContentSecurityPolicyMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [HERE / "templates"]}],
        SECURE_CSP=PAGE_POLICY,
        STATIC_URL="/static/",
        # Browsers share cookies between the ports of a host: this cookie must not replace the site's.
        CSRF_COOKIE_NAME="inbox_csrftoken",
        CSRF_COOKIE_HTTPONLY=True,
        CSRF_COOKIE_SAMESITE="Strict",
        CSRF_FAILURE_VIEW="local.inbox.views.forbidden",
        USE_I18N=False,
        USE_TZ=False,  # times are shown in the time zone of this machine
        LOGGING_CONFIG=None,
    )
    django.setup()
