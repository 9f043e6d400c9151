"""Log in with an address that is verified, and a password."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest

from accounts.models import User


class VerifiedAddressBackend(ModelBackend):
    """Django's backend, which takes the right password of an unverified account for a wrong one.

    Another answer would reveal that the address had no account before somebody signed up with it.
    """

    def authenticate(self, request: HttpRequest | None, *args: Any, **credentials: Any) -> User | None:
        user = super().authenticate(request, *args, **credentials)
        return user if isinstance(user, User) and user.has_verified_email else None
