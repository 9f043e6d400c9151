"""Migrations, and the administrator of a local installation: `python -m local.database`.

Prints the password of the administrator if it made one, and nothing else.
"""

import os
import secrets
import sys
from typing import Any

import django
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

ADMIN = "admin@postcommit.example"


def main() -> None:
    """Raises SystemExit with a sentence when the settings are not usable."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        django.setup()
    except ImproperlyConfigured as error:
        sys.exit(str(error))
    call_command("migrate", verbosity=0, interactive=False)
    if password := ensure_admin():
        print(password)


def ensure_admin() -> str | None:
    """Makes an administrator where nobody is one yet; returns the password, which is stored nowhere."""
    users: Any = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser(email=ADMIN, password=password)
    return password


if __name__ == "__main__":
    main()
