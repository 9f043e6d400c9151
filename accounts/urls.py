from django.contrib.auth.views import LogoutView
from django.urls import path

from accounts.views import entering, passwords, profile, signing_up

urlpatterns = [
    path("signup/", signing_up.sign_up, name="signup"),
    path("signup/check-inbox/", signing_up.check_inbox, name="check_inbox"),
    path("signup/correct/", signing_up.correct_address, name="correct_address"),
    path("verify/resend/", signing_up.resend, name="resend"),
    path("verify/<uuid:verification_id>/<str:code>/", signing_up.verify, name="verify"),
    path("login/", entering.LogInView.as_view(), name="login"),
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
]
