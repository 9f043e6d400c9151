"""The button "Deliver now from here": it runs `manage.py deliver_due` on the web server's host, without broker and worker."""

import os
import socket
import subprocess
import sys

from django.conf import settings
from django.http import HttpRequest

from mailer.admin.button import button
from mailer.admin.history import record
from mailer.delivery.pulse import Action
from mailer.models import Role, Worker

_last: subprocess.Popen[bytes] | None = None


@button(Action.DELIVER)
def deliver_now(request: HttpRequest) -> str:
    """Start the delivery, unless one runs."""
    if Worker.objects.alive().filter(role=Role.COMMAND).exists():
        return "A delivery by hand runs already."
    record(request, [Worker(host=socket.gethostname(), pid=start(), role=Role.COMMAND)], Action.DELIVER)
    return "What is due is being delivered from here, which takes some seconds. Reload the page to watch."


def start() -> int:
    """Start the command in a session of its own, which outlives this process: a mail server may take minutes to answer.

    Return its process id.
    """
    environment = {"DJANGO_SETTINGS_MODULE": str(settings.SETTINGS_MODULE), "PYTHONPATH": os.pathsep.join(sys.path)}
    global _last
    if _last is not None:
        _last.poll()  # so that no more than one ended process is left
    _last = subprocess.Popen(
        [sys.executable, "-m", "django", "deliver_due"],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    return _last.pid
