"""Check the documentation against the code: links, commands, settings and examples, and the generated pages."""

import re
from pathlib import Path

import pytest
from django.core.mail import mailers
from django.core.management import get_commands

from config.environment import PROVIDERS, email_url
from docs.make_reference import PAGES as GENERATED
from local.environment import PORTS
from mailer.models import State
from tests.deployment import files

ROOT = files.ROOT
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
WITH_LINKS_OF_OTHERS = DOCS / "reference.md"
"""griffe links to the types of other libraries, which the page does not have."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"manage\.py (\w+)")
TARGET = re.compile(r"\bmake ([a-z]+)\b(?=[`]| *$| +[A-Z]+=| {2,})", re.MULTILINE)
SETTING = re.compile(r"\bPOSTCOMMIT_\w+\b")

REMOVED = {"announce"}
"""The changelog names it."""

page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith("http") or (page == WITH_LINKS_OF_OTHERS and not path):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or target.is_dir() or anchor in anchors(target), link


@pytest.mark.parametrize("index", [ROOT / "README.md", DOCS / "README.md"], ids=["README.md", "docs/README.md"])
def test_every_page_is_in_the_index(index: Path) -> None:
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    assert set(DOCS.glob("*.md")) - linked <= {DOCS / "README.md", DOCS / "pypi.md"}


@page
def test_every_command_and_setting_exists(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(COMMAND.findall(text)) - REMOVED <= get_commands().keys()
    assert set(TARGET.findall(text)) <= set(targets)
    assert set(SETTING.findall(text)) - {"POSTCOMMIT_"} <= files.read_by_the_project()


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_the_generated_pages_are_up_to_date(page: Path) -> None:
    assert page.read_text() == GENERATED[page](), "run `make docs`"


def test_the_page_about_settings_has_every_variable() -> None:
    text = (DOCS / "settings.md").read_text()
    for name in files.read_by_the_project() | set(PORTS):
        assert f"`{name.removeprefix('POSTCOMMIT_')}`" in text


def test_the_readme_is_short_and_begins_with_code() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert "```python" in lines[:20]


def test_every_state_is_explained() -> None:
    table = (DOCS / "architecture.md").read_text()
    for state in State:
        assert f"| `{state}` |" in table


def test_every_module_that_the_architecture_names_exists() -> None:
    table = (DOCS / "architecture.md").read_text().partition("## The rooms")[0]
    named = re.findall(r"`([a-z_/]+\.py)`", table)
    for name in named:
        assert list((ROOT / "mailer").glob(f"**/{name}")), name


EMAIL_URLS = re.findall(r"`((?:smtps?://|[a-z_]+:\?)[^`\s]*)`", (DOCS / "transports.md").read_text())


@pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailNotSupportedWarning")  # SendGrid's, as the page says
@pytest.mark.parametrize("url", sorted({url for url in EMAIL_URLS if url != "smtp://"}))
def test_every_email_url_that_is_shown_makes_a_transport(url: str, settings: object) -> None:
    settings.MAILERS = {"default": email_url(url.replace("…", "x"))}  # type: ignore[attr-defined]

    assert mailers["default"]


def test_every_provider_has_its_row() -> None:
    named = {url.partition(":")[0] for url in EMAIL_URLS} | {"amazon_ses"}
    assert named >= PROVIDERS
