"""The layout suits mail clients (Gmail, Outlook with Word), screen readers, and every language."""

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Comment, Tag
from pytest_django import Settings

import mailer
from mailer import email
from mailer.composing import templates
from mailer.composing.templates import site_name
from mailer.email import Email, Recipient
from tests.mailer.kinds import Showcase

pytestmark = pytest.mark.usefixtures("showcase_templates")

SHIPPED = [kind for name, kind in sorted(email.KINDS.items()) if kind.template and not name.startswith("tests.")]
GMAIL_CLIPS_AT = 102 * 1024
GMAIL_DROPS_STYLES_OF = 8192
PARTS = ("button", "table", "code", "image", "quote", "footer", "preheader", "link")

every_kind = pytest.mark.parametrize("kind", [*SHIPPED, Showcase])
every_language = pytest.mark.parametrize(("language", "direction"), [("en", "ltr"), ("th", "ltr"), ("he", "rtl")])


def soup_of(kind: type[Email], language: str = "en") -> BeautifulSoup:
    content = templates.render(kind.sample(), Recipient("ann@example.com", "Ann", language))
    return BeautifulSoup(content.html, "lxml")


@every_kind
def test_gmail_neither_clips_the_mail_nor_drops_its_styles(kind: type[Email]) -> None:
    html = templates.render(kind.sample(), Recipient("ann@example.com", "Ann", "th")).html

    assert len(html.encode()) < GMAIL_CLIPS_AT / 4  # an order may add much content
    styles = BeautifulSoup(html, "lxml").find_all("style")
    assert len(styles) == 2
    for style in styles:
        assert len(style.text) < GMAIL_DROPS_STYLES_OF
        assert not re.search(r"url\(|@import|@font-face|[{]\s*@|<|\[", style.text)
    assert "prefers-color-scheme" not in styles[0].text


@every_kind
@every_language
def test_a_mail_has_language_direction_and_one_heading(kind: type[Email], language: str, direction: str) -> None:
    soup = soup_of(kind, language)

    (article,) = soup.select("[role=article]")
    assert soup.html is not None
    for element in (soup.html, article):  # Gmail removes <html>
        assert (element["lang"], element["dir"]) == (language, direction)
    assert len(soup("h1")) == 1
    assert article["aria-label"] == soup.title.text if soup.title else False


@every_kind
@every_language
def test_alignment_follows_the_direction(kind: type[Email], language: str, direction: str) -> None:
    soup = soup_of(kind, language)
    start, end = ("left", "right") if direction == "ltr" else ("right", "left")

    for name in ("top", "card", "bottom"):
        assert [cell["align"] for cell in soup.select(f"td.{name}")] == [start]
    for row in soup.select("table:not([role]) tr"):
        aligned = [cell["align"] for cell in row(["td", "th"])]
        assert aligned == [start] * (len(aligned) - 1) + [end]
    for quote in soup.select("td.quote"):
        assert f"border-{start}: 3px" in str(quote["style"])


@every_kind
def test_a_table_has_the_role_presentation_or_column_headings(kind: type[Email]) -> None:
    for table in soup_of(kind)("table"):
        assert [table.get(name) for name in ("border", "cellpadding", "cellspacing")] == ["0", "0", "0"]
        if table.get("role") != "presentation":
            assert all(head["scope"] == "col" for head in table("th"))
            assert table("th")


@every_kind
def test_widths_and_colors_are_also_attributes_for_word(kind: type[Email]) -> None:
    soup = soup_of(kind)

    for element in soup.select("[style*=background-color]"):
        assert f"background-color: {element['bgcolor']}" in str(element["style"])
    for image in soup("img"):
        assert str(image["width"]).isdigit()
    conditional = soup.find_all(string=lambda text: isinstance(text, Comment))
    assert [str(c).partition("]>")[0] for c in conditional] == ["[if mso"] * 3
    assert 'width="600"' in conditional[1]


@every_kind
def test_images_have_an_alt_text_and_nothing_is_loaded(kind: type[Email]) -> None:
    soup = soup_of(kind)

    assert all(str(image["src"]).startswith("cid:") and image["alt"] for image in soup("img"))
    assert soup(["script", "link", "iframe", "form", "video", "object"]) == []
    assert "url(" not in str(soup)


def test_the_preheader_is_padded_so_that_no_other_text_follows() -> None:
    body = soup_of(Showcase).body
    assert body is not None
    first, *_ = (child for child in body.children if isinstance(child, Tag))

    assert first.text.startswith("It arrives tomorrow, between 9 and 12.")
    assert len(first.text) > 110
    assert not re.search(r"[^\s\u034f\u200c\xa0\u2007]", first.text.partition("12.")[2])
    assert "display: none" in str(first["style"])


@pytest.mark.parametrize("language", ["en", "th"])
def test_only_a_mail_with_an_unsubscribe_link_shows_it(language: str) -> None:
    recipient = Recipient("ann@example.com", "Ann", language)
    words = {"en": "Unsubscribe from these e-mails", "th": "ยกเลิกการรับอีเมลประเภทนี้"}[language]

    with_link = templates.render(Showcase(), recipient, unsubscribe_url="https://shop.example/unsubscribe/abc")
    without = templates.render(Showcase(), recipient)

    (link,) = BeautifulSoup(with_link.html, "lxml").find_all("a", string=words)
    assert link["href"] == "https://shop.example/unsubscribe/abc"
    assert f"{words}:\nhttps://shop.example/unsubscribe/abc" in with_link.text
    for each in (without.html, without.text):
        assert words not in each


@pytest.mark.parametrize(
    ("sender", "name"),
    [
        ("Fine Shop <hello@shop.example>", "Fine Shop"),
        ('"Shop, Ltd." <hello@shop.example>', "Shop, Ltd."),
        ("ร้านกาแฟ <hello@shop.example>", "ร้านกาแฟ"),
        ("hello@shop.example", "www.shop.example"),
    ],
)
def test_mails_name_the_site_and_never_postcommit(sender: str, name: str, settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL, settings.SITE_URL = sender, "https://www.shop.example"

    assert site_name() == name
    for kind in SHIPPED:
        for language in ("en", "th"):
            content = templates.render(kind.sample(), Recipient("ann@example.com", "", language))
            assert name in content.subject
            assert f"{name}, https://www.shop.example" in content.text
            assert "Postcommit" not in content.subject + content.text + content.html


@pytest.mark.parametrize("part", PARTS)
def test_each_part_begins_with_a_comment(part: str, settings: Settings) -> None:
    folder = Path(mailer.__file__).parent / "templates" / "email" / "parts"
    first_line = (folder / f"{part}.html").read_text().splitlines()[0]

    assert {file.stem for file in folder.iterdir()} == set(PARTS)
    assert re.match(r"\{# .+ #\}", first_line)


def luminance(color: str) -> float:
    """As WCAG 2.2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_every_text_has_contrast_with_its_background() -> None:
    """Check the light colors; tests/browser checks both with Chromium. 4.5 is AA for text of any size."""
    seen: set[tuple[str, str]] = set()
    body = soup_of(Showcase).body
    assert body is not None
    for text in body.find_all(string=re.compile(r"\w")):
        styles = [str(holder.get("style", "")) for holder in text.parents]
        if not isinstance(text, Comment) and not any("display: none" in style for style in styles):
            color = next(found[1] for style in styles if (found := re.search(r"(?:^|;)\s*color: (#\w{6})", style)))
            seen.add((color, next(str(holder["bgcolor"]) for holder in text.parents if holder.get("bgcolor"))))

    assert len(seen) >= 6
    assert {pair: round(contrast(*pair), 1) for pair in seen if contrast(*pair) < 4.5} == {}


@every_kind
def test_the_footer_has_the_support_address_if_it_is_set(kind: type[Email], settings: Settings) -> None:
    without = templates.render(kind.sample(), Recipient("ann@example.com"))
    settings.POSTCOMMIT = settings.POSTCOMMIT | {"SUPPORT_ADDRESS": "help@shop.example"}
    content = templates.render(kind.sample(), Recipient("ann@example.com"))

    assert "Questions?" not in without.text + without.html
    assert "Questions? help@shop.example" in content.text
    assert 'href="mailto:help@shop.example"' in content.html
