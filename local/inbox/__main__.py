"""Starts the inbox: python -m local.inbox --smtp-port 1025 --port 8025 --directory .local/inbox"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from django.core.servers.basehttp import ThreadedWSGIServer

from local.inbox import page_settings
from local.inbox.listing import Listing
from local.inbox.smtp import Catcher
from local.inbox.store import Store
from local.inbox.web import Served, page_server

logger = logging.getLogger("local.inbox")


def main(arguments: Sequence[str] | None = None) -> None:
    """Take both ports, then serve until SIGTERM or SIGINT."""
    options = _options(arguments)
    _log_to_stderr()
    page_settings.configure(options.host)
    with _or_exit(f"cannot use the directory {options.directory}"):
        store = Store(options.directory)
    with _or_exit(f"cannot listen on {_address(options.host, options.smtp_port)} for SMTP"):
        smtp = _listener(options.host, options.smtp_port)
    smtp_address = _address(options.host, smtp.getsockname()[1])
    with _or_exit(f"cannot listen on {_address(options.host, options.port)} for the pages"):
        pages = page_server(Served(Listing(store), smtp_address), options.host, options.port)
    logger.info("SMTP on %s, pages on http://%s/", smtp_address, _address(options.host, pages.server_port))
    asyncio.run(_serve(store, smtp, pages))
    logger.info("stopped")


async def _serve(store: Store, listener: socket.socket, pages: ThreadedWSGIServer) -> None:
    """Run both servers until a signal; then take nothing more, and let a message that is being written be written."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    smtp = await loop.create_server(lambda: Catcher(store), sock=listener)
    page_thread = Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    page_thread.start()
    await stop.wait()
    smtp.close()
    pages.shutdown()
    pages.server_close()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    # Connections inherit it. asyncio sets it only for sockets it made itself, and the lines of an EHLO would take 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextmanager
def _or_exit(complaint: str) -> Iterator[None]:
    """Turn an OSError into one line for the reader of the terminal, and exit status 1."""
    try:
        yield
    except OSError as error:
        sys.exit(f"inbox: {complaint}: {error.strerror or error}")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s inbox: %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd logs every address it hears
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("django").setLevel(logging.ERROR)  # a page that is not there is no event
    logging.getLogger("django.security.DisallowedHost").setLevel(logging.CRITICAL)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m local.inbox", description="Catches mail and shows it in a browser."
    )
    parser.add_argument(
        "--smtp-port", type=_port, default=1025, help="where mail comes in (%(default)s; 0: any free one)"
    )
    parser.add_argument("--port", type=_port, default=8025, help="where the pages are (%(default)s; 0: any free one)")
    parser.add_argument("--directory", type=Path, default=Path(".local/inbox"), help="where mail is kept (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


if __name__ == "__main__":
    main()
