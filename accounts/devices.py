"""The browsers of users: how a session describes one, and which are known to an account.

Strangers who type wrong passwords must not lock an account's owner out. So a browser that logged in gets a signed cookie. It
opens nothing: it gives the browser a count of its own for wrong passwords.

https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies
"""

import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.core.signing import BadSignature, TimestampSigner
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

from accounts.models import User
from accounts.network import network_of, widened
from accounts.sessions import describe

LIFETIME = timedelta(days=365)

BROWSERS = ("Edg", "OPR", "Firefox", "Chrome", "Safari")
"""In this order, because a User-Agent contains the names of later ones too."""
NAMES = {"Edg": "Edge", "OPR": "Opera"}
SYSTEMS = ("Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux")


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
        return _signer(address).unsign(cookie, max_age=LIFETIME) if cookie else None
    except BadSignature:
        return None


def browser_of(request: HttpRequest) -> str:
    """Return a description such as "Firefox, Windows". It contains nothing that the client sent."""
    agent = request.headers.get("User-Agent", "")
    browser = next((name for name in BROWSERS if name in agent), "")
    system = next((name for name in SYSTEMS if name in agent), "")
    return ", ".join(part for part in (NAMES.get(browser, browser), system) if part)


@receiver(user_logged_in)
def describe_session(*, request: HttpRequest, **_: Any) -> None:
    """Record in the session where its user logged in, at the site's page or the admin's."""
    describe(request.session, browser=browser_of(request), network=widened(network_of(request)))


def _signer(address: str) -> TimestampSigner:
    """Return the signer of an account's cookies. A new password ends them: a thief may have collected some."""
    password = User.objects.filter(email=address).values_list("password", flat=True).first()
    return TimestampSigner(salt=f"accounts.devices:{address}:{password}")
