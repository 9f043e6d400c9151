"""docker-compose.yml on a Docker engine, from the build to an orderly stop: `make containers`.

A project of its own, so that its containers and volumes are not those of a person's. Both have the same fixed network, so only
one runs at a time.
"""

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import requests

from tests.deployment import files
from tests.servers import free_port, wait_until
from tests.stack import PASSWORD, sign_up

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("docker"), reason="there is no docker command"),
]

READERS, RATE = 600, 50
"""Mails, and how many a second leave, so that a worker is busy on every machine."""
MAILS = f"""
from django.core.mail import send_mail
from django.db import transaction
with transaction.atomic():
    for number in range({READERS}):
        send_mail("News", "Hello", None, [f"reader{{number}}@example.com"])
"""


class Project:
    """The containers, their site and their inbox."""

    def __init__(self) -> None:
        web, inbox = str(free_port()), str(free_port())
        self.site, self.inbox = f"http://localhost:{web}", f"http://localhost:{inbox}"
        ours = files.SECRETS | {
            "SITE_URL": self.site,
            "WEB_PORT": web,
            "INBOX_PORT": inbox,
            "POSTCOMMIT_RATE_PER_SECOND": str(RATE),
        }
        # Nothing of a person's .env: mail must not go out.
        others = {name: value for name, value in os.environ.items() if name not in files.ours()["web"]["environment"]}
        self._environment = others | ours

    def compose(self, *arguments: str) -> str:
        return self._docker(
            "compose", "--ansi=never", "--project-name=postcommit-test", f"--env-file={os.devnull}", *arguments
        )

    def start(self, *services: str) -> None:
        self.compose("up", "--detach", *services)

    def state(self, service: str, template: str) -> str:
        """Return a part of the state of a service's container, such as `.Health.Status`."""
        [container] = self.compose("ps", "--all", "--quiet", service).split()
        return self._docker("inspect", f"--format={{{{.State{template}}}}}", container).strip()

    def are_healthy(self, *services: str) -> bool:
        return {self.state(service, ".Health.Status") for service in services} == {"healthy"}

    def size(self) -> int:
        """Return the size of our image in bytes."""
        return int(self._docker("image", "inspect", "--format={{.Size}}", files.ours()["web"]["image"]))

    def memory(self) -> str:
        """Return a line for each container."""
        containers = self.compose("ps", "--quiet").split()
        return self._docker("stats", "--no-stream", "--format={{.Name}}: {{.MemUsage}}", *containers)

    def mail_to(self, address: str) -> str:
        """Return the text of the newest mail to an address, or nothing."""
        answer = requests.get(f"{self.inbox}/view/latest.txt", {"query": f"to:{address}"}, timeout=10)
        return answer.text if answer.ok else ""

    def recipients(self) -> Counter[str]:
        """Return how many mails of MAILS came to each address."""
        answer = requests.get(f"{self.inbox}/api/v1/messages", {"limit": 2 * READERS}, timeout=10)
        addresses = [person["Address"] for mail in answer.json()["messages"] for person in mail["To"]]
        return Counter(address for address in addresses if address.startswith("reader"))

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Wait until a condition holds. The error names `what` and shows the logs."""
        try:
            wait_until(condition, what, seconds=seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail=15')}") from None

    def _docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments], env=self._environment, cwd=files.ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the seconds that something takes."""
    began = time.monotonic()
    yield
    print(f"\n{what}: {time.monotonic() - began:.1f} s")


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    project = Project()
    with timed("build"):
        project.compose("build")
    print(f"size: {project.size() / 1e6:.0f} MB")
    try:
        with timed("up, until the site answers"):
            project.start()
        yield project
    finally:
        with timed("down"):
            project.compose("down", "--volumes")


def test_everything_gets_healthy(project: Project) -> None:
    services = set(files.services()) - {"migrate"}
    with timed("all healthy"):
        project.wait_for(lambda: project.are_healthy(*services), "all health checks", seconds=120)
    assert project.state("migrate", ".ExitCode") == "0"
    print(project.memory())


def test_a_person_signs_up_and_follows_the_link_of_her_mail(project: Project) -> None:
    sign_up(project.site, "ann@example.com").raise_for_status()
    with timed("from the sign-up to the mail, after VERIFICATION_DELAY"):
        project.wait_for(lambda: project.mail_to("ann@example.com"), "the mail", seconds=30)
    [link] = re.findall(rf"{project.site}/accounts/verify/\S+", project.mail_to("ann@example.com"))
    with requests.Session() as browser:
        browser.get(link, timeout=10).raise_for_status()
        data = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], "password": PASSWORD}
        browser.post(link, data, timeout=10).raise_for_status()
        assert browser.get(link, timeout=10).status_code == 410  # it has done its work


def test_a_worker_that_is_stopped_while_it_sends_loses_no_mail_and_repeats_none(project: Project) -> None:
    project.compose("exec", "-T", "web", "python", "manage.py", "shell", "-c", MAILS)
    project.wait_for(lambda: len(project.recipients()) > RATE, "the first mails", seconds=60)
    with timed("stop of a busy worker"):
        project.compose("stop", "worker")
    sent = len(project.recipients())
    print(f"sent by then: {sent} of {READERS}")
    assert sent < READERS
    assert project.state("worker", ".ExitCode") == "0"

    project.start("worker")
    with timed("the others, after its start"):
        project.wait_for(lambda: len(project.recipients()) == READERS, "every mail", seconds=120)
    assert set(project.recipients().values()) == {1}


@pytest.mark.parametrize("server", ["valkey", "postgres"])
def test_a_worker_is_unhealthy_while_a_server_is_away_for_long_and_not_for_seconds(
    project: Project, server: str
) -> None:
    is_healthy = partial(project.are_healthy, "worker")
    project.wait_for(is_healthy, "a healthy worker", seconds=60)

    project.compose("stop", server)
    began = time.monotonic()
    if server == "valkey":
        sign_up(project.site, "bob@example.com").raise_for_status()
        with timed("mail without a broker"):
            project.wait_for(lambda: project.mail_to("bob@example.com"), "the mail", seconds=30)
    with timed(f"{server} away: unhealthy"):
        project.wait_for(lambda: not is_healthy(), "the health check to fail", seconds=180)
    assert time.monotonic() - began > 60

    project.start(server)
    with timed(f"{server} back: healthy"):
        project.wait_for(is_healthy, "a healthy worker", seconds=60)


def test_everything_stops_in_order(project: Project) -> None:
    with timed("stop"):
        project.compose("stop")
    assert {name: project.state(name, ".ExitCode") for name in files.services()} == dict.fromkeys(files.services(), "0")
