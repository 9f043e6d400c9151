"""Loaded before Django's settings: private servers for this test process, and the environment that points to them.

Each process of a parallel run has its own PostgreSQL and Valkey, so a test may stop them.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from tests.servers import Postgres, Valkey


def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="postcommit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


ROOT = _folder()
"""Of this process."""
OF_THE_RUN = Path(os.environ["OF_THE_TEST_RUN"]) if "OF_THE_TEST_RUN" in os.environ else _folder()
"""Of all processes of a parallel run: the first one makes it, and starts the others."""
os.environ["OF_THE_TEST_RUN"] = str(OF_THE_RUN)


def new_directory(name: str) -> Path:
    """Make a folder for servers.

    Not pytest's tmp_path, whose parents only its owner may read: root runs PostgreSQL as another user.
    """
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=ROOT))


postgres = Postgres(ROOT / "pg")
valkey = Valkey(ROOT / "vk")

ENVIRONMENT = {
    "ENV_FILES": "",
    "DEBUG": "1",
    "SECRET_KEY": "a-key-for-tests-" * 4,
    "SITE_URL": "http://localhost:8000",
    "DATABASE_URL": postgres.url,
    "REDIS_URL": valkey.url,
    "EMAIL_URL": "smtp://127.0.0.1:1",
    "FLOWER_BASIC_AUTH": "operator:flower",
    "DJANGO_SETTINGS_MODULE": "config.settings",
}
for name in list(os.environ):
    if name.startswith(("POSTCOMMIT_", "FLOWER_", "ANYMAIL_")):
        del os.environ[name]
os.environ.update(ENVIRONMENT)
