"""Settings that `celery -A config flower` reads because of the file's name and place.

They override FLOWER_… variables of the environment. Only flags of the command line override them.
"""

import sys

from django.conf import settings

if not settings.FLOWER_BASIC_AUTH:
    sys.exit("Flower does not start without a password: set FLOWER_BASIC_AUTH=user:password.")

basic_auth = [settings.FLOWER_BASIC_AUTH]  # a list: in a string a comma would begin a second login
read_only = True
address = "127.0.0.1"  # /metrics and /healthcheck are open without the password; --address overrides it
max_tasks = 2_000
purge_offline_workers = 86_400  # seconds: each container has a name of its own, and after a day no one looks for it
