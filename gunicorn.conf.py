"""Settings that `gunicorn config.wsgi` reads because of the file's name and place."""

import os
from typing import Any

from config.settings import LOGGING, TRUSTED_PROXIES  # reads .env too, so WEB_PORT may stand there

# Hosting platforms and our image set PORT; gunicorn then listens on every address without `bind`.
if "WEB_PORT" in os.environ or "PORT" not in os.environ:
    bind = f"127.0.0.1:{os.environ.get('WEB_PORT', '8000')}"

# gunicorn reads the number of processes from WEB_CONCURRENCY. Threads wait for the database, so there may be more than cores.
worker_class = "gthread"
threads = 8
graceful_timeout = 8  # less than the 10 s or more that Docker, Kubernetes and our supervisor allow

# The addresses and networks whose X-Forwarded-Proto is trusted; without them, none is trusted.
forwarded_allow_ips = ",".join(TRUSTED_PROXIES)
# Without gunicorn's other names of this header: a proxy that does not know them passes them on from every client.
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
forwarder_headers = ""  # by default those proxies could set SCRIPT_NAME and PATH_INFO as well

accesslog = None  # AccessLogMiddleware logs the route of each request; a path may hold a secret
logconfig_dict = LOGGING
control_socket_disable = True  # it is in $HOME, and all gunicorns of a user would share it


def post_worker_init(worker: Any) -> None:
    """Run in each process after Django is loaded."""
    from mailer.delivery.broker import broker_thread

    broker_thread.warm_up()
