"""Flower reads this file because of its name and place: `celery -A config flower`.

It comes after FLOWER_… variables of the environment and before flags of the command line, so only a flag, typed by
somebody who means it, opens what is closed here.
"""

import sys

from django.conf import settings

if not settings.FLOWER_BASIC_AUTH:
    sys.exit("Flower does not start without a password: set FLOWER_BASIC_AUTH=user:password.")

basic_auth = [settings.FLOWER_BASIC_AUTH]  # a list: in a string a comma would begin a second login
read_only = True
max_tasks = 2_000
