"""The documentation fits the code: links resolve, examples work, the reference is up to date."""

import re
from pathlib import Path

import pytest
from django.core.mail import mailers

from config.environment import PROVIDERS, email_url
from docs.make_reference import PAGE, reference
from mailer.models import State

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_points_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith("http") or (page == PAGE and not path):  # the reference links types of other libraries
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run `make docs`"


def test_every_state_is_explained() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text()
    for state in State:
        assert f"| `{state}` |" in table


EMAIL_URLS = re.findall(r"`((?:smtps?://|[a-z_]+:\?)[^`\s]*)`", (ROOT / "docs" / "providers.md").read_text())


@pytest.mark.filterwarnings("ignore::anymail.exceptions.AnymailNotSupportedWarning")  # SendGrid's, as the page says
@pytest.mark.parametrize("url", sorted({url for url in EMAIL_URLS if url != "smtp://"}))
def test_every_email_url_in_the_docs_makes_a_transport(url: str, settings: object) -> None:
    settings.MAILERS = {"default": email_url(url.replace("…", "x"))}  # type: ignore[attr-defined]

    assert mailers["default"]


def test_every_provider_is_in_the_docs() -> None:
    named = {url.partition(":")[0] for url in EMAIL_URLS} | {"amazon_ses"}
    assert named >= PROVIDERS
