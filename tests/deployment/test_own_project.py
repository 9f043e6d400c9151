"""docs/use-it-in-your-project.md and docs/add-an-email.md, followed to the letter with the wheel in a fresh environment."""

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.servers import Postgres, Valkey, wait_until
from tests.smtp_sink import Sink

pytestmark = [pytest.mark.drill, pytest.mark.timeout(180)]  # two dozen programs are started, perhaps on a busy machine
ROOT = Path(__file__).resolve().parents[2]
PAGE, TUTORIAL = (ROOT / "docs" / name for name in ("use-it-in-your-project.md", "add-an-email.md"))
STEP = re.compile(
    r"(?P<append>At the end of )?`(?P<path>[\w/.]+)`[^\n`]*:\n+```\w+\n(?P<code>.*?)```"
    r"|In `(?P<file>[\w/.]+)` write `(?P<line>[^`]+)`"
    r"|```.*?```"
    r"|^    (?P<command>\S.*?)$",
    re.DOTALL | re.MULTILINE,
)
"""A file with its code, a file with its one line, any other code, a command."""
SEND = re.compile(r"```python\n(from django.core.mail import send_mail\n.*?)```", re.DOTALL)


def run(*command: str | Path, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    arguments = ("--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", ROOT, *arguments, folder=folder, environment=dict(os.environ))
    [wheel] = folder.glob("*.whl")
    return wheel


class Project:
    """A project named `shop`, whose virtual environment has the libraries of this one, and nothing of the checkout."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheel.parent),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "DJANGO_SETTINGS_MODULE": "shop.settings_here",
        }
        environment = folder.with_name("venv")
        run(sys.executable, "-m", "venv", "--without-pip", environment, folder=folder, environment={})
        self.python = environment / "bin" / "python"
        [self.packages] = environment.glob("lib/python*/site-packages")
        (self.packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
        run(self.python, "-m", "django", "startproject", "shop", ".", folder=folder, environment={})
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self, line: str) -> str:
        strict = {"PYTHONWARNINGS": "error"} if line.startswith("python ") else {}
        return run(*self._command(line), folder=self.folder, environment=self.environment | strict)

    def start(self, line: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self.background.append(
                subprocess.Popen(
                    self._command(line),
                    cwd=self.folder,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _command(self, line: str) -> list[str]:
        program, *arguments = shlex.split(line)
        return [str(self.python), *([] if program == "python" else ["-m", program]), *arguments]

    def follow(self, page: Path) -> list[str]:
        """Write the files of the page, run its commands, and start its worker and beat. Return what the commands print."""
        printed = []
        for step in STEP.finditer(page.read_text()):
            if step["path"]:
                self.write(step["path"], step["code"], append=step["append"] is not None)
            elif step["file"]:
                self.write(step["file"], step["line"])
            elif step["command"] and step["command"].startswith("celery"):
                self.start(step["command"])
            elif step["command"]:
                printed.append(self.run(step["command"]))
        return printed

    def write(self, name: str, code: str, *, append: bool = False) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.read_text()}\n{code}" if append else code)

    def stop(self) -> None:
        for process in self.background:
            os.killpg(process.pid, signal.SIGTERM)
        for process in self.background:
            process.wait(30)
        self.background.clear()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """An empty one, beside the database of the other tests."""
    name = f"shop_{os.getpid()}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def project(
    tmp_path: Path, wheel: Path, postgres: Postgres, valkey: Valkey, database: str, sink: Sink
) -> Iterator[Project]:
    folder = tmp_path / "project"
    folder.mkdir()
    project = Project(folder, wheel)
    host, port = sink.url.removeprefix("smtp://").rstrip("/").split(":")
    engine = "django.db.backends.postgresql"
    databases = {"ENGINE": engine, "NAME": database, "USER": "postgres", "HOST": str(postgres.sockets)}
    project.write(
        "shop/settings_here.py",
        f"""from shop.settings import *
DATABASES = {{"default": {databases!r}}}
MAILERS["transport"]["OPTIONS"] = {{"host": {host!r}, "port": {port}}}
CELERY_BROKER_URL = "redis+socket://{valkey.socket}?virtual_host=5"
""",
    )
    yield project
    project.stop()


def test_the_wheel_has_the_app_alone_and_all_of_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    of_the_checkout = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "mailer")

    assert names == set(run(*of_the_checkout, folder=ROOT, environment=dict(os.environ)).split())
    assert names >= {
        *("mailer/py.typed", "mailer/static/mailer/page.css", "mailer/migrations/0001_outbox.py"),
        *("mailer/templates/email/base.html", "mailer/management/commands/deliver_due.py"),
    }


def test_a_fresh_project_follows_both_pages(project: Project, sink: Sink) -> None:
    """One project, because it takes many seconds to make."""
    project.follow(PAGE)
    it_sends_what_it_commits_and_nothing_else(project, sink)

    project.stop()
    sink.received.clear()
    *_, preview, tests = project.follow(TUTORIAL)
    the_tutorial_ends_with_a_mail_and_a_test_that_passes(project, sink, preview, tests)


def it_sends_what_it_commits_and_nothing_else(project: Project, sink: Sink) -> None:
    module = project.run("python -c 'import mailer; print(mailer.__file__)'")
    assert Path(module.strip()).is_relative_to(project.packages)
    project.run("python manage.py check --fail-level WARNING")
    project.run("python manage.py makemigrations --check --dry-run")
    match = SEND.search(PAGE.read_text())
    assert match is not None
    order = "from types import SimpleNamespace\norder = SimpleNamespace(save=lambda: None, email='ann@example.com')"
    rolled_back = (
        "with transaction.atomic():\n"
        "    send_mail('No', 'Never.', None, ['eve@example.com'])\n"
        "    transaction.set_rollback(True)\n"
    )
    project.write("send.py", f"{order}\n{match[1]}\n{rolled_back}")
    project.run("python manage.py shell --no-imports -c 'import send'")
    project.run("python manage.py send_test_email you@example.com")
    wait_until(lambda: len(sink.received) >= 2, "two mails", seconds=30)

    assert {str(mail.parsed["To"]) for mail in sink.received} == {"ann@example.com", "you@example.com"}
    assert {str(mail.parsed["From"]) for mail in sink.received} == {"Shop <hello@shop.example>"}


def the_tutorial_ends_with_a_mail_and_a_test_that_passes(
    project: Project, sink: Sink, preview: str, tests: str
) -> None:
    assert "Your order 1 is on its way" in preview
    assert "https://parcels.example/1" in preview
    assert "2 passed" in tests
    project.write(
        "ship.py",
        "from django.core.management import call_command\nfrom orders.models import Order\nfrom orders.shipping import ship\n"
        "ship(Order.objects.create(email='ann@example.com', customer='Ann'), carrier='DHL')\ncall_command('deliver_due')\n",
    )
    project.run("python manage.py shell --no-imports -c 'import ship'")
    [mail] = sink.received
    assert mail.parsed["Subject"] == "Your order 1 is on its way"
    assert "DHL brings your parcel." in mail.part("plain")
    assert "https://parcels.example/1" in mail.part("plain")
    assert "DHL has it." in mail.part("html")
