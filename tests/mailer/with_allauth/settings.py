"""The project's settings, with django-allauth added to the project's own accounts."""

from config import settings as ours
from config.settings import *  # noqa: F403

INSTALLED_APPS = [*ours.INSTALLED_APPS, "allauth", "allauth.account"]
MIDDLEWARE = [*ours.MIDDLEWARE, "allauth.account.middleware.AccountMiddleware"]
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
ROOT_URLCONF = "tests.mailer.with_allauth.urls"
DATABASES = {"default": ours.DATABASES["default"] | {"ATOMIC_REQUESTS": True}}
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_RATE_LIMITS = False  # they are kept in a cache that no rollback reaches
ACCOUNT_EMAIL_SUBJECT_PREFIX = "[ร้าน] "
