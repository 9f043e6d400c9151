"""Python imports this by itself where its folder is in PYTHONPATH: a process of another machine, forks included.

`NAMES` is a file that says how many seconds a look-up of a name takes, `CLOCK_AHEAD` has seconds, and `HOST_NAME` is a name.
"""

import os
import platform
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

DOMAIN = ".postcommit.test"
"""Names in it are this machine."""

quick_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    """Look a name up, slowly if a file says so. It cannot be interrupted, as the real one cannot."""
    if not str(host).endswith(DOMAIN):
        return quick_getaddrinfo(host, *arguments, **options)
    with suppress(FileNotFoundError):
        time.sleep(float(Path(os.environ["NAMES"]).read_text()))
    return quick_getaddrinfo("127.0.0.1", *arguments, **options)


if "NAMES" in os.environ:
    socket.getaddrinfo = getaddrinfo
if "CLOCK_AHEAD" in os.environ:
    import time_machine

    time_machine.travel(time.time() + float(os.environ["CLOCK_AHEAD"]), tick=True).start()
if "HOST_NAME" in os.environ:
    socket.gethostname = platform.node = lambda: os.environ["HOST_NAME"]
