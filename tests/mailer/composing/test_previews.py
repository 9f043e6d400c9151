"""Previews of kinds, and the command `preview_email`."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import ClassVar, Self

import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.core.management.base import SystemCheckError
from pytest_django import Settings

from mailer import email
from mailer.attachments import Attachment
from mailer.composing import previews
from mailer.email import Email, Recipient, UnknownKind
from mailer.emails import TestEmail
from tests.environment import ENVIRONMENT

ROOT = Path(__file__).parents[3]
PNG = b"\x89PNG\r\n\x1a\n not an image"


@pytest.fixture
def illustrated(tmp_path: Path, settings: Settings) -> Iterator[type[Email]]:
    """A kind with an inline image and a file."""
    folder = tmp_path / "email" / "illustrated"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("A picture")
    (folder / "body.txt").write_text("See the picture.")
    (folder / "body.html").write_text('<p><img src="cid:logo" alt="Logo"> <img src="cid:none" alt=""></p>')
    [engine] = settings.TEMPLATES
    settings.TEMPLATES = [engine | {"DIRS": [tmp_path, *engine["DIRS"]]}]
    before = dict(email.KINDS)

    class Illustrated(Email):
        """Show an image.

        And more.
        """

        template: ClassVar = "email/illustrated"

        def recipient(self) -> Recipient:
            return Recipient("ann@example.com", language="en")

        def attachments(self) -> list[Attachment]:
            return [Attachment("logo.png", PNG, content_id="logo"), Attachment("terms.pdf", b"%PDF-")]

        @classmethod
        def sample(cls) -> Self:
            return cls()

    yield Illustrated
    email.KINDS.clear()
    email.KINDS.update(before)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("preview_email", *arguments, stdout=out)
    return out.getvalue()


def test_a_preview_shows_the_mail_that_would_be_sent() -> None:
    preview = previews.preview(previews.find("accounts.VerifyAddress"))

    assert preview.language == "en"
    assert preview.subject == "Verify your e-mail address for Postcommit"
    assert ("To", "Ann Example <ann@example.com>") in preview.headers
    assert "http://localhost:8000/accounts/verify/" in preview.text
    assert preview.html.startswith("<!DOCTYPE html>")
    assert len(preview.source) > len(preview.html)
    assert preview.source.count(b"\r\n") == preview.source.count(b"\n")


@pytest.mark.parametrize("kind", [kind for kind in email.kinds() if not kind.__module__.startswith("tests.")])
def test_every_kind_is_in_the_recipients_language(kind: type[Email]) -> None:
    if not kind.template:
        assert previews.preview(kind, "th").text == "The text.\n"
        return
    english, thai = (previews.preview(kind, language) for language in ("en", "th"))

    for preview in english, thai:
        assert preview.html.count("<!DOCTYPE html>") == 1
        assert f'lang="{preview.language}"' in preview.html
        assert "{{" not in preview.text + preview.html
    assert english.text != thai.text
    assert any("\u0e00" < letter < "\u0e7f" for letter in thai.text)


def test_inline_images_are_embedded_in_the_html(illustrated: type[Email]) -> None:
    preview = previews.preview(illustrated)

    assert f'src="data:image/png;base64,{b64encode(PNG).decode()}"' in preview.page
    assert "cid:none" in preview.page
    assert preview.attachments == [("terms.pdf", "application/pdf", 5)]


def test_a_mail_without_html_has_a_page_too() -> None:
    message = b"Subject: x\r\nContent-Type: text/plain\r\n\r\n1 < 2\r\n"
    preview = previews.Preview(TestEmail.sample(), "en", message)

    assert (preview.html, preview.text) == ("", "1 < 2\n")
    assert "<pre>1 &lt; 2\n</pre>" in preview.page


def test_a_kind_is_found_by_its_class_name_in_any_case() -> None:
    assert previews.find("verifyaddress") is previews.find("accounts.VerifyAddress")
    with pytest.raises(UnknownKind, match=r"no kinds have the name 'qqq'; choose from accounts\.AccountDeleted, "):
        previews.find("qqq")


def test_an_ambiguous_class_name_is_refused(illustrated: type[Email]) -> None:
    type("Illustrated", (illustrated,), {"kind": "shop.Illustrated", "__module__": __name__})

    with pytest.raises(UnknownKind, match=r"several kinds have the name 'illustrated'; choose from shop\.Ill"):
        previews.find("illustrated")


# --- The command


def test_without_options_the_command_prints_header_and_text() -> None:
    shown = run("VerifyAddress", "--language", "th")

    assert shown.startswith("Subject: ")
    assert "To: Ann Example <ann@example.com>\n" in shown
    assert "Content-Type" not in shown
    assert "สวัสดีคุณ Ann Example" in shown
    assert "\n[accounts.VerifyAddress, th: " in shown


def test_files_are_listed_below_the_text(illustrated: type[Email]) -> None:
    assert "[file] terms.pdf (application/pdf, 5\xa0bytes)" in run("Illustrated")


@pytest.mark.parametrize(
    ("format", "start"), [("text", "Hello Ann Example"), ("html", "<!DOCTYPE html>"), ("raw", "MIME-Version: 1.0\r\n")]
)
def test_with_a_format_only_that_is_printed(format: str, start: str) -> None:  # noqa: A002
    assert run("VerifyAddress", "--format", format).startswith(start)


def test_the_suffix_of_the_output_sets_the_format(tmp_path: Path) -> None:
    for suffix, start in (".txt", b"Hello Ann"), (".html", b"<!DOCTYPE"), (".eml", b"MIME-Version: 1.0"):
        path = tmp_path / f"mail{suffix}"
        assert run("VerifyAddress", "--output", str(path)) == ""
        assert path.read_bytes().startswith(start)
    run("VerifyAddress", "--output", str(path), "--format", "html")
    assert path.read_bytes().startswith(b"<!DOCTYPE")


def test_the_list_names_each_kind_with_its_first_line(illustrated: type[Email]) -> None:
    lines = run("--list").splitlines()

    assert [line for line in lines if line.startswith("tests.Illustrated ") and line.endswith(" Show an image.")]
    assert [line for line in lines if line.startswith("accounts.VerifyAddress ")]


def test_all_writes_every_kind_and_language_with_an_index(
    tmp_path: Path, illustrated: type[Email], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:  # the tests' own kinds have no samples
        patched.setattr(previews, "kinds", lambda: [illustrated, previews.find("VerifyAddress")])
        assert run("--all", "--output", str(tmp_path)).startswith("2 kinds in en, th: open ")

    index = (tmp_path / "index.html").read_text()
    assert '<th scope="row">accounts.VerifyAddress<' in index
    assert '<a href="tests.Illustrated.th.html">A picture</a>' in index
    assert '<a href="accounts.VerifyAddress.en.html">Verify your e-mail address for Postcommit</a>' in index
    assert len(list(tmp_path.glob("*.*.*.*"))) == 12


def test_a_kind_that_fails_does_not_stop_the_others(tmp_path: Path, illustrated: type[Email]) -> None:
    type("Sampleless", (illustrated,), {"sample": Email.__dict__["sample"], "__module__": __name__})

    with pytest.raises(CommandError, match=r"tests\.Sampleless in 'en': .*Sampleless has no sample data"):
        run("--all", "--output", str(tmp_path))

    assert (tmp_path / "tests.Illustrated.en.html").exists()
    assert "no preview" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("arguments", [(), ("VerifyAddress", "--all"), ("--list", "--all")])
def test_the_command_needs_exactly_one_selection(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="Give KIND, --all, or --list"):
        run(*arguments)


def test_a_path_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"no/mail\.txt: No such file or directory"):
        run("VerifyAddress", "--output", str(tmp_path / "no" / "mail.txt"))


def test_a_template_that_fails_is_reported_with_its_file(illustrated: type[Email], tmp_path: Path) -> None:
    (tmp_path / "email" / "illustrated" / "body.html").write_text("{% url 'nowhere' %}")

    with pytest.raises(CommandError) as caught:
        run("Illustrated")

    assert str(caught.value).startswith("email/illustrated/body.html: NoReverseMatch: Reverse for 'nowhere' not found.")


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_needs_no_database_or_broker_and_shows_no_traceback() -> None:
    away = {"DATABASE_URL": "postgres://user@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}

    shown = manage("preview_email", "VerifyAddress", "--format", "text", **away)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "http://localhost:8000/accounts/verify/" in shown.stdout


def test_a_mistyped_kind_is_an_error_with_the_kinds() -> None:
    with pytest.raises(CommandError, match=r"choose from .*accounts\.VerifyAddress"):
        run("VerifyAdress")


def test_a_kind_is_shown_if_another_one_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemCheckError, match=r"mailer\.E005"):
        call_command("check")  # the tests' own kinds have errors

    load_command_class("mailer", "preview_email").run_from_argv(["manage.py", "preview_email", "VerifyAddress"])

    assert "Subject:" in capsys.readouterr().out
