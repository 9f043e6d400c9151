"""Run the inbox: python -m local.inbox --smtp-port 1025 --port 8025 --directory .local/inbox"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from django.core.servers.basehttp import ThreadedWSGIServer

from local.inbox.listing import Listing
from local.inbox.smtp import Catcher
from local.inbox.web import HOST, page_server

logger = logging.getLogger("local.inbox")


def main() -> None:
    """Take both ports, then serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m local.inbox", description="Catch mail and show it in a browser.")
    parser.add_argument("--smtp-port", type=int, default=1025, help="port for mail (%(default)s; 0: any free one)")
    parser.add_argument("--port", type=int, default=8025, help="port of the pages (%(default)s; 0: any free one)")
    parser.add_argument("--directory", type=Path, default=Path(".local/inbox"), help="folder of the mail (%(default)s)")
    options = parser.parse_args()
    _log_to_stderr()
    with _or_exit(f"cannot use the directory {options.directory}"):
        listing = Listing(options.directory)
    with _or_exit(f"cannot listen on {HOST}:{options.smtp_port} for SMTP"):
        smtp = socket.create_server((HOST, options.smtp_port), backlog=128)
    # Connections inherit it. Without it the lines of an EHLO take 40 ms; asyncio sets it only on its own sockets.
    smtp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    smtp_address = f"{HOST}:{smtp.getsockname()[1]}"
    with _or_exit(f"cannot listen on {HOST}:{options.port} for the pages"):
        pages = page_server(listing, smtp_address, options.port)
    logger.info("SMTP on %s, pages on http://%s:%d/", smtp_address, HOST, pages.server_port)
    asyncio.run(_serve(listing, smtp, pages))
    logger.info("stopped")


async def _serve(listing: Listing, listener: socket.socket, pages: ThreadedWSGIServer) -> None:
    """Run both servers until a signal. Then accept nothing more, and finish writing what has arrived."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    smtp = await loop.create_server(lambda: Catcher(listing), sock=listener)
    Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    await stop.wait()
    smtp.close()
    pages.shutdown()
    pages.server_close()


@contextmanager
def _or_exit(complaint: str) -> Iterator[None]:
    """Turn an error of the system into one line on the terminal and exit status 1."""
    try:
        yield
    except (OSError, OverflowError) as error:  # OverflowError: the number is not a port
        sys.exit(f"inbox: {complaint}: {error}")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s inbox: %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd logs addresses
    logging.getLogger("local.inbox").setLevel(logging.INFO)
    logging.getLogger("django.security.DisallowedHost").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
