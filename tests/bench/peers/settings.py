"""The settings of the peers. They render the same templates as ours."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PROJECT = Path(__file__).resolve().parents[3]
database = urlsplit(os.environ["DATABASE_URL"])
server = urlsplit(os.environ["EMAIL_URL"])

SECRET_KEY = os.environ["SECRET_KEY"]
SITE_URL = os.environ["SITE_URL"]
DEFAULT_FROM_EMAIL = os.environ["DEFAULT_FROM_EMAIL"]
USE_TZ = True
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "post_office", "tests.bench.peers"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database.path.removeprefix("/"),
        "USER": database.username,
        "HOST": unquote(database.netloc.rpartition("@")[2].rpartition(":")[0]),
        "PORT": database.port,
    }
}
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [PROJECT / "templates", PROJECT / "mailer" / "templates"],
        "APP_DIRS": False,
    }
]
MAILERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {
            "host": server.hostname,
            "port": server.port,
            "username": server.username,
            "password": server.password,
            "use_tls": bool(server.username),
        },
    }
}
POST_OFFICE = {"CELERY_ENABLED": True, "MESSAGE_ID_ENABLED": True, "MESSAGE_ID_FQDN": "example.com"}
CELERY_BROKER_URL = os.environ["REDIS_URL"]
CELERY_TASK_IGNORE_RESULT = True
