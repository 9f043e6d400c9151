"""Hostile names and values in subject, text and HTML, with both inliners.

Django and the standard library build the mail; a parser in Rust and Beautiful Soup read it.
"""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from bs4 import BeautifulSoup
from django.template import Template, TemplateDoesNotExist, TemplateSyntaxError, engines
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from fast_mail_parser import parse_email
from pytest_django import Settings

from mailer.composing import templates
from mailer.composing.css import ENGINES
from mailer.composing.message import assemble
from mailer.email import Email, Recipient
from mailer.mime import encoding

RECIPIENT = Recipient("ann@example.com")
TEMPLATES = {
    "subject.txt": "{{ value }}",
    "body.txt": "{{ value }}",
    "body.html": """{% extends "email/base.html" %}{% block preheader %}{{ value }}{% endblock %}{% block content %}
        <h1>{{ value }}</h1><p id="value" title="{{ value }}">{{ value }}</p>
        {% include "email/parts/button.html" with label=value link=value %}
        {% include "email/parts/code.html" with code=value %}
        {% include "email/parts/quote.html" with quote=value by=value %}
        {% include "email/parts/image.html" with src="cid:x" alt=value width=value height=value %}
        {% include "email/parts/table.html" with head=values rows=rows total=values %}
    {% endblock %}""",
}


class Nasty(Email):
    template: ClassVar = "nasty"

    value: Any

    def context(self) -> dict[str, Any]:
        return {"values": [self.value] * 2, "rows": [[self.value, self.value]]}


@pytest.fixture(params=sorted(ENGINES))
def folder(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> Path:
    """A folder with the templates above, used with each inliner."""
    settings.POSTCOMMIT = settings.POSTCOMMIT | {"INLINER": request.param}
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"DIRS": [*settings.TEMPLATES[0]["DIRS"], tmp_path]}]
    (tmp_path / "nasty").mkdir()
    for name, source in TEMPLATES.items():
        (tmp_path / "nasty" / name).write_text(source)
    return tmp_path / "nasty"


class Received:
    """A mail that was rendered, built, written as bytes, and read again."""

    def __init__(self, mail: Email, recipient: Recipient = RECIPIENT) -> None:
        content = templates.render(mail, recipient)
        built = assemble(mail, recipient, content, message_id="<1@example.com>")
        parsed = parse_email(encoding.octets(encoding.build(built, eight_bit=True)))
        assert parsed.warnings == []
        assert [address.address for address in parsed.to] == [recipient.address]
        self.headers = parsed.headers.keys() - {"Content-Transfer-Encoding"}  # 8bit only if the content needs it
        self.subject = parsed.subject
        [text], [html] = parsed.text_plain, parsed.text_html
        self.text, self.html = text.replace("\r\n", "\n"), html.replace("\r\n", "\n")
        self.soup = BeautifulSoup(self.html, "html.parser")


VALUES = {
    "markup": ("<b>&\"'</b><script>alert(1)</script>", None),
    "an attribute that ends early": ("\"><img src=x onerror=alert(1)> ' onclick='x", None),
    "the end of everything": ("</td></table></body></html><!-- <![endif]--> ]]> </style></title>", None),
    "a conditional comment": ("<!--[if mso]><p>x</p><![endif]-->", None),
    "the marker of a kept style": ('<!--"kept style"--><style data-inline="no">p { color: red }</style>', None),
    "entities": ("&lt;b&gt; &amp;amp; &#65; &nosuch;", None),
    "emoji": ("👩🏽‍🚀 🎉 🇹🇭", None),
    "direction marks": ("\u202eevil\u202c \u2067שלום\u2069 \u200f!", None),
    "Thai and Hebrew": ("สวัสดี שלום 日本", None),
    "Django's syntax": ("{{ settings.SECRET_KEY }}{% debug %}{# x #}{% include 'x' %}", None),
    "Jinja's and others'": ("{{ ''.__class__ }} {%- raw -%} ${7*7} #{7*7} %(x)s %s {0} <%= 1 %>", None),
    "ten thousand characters": ("ก<" * 5000, None),
    "ten thousand words": ("word & " * 1999 + "end", None),
    "a header field": ("a\r\nBcc: eve@example.com\r\n\r\nbody", "a\nBcc: eve@example.com\n\nbody"),
    "old line breaks": ("a\rb", "a\nb"),
    "control characters": ("a\x00b\x07c\x1bd\x7fe\x85f\x0bg", "abcdefg"),
    "a lone surrogate": ("a\ud83db", "ab"),
    "noncharacters": ("a\ufffeb\uffffc", "abc"),
    "the marker of the plain text": ("a\ue000b", None),
    "nothing": ("", None),
    "None": (None, "None"),
    "a number": (-0.5, "-0.5"),
    "a list": (["<b>", "'"], "['<b>', \"'\"]"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("value", "shown"), VALUES.values(), ids=VALUES)
def test_a_hostile_value_is_shown_as_text(value: Any, shown: str | None) -> None:
    plain = Received(Nasty("plain"))
    nasty = Received(Nasty(value))

    shown = value if shown is None else shown
    assert nasty.subject == " ".join(shown.split())
    assert nasty.text == shown.strip() + "\n"
    paragraph = nasty.soup.select_one("#value")
    assert paragraph is not None
    assert (paragraph.text, paragraph["title"]) == (shown, shown)
    for place in ("h1", "pre", "th", "td.cell", ".action a", ".preheader"):
        element = nasty.soup.select_one(place)
        assert element is not None
        assert element.text.startswith(shown)
    assert nasty.headers == plain.headers
    assert outline(nasty.soup) == outline(plain.soup)


def outline(soup: BeautifulSoup) -> list[tuple[str, list[str]]]:
    """Return the elements and the names of their attributes, without those that depend on the value."""
    elements = [element for element in soup.find_all(True) if element.name not in ("br", "span")]
    return [(element.name, sorted(element.attrs.keys() - {"class"})) for element in elements]


@pytest.mark.parametrize(("value", "shown"), VALUES.values(), ids=VALUES)
def test_a_text_made_from_the_html_contains_the_value(folder: Path, value: Any, shown: str | None) -> None:
    (folder / "body.txt").unlink()
    (folder / "body.html").write_text("<p>Before</p><p>{{ value }}</p><p>After</p>")

    words = str(value if shown is None else shown).replace("\ue000", "").split()
    assert Received(Nasty(value)).text.split() == ["Before", *words, "After"]


@pytest.mark.usefixtures("folder")
def test_a_safe_string_is_html_only_in_the_html() -> None:
    nasty = Received(Nasty(mark_safe("<b>bold</b> & co")))

    assert nasty.subject == nasty.text.strip() == "<b>bold</b> & co"
    paragraph = nasty.soup.select_one("#value")
    assert paragraph is not None
    assert (paragraph.text, paragraph.b and paragraph.b.text) == ("bold & co", "bold")


@pytest.mark.usefixtures("folder")
def test_a_lazy_translation_is_in_the_recipients_language() -> None:
    mail = Nasty(gettext_lazy("Yes"))

    assert [Received(mail, Recipient("ann@example.com", "", language)).subject for language in ("en", "th")] == [
        "Yes",
        "ใช่",
    ]


@pytest.mark.usefixtures("folder")
def test_a_template_in_the_context_is_not_rendered() -> None:
    for template in (Template("{{ value }}"), engines["django"].from_string("{{ value }}")):
        nasty = Received(Nasty(template))

        assert "object at" in nasty.text or "<" in nasty.text
        assert nasty.soup.select_one("#value") is not None
        assert nasty.soup.select("#value *") == []


@pytest.mark.usefixtures("folder")
def test_showing_an_object_calls_none_of_its_methods() -> None:
    calls = []

    class Account:
        def delete(self) -> None:
            calls.append("deleted")

        delete.alters_data = True  # type: ignore[attr-defined]

        def __str__(self) -> str:
            return "<account>"

    assert Received(Nasty(Account())).subject == "<account>"
    assert calls == []


def test_a_name_cannot_become_a_header_or_a_tag(folder: Path) -> None:
    (folder / "body.html").write_text("<p>{% include 'email/greeting.txt' %}</p>")
    name = "Eve <eve@example.com>,\r\nBcc: <b>x@example.com</b>" + "y" * 10_000

    received = Received(Nasty("x"), Recipient("ann@example.com", name))

    assert "Bcc" not in received.headers
    paragraph = received.soup.p
    assert paragraph is not None
    assert paragraph.text.strip().startswith("Hello Eve <eve@example.com>,")
    assert len(paragraph.text) < 100
    assert paragraph.find() is None


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("this object has no text")


BROKEN = {
    "a value that has no text": ("{{ value }}", Unprintable(), RuntimeError, "this object has no text"),
    "a tag that is unknown": ("{% no_such_tag %}", "x", TemplateSyntaxError, "no_such_tag"),
    "a filter that is unknown": ("{{ value|no_such_filter }}", "x", TemplateSyntaxError, "no_such_filter"),
    "a template that is missing": ("{% include 'no/such.html' %}", "x", TemplateDoesNotExist, "no/such.html"),
    "a variable that is missing": (
        "{{ value|default:nothing }}",
        "",
        LookupError,
        "uses 'nothing', which is not defined",
    ),
}


@pytest.mark.parametrize("file", TEMPLATES)
@pytest.mark.parametrize(("source", "value", "error", "words"), BROKEN.values(), ids=BROKEN)
def test_an_error_in_a_template_names_its_cause(
    folder: Path, file: str, source: str, value: Any, error: type[Exception], words: str
) -> None:
    (folder / "body.html").write_text("<p>x</p>")
    (folder / "subject.txt").write_text("x")
    (folder / "body.txt").write_text("x")
    (folder / file).write_text(source)

    with pytest.raises(error, match=words) as caught:
        templates.render(Nasty(value), Recipient("ann@example.com", "the secret of a link"))
    assert "secret" not in str(caught.value)


def test_a_body_txt_that_extends_a_missing_template_is_an_error(folder: Path) -> None:
    (folder / "body.txt").write_text("{% extends 'no/such.txt' %}")

    with pytest.raises(TemplateDoesNotExist, match=r"no/such\.txt"):
        templates.render(Nasty("x"), RECIPIENT)
