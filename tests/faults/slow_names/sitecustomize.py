"""Python imports this by itself where its folder is in PYTHONPATH: a resolver that takes its time for one name."""

import os
import socket
import time
from pathlib import Path
from typing import Any

NAME = "broker.postcommit.test"
PAUSE = 3.0

quick_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    """Knows that name as this machine; is slow about it as long as a file is there. It cannot be interrupted, as the real
    one cannot."""
    if host != NAME:
        return quick_getaddrinfo(host, *arguments, **options)
    if Path(os.environ["NAMES_ARE_SLOW"]).exists():
        time.sleep(PAUSE)
    return quick_getaddrinfo("127.0.0.1", *arguments, **options)


socket.getaddrinfo = getaddrinfo
