"""The second factor of staff: codes of an app (TOTP) and recovery codes; who needs one, and how one is added and removed.

django-otp keeps the devices and remembers in the session which of them verified it.

A key of an app is stored as it is: django-otp's column has no room for an encrypted one, and a key that is derived from
SECRET_KEY would stop every app when that changes. A recovery code is stored as a hash.
"""

import secrets
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, ClassVar, Self

import segno
import structlog
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django_otp import devices_for_user
from django_otp import login as remember_device
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice
from django_otp.util import random_hex

from accounts.emails import SAMPLE, ToAccount
from accounts.models import User
from accounts.sessions import end_sessions
from mailer import outbox
from mailer.email import CRITICAL, Email

log = structlog.get_logger("accounts")

RECOVERY_CODES = 10
SUSPICIOUS = 5
"""Wrong codes in a row after which the owner gets an e-mail: the person who types them knows the password."""
LONGEST_WAIT = 11
"""Wrong codes in a row after which the wait before the next try does not double any more: 2^10 seconds, 17 minutes.

django-otp's own bound is a hundred years. A thief who knows the password could lock the app's owner out for ever.
"""
PASSWORD_FOR = timedelta(minutes=10)
"""How long a typed password allows to add a first device."""
PASSWORD_TYPED = "second_factor_password_at"  # noqa: S105 - a key of the session
NEW_KEY = "second_factor_new_key"
"""The key of the session for an app's key that no code has confirmed yet. Another session must never see it."""


@dataclass(frozen=True)
class Changed(ToAccount):
    """What the e-mail is about, beside the account."""

    what: str
    """`added`, `removed`, `codes` (new recovery codes), `recovery` (one was used), `guesses` or `reset`."""


class SecondFactorChanged(Changed, Email):
    """Notify the owner of a change to their second factor, of a used recovery code, or of guesses."""

    template: ClassVar = "email/second_factor_changed"
    queue: ClassVar = CRITICAL

    def context(self) -> Mapping[str, Any]:
        return {"what": self.what, "reset_url": settings.SITE_URL + reverse("password_reset")}

    @classmethod
    def sample(cls) -> Self:
        return cls(User(pk=1, **SAMPLE), "added")


def is_enrolled(user: User) -> bool:
    """Whether the user has an app or a passkey. Recovery codes alone are no second factor."""
    return bool(devices(user))


def devices(user: User) -> list[Any]:
    """Return the user's apps and passkeys."""
    return [device for device in devices_for_user(user) if not isinstance(device, StaticDevice)]


def is_verified(request: HttpRequest) -> bool:
    """Whether a device of the user has verified this session."""
    return getattr(request.user, "otp_device", None) is not None


def has_passed(request: HttpRequest) -> bool:
    """Whether this session may see pages for staff, as far as the second factor is concerned."""
    if is_verified(request):
        return True
    if settings.STAFF_SECOND_FACTOR:
        return False
    if not hasattr(request, "is_enrolled"):  # the admin asks several times for each page
        request.is_enrolled = is_enrolled(request.user)  # type: ignore[arg-type, attr-defined]
    return not request.is_enrolled  # type: ignore[attr-defined]


def note_password(request: HttpRequest) -> None:
    """Note that the user has just typed their password. A stolen copy of the session's key stops working."""
    request.session[PASSWORD_TYPED] = timezone.now().timestamp()
    request.session.cycle_key()


def may_add(request: HttpRequest) -> bool:
    """Whether this session may add a device: verified by one or, for the first one, soon after the password was typed.

    The device is looked up again: it may have been removed since the request began.
    """
    if is_verified(request):
        device = request.user.otp_device  # type: ignore[union-attr]
        return bool(type(device).objects.filter(pk=device.pk, confirmed=True).exists())
    typed = timezone.now().timestamp() - request.session.get(PASSWORD_TYPED, 0)
    return typed < PASSWORD_FOR.total_seconds() and not is_enrolled(request.user)  # type: ignore[arg-type]


def verify_session(request: HttpRequest, device: Any) -> None:
    """Remember in the session that this device verified it. A stolen copy of the session's key stops working."""
    remember_device(request, device)
    request.session.pop(PASSWORD_TYPED, None)
    request.session.cycle_key()
    log.info("second factor verified", user=device.user_id, device=device.model_label())


def device_of_code(user: User, typed: str) -> Any:
    """Return the device that accepts a code of an app or a recovery code, or None. No code is accepted twice."""
    code = "".join(typed.split()).replace("-", "").lower()
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if not (code.isdecimal() and code.isascii()):
            return _use_recovery_code(user, code)
        apps = TOTPDevice.objects.filter(user=user, confirmed=True)
        before = {app.pk: app.throttling_failure_count for app in apps.select_for_update()}
        for app in apps:
            if app.verify_token(code):
                # A code of one app counted as a wrong one for the others.
                apps.update(throttling_failure_count=0, throttling_failure_timestamp=None)
                return app
        _note_wrong_code(user, before)
    return None


def _use_recovery_code(user: User, code: str) -> Any:
    for device in StaticDevice.objects.filter(user=user, confirmed=True).select_for_update():
        if device.verify_token(_stored(code)):
            outbox.enqueue(SecondFactorChanged(user, "recovery"))
            return device
    return None


def _note_wrong_code(user: User, before: Mapping[int, int]) -> None:
    apps = TOTPDevice.objects.filter(user=user, confirmed=True)
    apps.filter(throttling_failure_count__gt=LONGEST_WAIT).update(throttling_failure_count=LONGEST_WAIT)
    if any(before[app.pk] < SUSPICIOUS == app.throttling_failure_count for app in apps):
        outbox.enqueue(SecondFactorChanged(user, "guesses"))
        log.warning("many wrong codes for one account", user=user.pk)


def new_key(request: HttpRequest) -> str:
    """Return the key for a new app, the same one for this session until a code confirms it."""
    if NEW_KEY not in request.session:
        request.session[NEW_KEY] = random_hex(20)
    return str(request.session[NEW_KEY])


def as_app(user: User, key: str) -> Any:
    """Return an unsaved device with this key."""
    return TOTPDevice(user=user, key=key, name="app")


def secret_of(key: str) -> str:
    """Return the key as a person types it into an app."""
    text = b32encode(bytes.fromhex(key)).decode()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def picture_of(app: Any) -> SafeString:
    """Return the QR code as an SVG inside the page: the policy for content needs no exception for it."""
    code = segno.make(app.config_url, micro=False)
    return mark_safe(code.svg_inline(scale=5, border=4, dark="#000", light="#fff", omitsize=True))  # noqa: S308


def add_app(request: HttpRequest, user: User, typed: str) -> bool:
    """Add an app if the code is one of the key that this session was shown, and verify the session with it."""
    code, key = "".join(typed.split()), request.session.get(NEW_KEY)
    if not (key and code.isascii() and code.isdecimal()):
        return False
    totp = TOTP(bytes.fromhex(key))
    if not totp.verify(int(code), tolerance=1):
        return False
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if not may_add(request):  # another session of the same user was faster
            return False
        app = as_app(user, key)
        app.last_t, app.drift = totp.t(), totp.drift  # this code is used up
        app.save()
        added(user)
    del request.session[NEW_KEY]
    if not is_verified(request):
        verify_session(request, app)
    return True


def added(user: User) -> None:
    """Notify the owner of a new device, in the transaction that adds it."""
    outbox.enqueue(SecondFactorChanged(user, "added"))
    log.info("second factor added", user=user.pk)


def new_recovery_codes(user: User) -> list[str]:
    """Replace the user's recovery codes. Return the new ones, which are shown once."""
    codes = [b32encode(secrets.token_bytes(10)).decode().lower() for _ in range(RECOVERY_CODES)]
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        device, _ = StaticDevice.objects.get_or_create(user=user, defaults={"name": "recovery codes"})
        device.token_set.all().delete()
        device.token_set.bulk_create(device.token_set.model(device=device, token=_stored(code)) for code in codes)
        outbox.enqueue(SecondFactorChanged(user, "codes"))
    return ["-".join(code[start : start + 4] for start in range(0, len(code), 4)) for code in codes]


def recovery_codes_left(user: User) -> int:
    """Return the number of unused recovery codes."""
    return sum(device.token_set.count() for device in StaticDevice.objects.filter(user=user))


def remove(user: User, device_id: str) -> bool:
    """Remove a device. Return False if there is no such device, or if it is the last one and the site requires one."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        owned = devices(user)
        device = next((device for device in owned if device.persistent_id == device_id), None)
        if device is None or (len(owned) == 1 and settings.STAFF_SECOND_FACTOR):
            return False
        device.delete()
        if len(owned) == 1:
            StaticDevice.objects.filter(user=user).delete()
        outbox.enqueue(SecondFactorChanged(user, "removed"))
    log.info("second factor removed", user=user.pk)
    return True


def reset(user: User) -> int:
    """Remove all devices and recovery codes, and end every session. Return the number of devices removed."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        owned = list(devices_for_user(user, confirmed=None))
        for device in owned:
            device.delete()
        end_sessions(user)
        outbox.enqueue(SecondFactorChanged(user, "reset"))
    log.warning("second factor reset by an operator", user=user.pk)
    return len(owned)


def _stored(code: str) -> str:
    """Return what the table holds in place of a recovery code: 96 bits of the SHA-256 of its 80."""
    return urlsafe_b64encode(sha256(code.encode()).digest()[:12]).decode()
