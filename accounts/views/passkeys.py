"""Passkeys as second factors: the requests that django-otp-webauthn's script in the pages makes."""

from typing import Any

import structlog
from django.db import transaction
from django.http import HttpResponse
from django.utils.translation import gettext_lazy as _
from django_otp_webauthn import exceptions
from django_otp_webauthn import views as webauthn

from accounts import second_factor
from accounts.models import User
from accounts.views.second_factor import next_page

log = structlog.get_logger("accounts")


class MayNotAdd(exceptions.OTPWebAuthnApiError):  # type: ignore[misc]
    status_code = 403
    code = "may_not_add"
    default_detail = _("Type your password again")


class Request(webauthn.BaseWebAuthnView):  # type: ignore[misc]
    """A request with JSON. What is wrong with it is answered with a 4xx and logged without its content."""

    def _parse_request_data(self, request: Any) -> Any:
        try:
            return super()._parse_request_data(request)
        except (UnicodeDecodeError, RecursionError) as error:
            raise exceptions.MalformedRequest from error

    def handle_exception(self, exc: Exception) -> HttpResponse:
        if isinstance(exc, exceptions.OTPWebAuthnApiError):
            log.warning("passkey refused", code=exc.code, user=self.request.user.pk)
        return super().handle_exception(exc)  # type: ignore[no-any-return]


class MayAdd:
    request: Any

    def check_can_register(self) -> None:
        if not (self.request.user.is_staff and second_factor.may_add(self.request)):
            raise MayNotAdd


class BeginToAdd(MayAdd, Request, webauthn.BeginCredentialRegistrationView):  # type: ignore[misc]
    pass


class Add(MayAdd, Request, webauthn.CompleteCredentialRegistrationView):  # type: ignore[misc]
    def post(self, *args: Any, **kwargs: Any) -> HttpResponse:
        user, was_verified = self.request.user, second_factor.is_verified(self.request)
        with transaction.atomic():
            User.objects.select_for_update().get(pk=user.pk)
            self.check_can_register()  # again: another session of the same user may have been faster
            response: HttpResponse = super().post(*args, **kwargs)
            second_factor.added(user)
        if not was_verified:
            second_factor.verify_session(self.request, user.otp_device)
        return response


class MayUse:
    request: Any

    def check_can_authenticate(self) -> None:
        super().check_can_authenticate()  # type: ignore[misc]
        if not self.request.user.is_staff:
            raise exceptions.NotAuthenticated


class BeginToUse(MayUse, Request, webauthn.BeginCredentialAuthenticationView):  # type: ignore[misc]
    pass


class Use(MayUse, Request, webauthn.CompleteCredentialAuthenticationView):  # type: ignore[misc]
    def complete_auth(self, device: Any) -> None:
        second_factor.verify_session(self.request, device)

    def get_success_url(self) -> str:
        return next_page(self.request)
