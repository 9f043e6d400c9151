"""gunicorn reads this file because of its name and place: `gunicorn config.wsgi`."""

import os
from typing import Any

from config.settings import LOGGING, TRUSTED_PROXIES  # reads .env too, so WEB_PORT may stand there

# PORT is how hosting platforms and our image say it; gunicorn then listens on every address by itself.
if "WEB_PORT" in os.environ or "PORT" not in os.environ:
    bind = f"127.0.0.1:{os.environ.get('WEB_PORT', '8000')}"

# Processes: WEB_CONCURRENCY, which gunicorn reads itself. Threads wait for the database, so they may be more than cores.
worker_class = "gthread"
threads = 8
graceful_timeout = 8  # less than the 10 s that Docker, Kubernetes and our supervisor leave at the least

# Whose X-Forwarded-Proto says that a request came over TLS: addresses and networks; nobody's without.
forwarded_allow_ips = ",".join(TRUSTED_PROXIES)
forwarder_headers = ""  # gunicorn would let those proxies set SCRIPT_NAME and PATH_INFO as well

accesslog = None  # AccessLogMiddleware logs the route of each request; a path may hold a secret
logconfig_dict = LOGGING
control_socket_disable = True  # it would lie in $HOME, shared by every gunicorn of the user


def post_worker_init(worker: Any) -> None:
    """Once Django is there, in each process."""
    from mailer.delivery.broker import broker_thread

    broker_thread.warm_up()
