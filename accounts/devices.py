"""Browsers that are known to an account: strangers who type wrong passwords must not lock its owner out.

A browser that logged in gets a signed cookie. It opens nothing: it gives the browser a count of its own for wrong passwords.

https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies
"""

import secrets
from datetime import timedelta

from django.conf import settings
from django.core.signing import BadSignature, TimestampSigner
from django.http import HttpRequest, HttpResponse

LIFETIME = timedelta(days=365)


def remember(response: HttpResponse, address: str) -> None:
    """Make this browser known to the account with this address."""
    response.set_cookie(
        settings.DEVICE_COOKIE_NAME,
        _signer(address).sign(secrets.token_hex(16)),
        max_age=LIFETIME,
        httponly=True,
        secure=settings.SESSION_COOKIE_SECURE,
        samesite="Lax",
    )


def known(request: HttpRequest | None, address: str) -> str | None:
    """Return the name of the request's browser if it is known to the account with this address."""
    cookie = request.COOKIES.get(settings.DEVICE_COOKIE_NAME, "") if request else ""
    try:
        return _signer(address).unsign(cookie, max_age=LIFETIME)
    except BadSignature:
        return None


def _signer(address: str) -> TimestampSigner:
    return TimestampSigner(salt=f"accounts.devices:{address}")
