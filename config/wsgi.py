"""The WSGI entry point: `gunicorn config.wsgi`."""

import io
import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

from config.refusals import refuse_unknown_charsets

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = refuse_unknown_charsets(get_wsgi_application())
call_command(
    "check", tags=["postcommit"], stdout=io.StringIO()
)  # a broken setting stops the process, not the first mail
