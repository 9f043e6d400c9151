"""An operator's drill: one part stops after the other. The pages say what stopped, and the remedy is one click away."""

import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Page, expect

from tests.environment import new_directory
from tests.servers import Valkey
from tests.smtp_sink import Sink
from tests.stack import AS_SHIPPED, PASSWORD, Stack

pytestmark = pytest.mark.timeout(240)

ALL_IS_WELL = "worker processes run on", "The broker answers.", "Celery beat runs.", "All transports work."
WITHIN = 30
"""Seconds after which an operator must see it, on a busy machine."""


@pytest.fixture
def stack(sink: Sink) -> Iterator[Stack]:
    with Stack(new_directory("drill"), sink, Valkey, AS_SHIPPED, STAFF_SECOND_FACTOR="0") as stack:
        stack.start("web", "worker", "beat")
        script = "from accounts.models import User; User.objects.create_superuser('olga@example.com', '{}')"
        stack.run(script.format(PASSWORD))
        yield stack


class Operator:
    """A person at the admin's front page."""

    def __init__(self, stack: Stack, page: Page) -> None:
        self.stack, self.page = stack, page
        page.goto(f"{stack.url}/admin/")
        page.get_by_label("E-mail address").fill("olga@example.com")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{stack.url}/admin/")
        self.expect(*ALL_IS_WELL)

    def expect(self, *sentences: str) -> None:
        """Wait until the front page says all of it. Only then show the page: the browser takes long to show it."""
        until = time.monotonic() + WITHIN
        while missing := self._missing(sentences):
            assert time.monotonic() < until, f"the front page does not say {missing}"
            time.sleep(0.5)
        self.page.goto(f"{self.stack.url}/admin/")

    def _missing(self, sentences: Iterable[str]) -> list[str]:
        page = BeautifulSoup(self.page.request.get(f"{self.stack.url}/admin/").text(), "lxml")
        said = " ".join(page.select("#container")[0].get_text().split())
        return [sentence for sentence in sentences if sentence not in said]

    def press(self, button: str) -> None:
        """Press a button of the banner."""
        self.page.locator(".mail-banner").get_by_role("button", name=button).click()

    def reads_of(self, recipient: str) -> str:
        """Return what the page of the newest message to a recipient says."""
        number = self.stack.sql("SELECT max(id) AS id FROM mailer_message WHERE recipient = %s", recipient)[0]["id"]
        self.page.goto(f"{self.stack.url}/admin/mailer/message/{number}/change/")
        return self.page.locator("#content").inner_text()

    def has_been_sent(self, recipient: str) -> bool:
        rows = self.stack.sql("SELECT state FROM mailer_message WHERE recipient = %s", recipient)
        return [row["state"] for row in rows] == ["sent"]


@pytest.mark.drill
def test_each_part_that_stops_is_named_with_its_remedy(stack: Stack, new_page: Callable[..., Page]) -> None:
    operator = Operator(stack, new_page())

    stack.kill("beat")
    operator.expect("Celery beat has not been running since")
    assert "Celery beat has not been running since" in stack.manage("mail_status")
    stack.start("beat")

    with stack.sink.away():
        stack.sign_up("smtp@example.com")
        refuses = f"127.0.0.1:{stack.sink.port}: Connection refused"
        operator.expect(refuses, "Next probe")
        assert refuses in operator.reads_of("smtp@example.com")
        assert refuses in stack.manage("mail_status")
        operator.expect(refuses)
    operator.press("Probe now")
    stack.wait_for(lambda: operator.has_been_sent("smtp@example.com"), "the mail after the probe", seconds=WITHIN)

    stack.valkey.stop()
    operator.expect("The broker has not answered the workers since", "none is lost")
    assert "The broker has not answered" in stack.manage("mail_status")
    stack.sign_up("broker@example.com")
    stack.wait_for(lambda: operator.has_been_sent("broker@example.com"), "the mail without the broker", seconds=WITHIN)
    stack.valkey.start()
    operator.expect("The broker answers.")

    stack.kill("worker")
    stack.sign_up("worker@example.com")
    operator.expect("No worker has been running since", "Start a worker.")
    assert "No worker is running" in operator.reads_of("worker@example.com")
    assert "No worker has been running since" in stack.manage("mail_status")
    operator.expect("No worker has been running since")
    operator.press("Deliver now from here")
    expect(operator.page.get_by_text("is being delivered from here")).to_be_visible()
    stack.wait_for(lambda: operator.has_been_sent("worker@example.com"), "the mail without a worker", seconds=WITHIN)

    stack.start("worker")

    stack.postgres.stop()
    admin, login = (operator.page.request.get(f"{stack.url}/{path}/") for path in ("admin", "accounts/login"))
    assert (admin.status, login.status) == (503, 503)
    assert "The database does not answer." in admin.text()
    assert "Please try again in a minute." in login.text()
    with pytest.raises(AssertionError, match="The database does not answer"):
        stack.manage("mail_status")
    stack.postgres.start()
    operator.expect(*ALL_IS_WELL)
