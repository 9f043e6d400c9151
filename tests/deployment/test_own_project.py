"""docs/use-it-in-your-project.md and docs/add-an-email.md, followed to the letter with a fresh project."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.servers import Postgres, Valkey, wait_until
from tests.smtp_sink import Sink

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"`(?P<path>[\w/.]+)`[^\n`]*:\n\n```\w+\n(?P<code>.*?)```", re.DOTALL)
"""A block of code after a line that ends with the file in which it stands."""
SEND = re.compile(r"```python\n(from django.core.mail import send_mail\n.*?)```", re.DOTALL)


def read(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def commands(page: str, section: str) -> list[str]:
    """The indented lines of a section."""
    text = read(page).split(f"## {section}\n")[1].split("\n## ")[0]
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


class Project:
    """A project named `shop` in a folder of its own, and the environment that its programs run in."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def manage(self, *arguments: str) -> str:
        return self.run(sys.executable, "manage.py", *arguments)

    def write_blocks_of(self, page: str) -> None:
        for block in BLOCK.finditer(read(page)):
            path = self.folder / block["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            appended = path.read_text() + "\n" if path.name == "settings.py" else ""
            path.write_text(appended + block["code"])


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """An empty one, beside the database of the other tests."""
    name = f"shop_{os.getpid()}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def project(tmp_path: Path, postgres: Postgres, valkey: Valkey, database: str, sink: Sink) -> Project:
    host, port = sink.url.removeprefix("smtp://").rstrip("/").split(":")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REDIS_URL": f"redis+socket://{valkey.socket}?virtual_host=5",
        "SMTP_HOST": host,
        "SMTP_PORT": port,
        "PYTHONWARNINGS": "error",
    }
    project = Project(tmp_path, environment)
    project.run(sys.executable, "-m", "django", "startproject", "shop", ".")
    for line in commands("use-it-in-your-project.md", "1. Copy"):
        project.run("bash", "-c", line.replace("../postcommit", str(ROOT)))
    settings = tmp_path / "shop" / "settings.py"
    databases = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": database,
            "USER": "postgres",
            "HOST": str(postgres.sockets),
        }
    }
    settings.write_text("import os\n" + settings.read_text() + f"\nDATABASES = {databases!r}\n")
    project.write_blocks_of("use-it-in-your-project.md")
    return project


ORDERS = """
from django.db import models


class Order(models.Model):
    email = models.EmailField()
    customer = models.CharField(max_length=80)
    language = models.CharField(max_length=8, default="en")
    is_cancelled = models.BooleanField(default=False)

    def tracking_url(self):
        return "https://parcels.example/1"
"""
"""The application that docs/add-an-email.md is about."""


def test_what_is_installed_is_what_the_page_names() -> None:
    [line] = commands("use-it-in-your-project.md", "2. Install")
    locked = (ROOT / "requirements.in").read_text().lower()
    for requirement in re.findall(r'[\w-]+(?=[\[~=" ]|$)', line.removeprefix("pip install").lower()):
        assert requirement in locked or not requirement.isalpha()


def test_a_fresh_project_sends_what_it_commits_and_nothing_else(project: Project, sink: Sink) -> None:
    for line in commands("use-it-in-your-project.md", "4. Check, migrate, start")[:2]:
        assert line.startswith("python manage.py")
        project.manage(*line.split()[2:])
    project.manage("makemigrations", "--check", "--dry-run")  # the copied app is complete
    worker_line = commands("use-it-in-your-project.md", "4. Check, migrate, start")[2]
    with subprocess.Popen(
        [*worker_line.split(), "--concurrency=1"],
        cwd=project.folder,
        env=project.environment | {"PYTHONWARNINGS": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as worker:
        try:
            match = SEND.search(read("use-it-in-your-project.md"))
            assert match is not None
            order = (
                "from types import SimpleNamespace\norder = SimpleNamespace(save=lambda: None, email='ann@example.com')"
            )
            rolled_back = (
                "with transaction.atomic():\n"
                "    send_mail('No', 'Never.', None, ['eve@example.com'])\n"
                "    transaction.set_rollback(True)\n"
            )
            project.manage("shell", "--no-imports", "-c", f"{order}\n{match[1]}\n{rolled_back}")
            project.manage("send_test_email", "you@example.com")
            wait_until(lambda: len(sink.received) >= 2, "two mails", seconds=30)
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
            worker.wait(30)

    assert {str(mail.parsed["To"]) for mail in sink.received} == {"ann@example.com", "you@example.com"}
    assert {str(mail.parsed["From"]) for mail in sink.received} == {"Shop <hello@shop.example>"}


def test_an_email_is_added_as_its_page_says(project: Project, sink: Sink) -> None:
    (project.folder / "orders").mkdir()
    (project.folder / "orders" / "models.py").write_text(ORDERS)
    project.write_blocks_of("add-an-email.md")
    with (project.folder / "shop" / "settings.py").open("a") as settings:
        settings.write('INSTALLED_APPS += ["orders"]\n')
    project.manage("makemigrations", "orders")
    project.manage("migrate", "-v0")

    for line in commands("add-an-email.md", "3. Look at it"):
        shown = project.manage(*line.split("#")[0].split()[2:])
    assert "Your order 1 is on its way" in shown
    assert "https://parcels.example/1" in shown

    project.manage(
        "shell",
        "-c",
        "from mailer import outbox; from orders.emails import OrderShipped\n"
        "order = Order.objects.create(email='ann@example.com', customer='Ann')\n"
        "outbox.enqueue(OrderShipped(order, carrier='DHL'))",
    )
    project.manage("deliver_due")

    [mail] = sink.received
    assert mail.parsed["Subject"] == "Your order 1 is on its way"
    assert "We handed your parcel to DHL." in mail.part("plain")
    assert "https://parcels.example/1" in mail.part("plain")
    assert "DHL has it." in mail.part("html")
