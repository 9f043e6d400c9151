from django.contrib.auth.views import LogoutView
from django.urls import path

from accounts import views

urlpatterns = [
    path("signup/", views.sign_up, name="signup"),
    path("signup/check-inbox/", views.check_inbox, name="check_inbox"),
    path("verify/resend/", views.resend, name="resend"),
    path("verify/<uuid:verification_id>/<str:code>/", views.verify, name="verify"),
    path("login/", views.LogInView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
