"""The ping to a service outside, which rings when all of ours is dead."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.db.models.functions import Now, Trunc
from pytest_django import Settings

from mailer.delivery import ping
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.housekeeping import Housekeeping
from mailer.models import Queue, Worker
from tests.servers import wait_until

SECRET = "s3cret-path"


class Service(HTTPServer):
    """A service that is pinged. It does not answer before `may_answer` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.may_answer = threading.Event()
        self.may_answer.set()
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.may_answer.wait(10)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever, args=[0.05])
        thread.start()
        yield service
        service.may_answer.set()
        service.shutdown()
        thread.join()


@pytest.fixture
def start(service: Service, settings: Settings) -> Iterator[Callable[[], None]]:
    """Start the housekeeping of this process."""
    settings.POSTCOMMIT = {"SWEEP_EVERY": "0.1", "HEALTHCHECK_PING_URL": service.url}
    housekeeping = Housekeeping()
    yield lambda: housekeeping.start(list(Queue))
    housekeeping.stop()


def swept_after(moment: object) -> bool:
    return Worker.objects.filter(pk=heartbeat.worker, swept_at__gt=moment).exists()


@pytest.mark.usefixtures("broker")
@pytest.mark.django_db(transaction=True)
def test_the_first_sweep_of_a_minute_pings_and_a_service_that_hangs_delays_nothing(
    start: Callable[[], None], service: Service
) -> None:
    service.may_answer.clear()
    start()
    wait_until(lambda: service.asked, "a ping")
    first = Worker.objects.get(pk=heartbeat.worker).swept_at

    wait_until(lambda: swept_after(first), "the next sweep")
    service.may_answer.set()
    second = Worker.objects.get(pk=heartbeat.worker).swept_at
    wait_until(lambda: swept_after(second), "one more sweep")

    assert set(service.asked) == {f"/{SECRET}"}
    assert len(service.asked) <= 2  # a new minute may have begun


@pytest.mark.django_db
def test_one_of_many_workers_pings_in_a_minute(settings: Settings) -> None:
    assert not ping.is_due()  # no URL is set

    settings.POSTCOMMIT = {"HEALTHCHECK_PING_URL": "https://hc.example/x"}
    assert ping.is_due()

    other = Worker.objects.create(host="b", pid=1, swept_at=Trunc(Now(), "minute") - timedelta(seconds=1))
    assert ping.is_due()
    Worker.objects.filter(pk=other.pk).update(swept_at=Trunc(Now(), "minute"))
    assert not ping.is_due()


def test_a_failure_is_logged_without_the_url(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.status = 500
    ping.ping(service.url)
    ping.ping(f"http://127.0.0.1:1/{SECRET}")
    ping.ping(f"http://user:pass@x y/{SECRET}")

    assert caplog.text.count("the ping failed") == 3
    assert "'status': 500" in caplog.text
    assert SECRET not in caplog.text
