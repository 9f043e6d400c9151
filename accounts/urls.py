from django.contrib.auth.views import LogoutView
from django.urls import include, path
from django.views.i18n import JavaScriptCatalog

from accounts.views import log_in, passkeys, passwords, profile, second_factor, signing_up

# The names are those that django-otp-webauthn's template tags look up.
passkey_urls = [
    path("add/begin/", passkeys.BeginToAdd.as_view(), name="credential-registration-begin"),
    path("add/", passkeys.Add.as_view(), name="credential-registration-complete"),
    path("use/begin/", passkeys.BeginToUse.as_view(), name="credential-authentication-begin"),
    path("use/", passkeys.Use.as_view(), name="credential-authentication-complete"),
    path("words/", JavaScriptCatalog.as_view(), name="js-i18n-catalog"),
]

urlpatterns = [
    path("signup/", signing_up.sign_up, name="signup"),
    path("signup/check-inbox/", signing_up.check_inbox, name="check_inbox"),
    path("signup/correct/", signing_up.correct_address, name="correct_address"),
    path("verify/resend/", signing_up.resend, name="resend"),
    path("verify/<uuid:verification_id>/<str:code>/", signing_up.verify, name="verify"),
    path("login/", log_in.LogInView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("password-reset/", passwords.request_reset, name="password_reset"),
    path(
        "password-reset/<str:uidb64>/<str:token>/", passwords.ResetPasswordView.as_view(), name="password_reset_confirm"
    ),
    path("password-change/", passwords.ChangePasswordView.as_view(), name="password_change"),
    path("email-change/", profile.change_email, name="email_change"),
    path("email-change/confirm/<uuid:change_id>/<str:code>/", profile.confirm_change, name="email_change_confirm"),
    path("email-change/stop/<uuid:change_id>/<str:code>/", profile.stop_change, name="email_change_stop"),
    path("profile/", profile.profile, name="profile"),
    path("profile/sessions/", profile.end_other_sessions, name="end_sessions"),
    path("profile/delete/", profile.delete_account, name="delete_account"),
    path("second-factor/", second_factor.manage, name="second_factor"),
    path("second-factor/ask/", second_factor.ask, name="second_factor_ask"),
    path("second-factor/password/", second_factor.confirm_password, name="second_factor_password"),
    path("second-factor/app/", second_factor.add_app, name="second_factor_app"),
    path("second-factor/passkey/", second_factor.add_passkey, name="second_factor_passkey"),
    path("second-factor/passkey/", include((passkey_urls, "otp_webauthn"))),
    path("second-factor/codes/", second_factor.recovery_codes, name="second_factor_codes"),
    path("second-factor/remove/", second_factor.remove, name="second_factor_remove"),
    path("staff/", second_factor.staff_only, name="staff_only"),
]
