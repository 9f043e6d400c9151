"""HTTP in, a use case, HTTP out."""

from accounts.views.entering import LogInView
from accounts.views.passwords import ChangePasswordView, ResetPasswordView, request_reset
from accounts.views.profile import (
    change_email,
    confirm_change,
    delete_account,
    end_other_sessions,
    profile,
    stop_change,
)
from accounts.views.signing_up import check_inbox, correct_address, resend, sign_up, verify

__all__ = [
    "ChangePasswordView",
    "LogInView",
    "ResetPasswordView",
    "change_email",
    "check_inbox",
    "confirm_change",
    "correct_address",
    "delete_account",
    "end_other_sessions",
    "profile",
    "request_reset",
    "resend",
    "sign_up",
    "stop_change",
    "verify",
]
