"""Migrate, create the administrator, and collect static files without DEBUG: `python -m local.database`.

Prints only the password of an administrator that it created.
"""

import os
import secrets
import sys
from typing import Any

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

ADMIN = "admin@postcommit.example"


def main() -> None:
    """Raises SystemExit with the reason if a setting is invalid."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        django.setup()
    except ImproperlyConfigured as error:
        sys.exit(str(error))
    call_command("migrate", verbosity=0, interactive=False)
    if not settings.DEBUG:  # the pages then use the collected files alone
        call_command("collectstatic", verbosity=0, interactive=False)
    users: Any = get_user_model().objects
    if not users.filter(is_superuser=True).exists():
        password = secrets.token_urlsafe(12)
        users.create_superuser(email=ADMIN, password=password)
        print(password)


if __name__ == "__main__":
    main()
