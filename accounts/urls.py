from django.contrib.auth.views import LogoutView
from django.urls import path

from accounts import views

urlpatterns = [
    path("signup/", views.sign_up, name="signup"),
    path("signup/check-inbox/", views.check_inbox, name="check_inbox"),
    path("signup/correct/", views.correct_address, name="correct_address"),
    path("verify/resend/", views.resend, name="resend"),
    path("verify/<uuid:verification_id>/<str:code>/", views.verify, name="verify"),
    path("login/", views.LogInView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("password-reset/", views.request_reset, name="password_reset"),
    path("password-reset/<str:uidb64>/<str:token>/", views.ResetPasswordView.as_view(), name="password_reset_confirm"),
    path("password-change/", views.ChangePasswordView.as_view(), name="password_change"),
    path("email-change/", views.change_email, name="email_change"),
    path("email-change/confirm/<uuid:change_id>/<str:code>/", views.confirm_change, name="email_change_confirm"),
    path("email-change/stop/<uuid:change_id>/<str:code>/", views.stop_change, name="email_change_stop"),
    path("profile/", views.profile, name="profile"),
    path("profile/sessions/", views.end_other_sessions, name="end_sessions"),
    path("profile/delete/", views.delete_account, name="delete_account"),
]
