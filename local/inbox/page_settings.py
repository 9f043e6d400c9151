"""Django's settings for the pages of the inbox: without a database, a secret or anything of the project."""

import secrets
from pathlib import Path

import django
from django.conf import settings
from django.utils.csp import CSP

HERE = Path(__file__).parent
STATIC = HERE / "static"

# Nothing inline and nothing from elsewhere: a mail that broke out of escaping would still run nothing.
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


def configure(host: str) -> None:
    """Set Django up in this process, to answer as localhost and as the host it listens on.

    Any other Host header is refused: a web site could point its own name at this machine (DNS rebinding) and read
    the mail through the browser.
    """
    settings.configure(
        SECRET_KEY=secrets.token_urlsafe(),  # Django wants one; it signs nothing here
        ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host],
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
        # Browsers share cookies between the ports of a host: this one must not replace the site's.
        CSRF_COOKIE_NAME="inbox_csrftoken",
        CSRF_COOKIE_HTTPONLY=True,
        CSRF_COOKIE_SAMESITE="Strict",
        CSRF_FAILURE_VIEW="local.inbox.views.forbidden",
        USE_I18N=False,
        USE_TZ=False,  # times are shown as this machine's clock tells them
        LOGGING_CONFIG=None,
    )
    django.setup()
