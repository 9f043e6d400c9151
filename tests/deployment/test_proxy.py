"""config/nginx.conf in a real nginx, in front of the real site and Flower."""

import base64
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse
from http.cookies import SimpleCookie
from typing import NamedTuple

import pytest
from django.conf import settings

from tests.deployment import files
from tests.environment import ENVIRONMENT, new_directory
from tests.servers import free_port, wait_until
from tests.smtp_sink import Sink
from tests.stack import PASSWORD, Stack

CLIENT, FRONT, OTHER_CLIENT = "127.0.0.1", "127.0.0.2", "127.0.0.3"
SECONDS = 3
"""The time that a client gets for its request; 10 in the file."""
CONNECTIONS = 20
"""The connections that an address gets; 100 in the file."""

USERS = f"""
from django.utils import timezone
from accounts.models import User
for email, is_staff in [("ann@example.com", False), ("staff@example.com", True)]:
    User.objects.create_user(
        email, {PASSWORD!r}, email_verified_at=timezone.now(), was_verified=True, is_staff=is_staff
    )
"""

STALLED_HEADER = b"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
STALLED_BODY = (  # with a cookie, so that Django reads the body
    b"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken=" + b"t" * 32 + b"\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nx"
)
SILENT = b""


class Answer(NamedTuple):
    status: int
    headers: HTTPResponse
    text: str


class Site(NamedTuple):
    """The proxy's port, and what stands behind it."""

    port: int
    stack: Stack

    def get(
        self, path: str, *, source: str = CLIENT, method: str = "GET", body: str | None = None, **headers: str
    ) -> Answer:
        """Send a request from an address. An underscore in the name of a header is a hyphen."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5, source_address=(source, 0))
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": "localhost", **fields})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return Answer(response.status, response, text)

    def log_in(self, email: str, **headers: str) -> Answer:
        token = "t" * 32
        return self.get(
            "/accounts/login/",
            method="POST",
            body=f"csrfmiddlewaretoken={token}&username={email}&password={PASSWORD.replace(' ', '+')}",
            Content_Type="application/x-www-form-urlencoded",
            Cookie=f"csrftoken={token}",
            **headers,
        )

    def session_of(self, email: str) -> str:
        """Log in. Return the cookie."""
        cookies = SimpleCookie("; ".join(self.log_in(email).headers.headers.get_all("Set-Cookie") or []))
        return f"sessionid={cookies['sessionid'].value}"

    def network_of(self, email: str) -> str:
        """Return the network that the site saw at the newest log-in."""
        newest = "SELECT network FROM accounts_session JOIN accounts_user u ON u.id = user_id WHERE u.email = %s"
        return str(self.stack.sql(f"{newest} ORDER BY logged_in_at DESC", email)[0]["network"])

    def open(self, sent: bytes, *, source: str = CLIENT) -> socket.socket:
        """Connect, send the beginning of a request, and stall."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5, source_address=(source, 0))
        connection.sendall(sent)
        return connection


@pytest.fixture(scope="module")
def nginx() -> str:
    path = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        what = "THE PROXY WAS NOT TESTED: no nginx was found. Install it (apt-get install nginx)."
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)
    return path


@pytest.fixture(scope="module")
def site(nginx: str) -> Iterator[Site]:
    directory = new_directory("proxy")
    with Sink() as sink, Stack(directory, sink, TRUSTED_PROXIES=CLIENT, FLOWER_URL_PREFIX="/flower") as stack:
        stack.run(USERS)
        stack.start("web", "flower")
        port = free_port()
        login = base64.b64encode(ENVIRONMENT["FLOWER_BASIC_AUTH"].encode()).decode()
        text = files.NGINX.read_text()
        for ours, here in {
            "daemon off;": "daemon off; user root;" if os.geteuid() == 0 else "daemon off;",
            "/tmp/": f"{directory}/",  # noqa: S108
            "10s;": f"{SECONDS}s;",
            "limit_conn addresses 100;": f"limit_conn addresses {CONNECTIONS};",
            "172.30.77.1": FRONT,
            "listen 8080": f"listen 127.0.0.1:{port}",
            "web:8000": f"127.0.0.1:{stack.web_port}",
            "flower:5555": f"127.0.0.1:{stack.flower_port}",
            "${FLOWER_LOGIN}": login,
        }.items():
            assert ours in text
            text = text.replace(ours, here)
        file = directory / "nginx.conf"
        file.write_text(text)
        process = subprocess.Popen([nginx, "-e", "stderr", "-c", file])
        site = Site(port, stack)
        try:
            wait_until(lambda: is_listening(port), "nginx to listen")
            yield site
        finally:
            process.terminate()
            process.wait(10)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def is_over(connection: socket.socket) -> bool:
    """Wait until the other side ends the connection."""
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_slow_clients_hold_no_thread_and_are_cut_off(site: Site) -> None:
    with ExitStack() as stack:
        slow = [
            stack.enter_context(site.open(sent))
            for sent, number in [(STALLED_HEADER, 8), (STALLED_BODY, 8), (SILENT, 40)]
            for _ in range(number)
        ]
        began = time.monotonic()
        answer = site.get("/healthz")
        took = time.monotonic() - began

        assert answer.status == 200
        assert took < SECONDS  # it did not wait for the slow ones to be cut off
        assert all(is_over(connection) for connection in slow)
        assert time.monotonic() - began < SECONDS + 15


def test_one_address_cannot_take_all_connections(site: Site) -> None:
    with ExitStack() as stack:

        def is_refused() -> bool:  # on a busy machine the first connections end while the last are opened
            for _ in range(CONNECTIONS):
                stack.enter_context(site.open(STALLED_BODY, source=OTHER_CLIENT))
            return site.get("/healthz", source=OTHER_CLIENT).status == 429

        wait_until(is_refused, "a refusal")

        assert site.get("/healthz").status == 200


def test_a_body_is_as_large_as_django_takes_it(site: Site) -> None:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert site.get("/nothing", method="POST", body="x" * limit).status != 413
    assert site.get("/nothing", method="POST", body="x" * (limit + 1)).status == 413


def test_a_client_cannot_choose_its_network_or_scheme(site: Site) -> None:
    answer = site.log_in(
        "ann@example.com",
        X_Forwarded_For="198.51.100.7",
        X_Real_IP="198.51.100.7",
        Forwarded="for=198.51.100.7;proto=https",
        X_Forwarded_Proto="https",
        X_Forwarded_Protocol="ssl",
        X_Forwarded_Ssl="on",
    )

    assert answer.status == 302  # over TLS, Django would ask for a Referer
    assert site.network_of("ann@example.com") == "127.0.0.0/24"


def test_the_server_with_tls_in_front_says_both(site: Site) -> None:
    front = {"source": FRONT, "X_Forwarded_For": "198.51.100.7, 203.0.113.9", "X_Forwarded_Proto": "https"}
    assert site.log_in("ann@example.com", **front).status == 403
    assert site.log_in("ann@example.com", Referer="https://localhost/", **front).status == 302
    assert site.network_of("ann@example.com") == "203.0.113.0/24"


PAGES_OF_FLOWER = [
    "/flower/",
    "/flower/metrics",
    "/flower/healthcheck",
    "/flower/tasks",
    "/flower/static/css/flower.css",
]
OTHER_SPELLINGS = ["//flower//metrics", "/static/../flower/metrics", "/flower/%2e/metrics", "/%66lower/metrics"]


@pytest.mark.parametrize("path", [*PAGES_OF_FLOWER, *OTHER_SPELLINGS])
def test_flower_is_for_staff_alone(site: Site, path: str) -> None:
    login = base64.b64encode(ENVIRONMENT["FLOWER_BASIC_AUTH"].encode()).decode()
    strangers = [
        {},
        {"Authorization": f"Basic {login}"},
        {"Cookie": "sessionid=x"},
        {"Cookie": site.session_of("ann@example.com")},
    ]
    for headers in strangers:
        answer = site.get(path, **headers)
        assert (answer.status, answer.headers.getheader("Location")) == (302, "/admin/login/?next=/flower/")


def test_flower_asks_staff_for_no_password(site: Site) -> None:
    cookie = site.session_of("staff@example.com")
    answers = {path: site.get(path, Cookie=cookie) for path in PAGES_OF_FLOWER}

    assert {answer.status for answer in answers.values()} == {200}
    assert "Flower</title>" in answers["/flower/"].text
    assert 'href="/flower/static/' in answers["/flower/"].text
    assert site.get("/flower/tasks", method="POST", body="x", Cookie=cookie).status == 405


def test_the_question_of_the_proxy_is_not_for_visitors(site: Site) -> None:
    assert site.get("/accounts/staff/", Cookie=site.session_of("staff@example.com")).status == 404
