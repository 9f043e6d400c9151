"""Both inliners give every element the same styles, and neither fetches anything."""

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import time_machine
from bs4 import BeautifulSoup, Comment, Doctype, Tag
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from mailer import email
from mailer.composing import templates
from mailer.composing.css import ENGINES, inline_css
from mailer.email import Email, Recipient
from tests.mailer.kinds import Showcase

SHIPPED = [kind for name, kind in sorted(email.KINDS.items()) if kind.template and not name.startswith("tests.")]
PAGE = "<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>"

type Styles = dict[str, tuple[str, bool]]


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, settings: Settings) -> str:
    settings.POSTCOMMIT = settings.POSTCOMMIT | {"INLINER": request.param}
    return str(request.param)


# --- Reading style attributes ------------------------------------------------------------------------------------------

DECLARATION = re.compile(r"""\s*([\w-]+)\s*:\s*((?:[^;"']|"[^"]*"|'[^']*')*?)\s*(!important)?\s*(?:;|$)""")


def effective_styles(style: str) -> Styles:
    """Return each property with its value and whether it is important, after overriding, as a mail client sees them."""
    declared: Styles = {}
    for name, raw, important in DECLARATION.findall(style):
        for each, value in expanded(name.lower(), normal(raw)):
            if important or not declared.get(each, ("", False))[1]:
                for part in [other for other in declared if other.startswith(f"{each}-") and not declared[other][1]]:
                    del declared[part]
                declared[each] = (value, bool(important))
    return declared


def expanded(name: str, value: str) -> list[tuple[str, str]]:
    if name not in ("margin", "padding"):
        return [(name, value)]
    parts = value.split()
    top, right, bottom, left = (parts * 4)[:4] if len(parts) < 3 else [*parts, parts[1]][:4]
    return [(f"{name}-{side}", part) for side, part in zip(SIDES, (top, right, bottom, left), strict=True)]


SIDES = ("top", "right", "bottom", "left")


def normal(value: str) -> str:
    value = re.sub(r"\s*,\s*", ",", " ".join(value.replace("'", '"').split()))
    return re.sub(r"#([0-9a-f])([0-9a-f])([0-9a-f])(?![0-9a-f])", r"#\1\1\2\2\3\3", value.lower())


def elements_of(html: str) -> list[Any]:
    """Return all nodes of a document in order: elements with attributes and styles, texts, comments, the doctype."""
    seen: list[Any] = []
    for node in BeautifulSoup(html, "html.parser").descendants:
        if isinstance(node, Comment | Doctype):
            seen.append((type(node).__name__, str(node)))
        elif isinstance(node, Tag) and node.name != "tbody":  # HTML 5 parsers add it
            attributes: dict[str, Any] = dict(node.attrs)
            styles = effective_styles(attributes.pop("style", ""))
            for name in attributes.keys() & {"href", "src"}:  # libxml2 escapes blanks and some other characters
                attributes[name] = unquote(attributes[name]).strip()
            seen.append((node.name, attributes, styles))
        elif not isinstance(node, Tag) and (text := " ".join(str(node).split())):
            seen.append(text)
    return seen


def test_effective_styles_apply_overrides() -> None:
    assert effective_styles("margin: 1px; margin-top: 2px") == effective_styles("margin: 2px 1px 1px 1px")
    assert effective_styles("margin-top: 2px; margin: 1px") == effective_styles("margin: 1px")
    assert effective_styles("color: red !important; color: blue") == {"color": ("red", True)}
    assert effective_styles("color: #FFF; font: 'A; B', c") == {
        "color": ("#ffffff", False),
        "font": ('"a; b",c', False),
    }
    assert effective_styles("border-top: 0; border: 1px solid red") == {"border": ("1px solid red", False)}


# --- Both engines ----------------------------------------------------------------------------------------------------


def render_with_each_engine(settings: Settings, mail: Email, recipient: Recipient) -> dict[str, str]:
    documents = {}
    for name in ENGINES:
        settings.POSTCOMMIT = settings.POSTCOMMIT | {"INLINER": name}
        with time_machine.travel("2026-11-22T12:00:00Z", tick=False):  # some mails contain the time
            documents[name] = templates.render(mail, recipient).html
    return documents


@pytest.mark.parametrize("language", ["en", "th", "he"])
@pytest.mark.parametrize("kind", [*SHIPPED, Showcase])
@pytest.mark.usefixtures("showcase_templates")
def test_both_engines_style_every_element_the_same(kind: type[Email], language: str, settings: Settings) -> None:
    mail = kind.sample()

    documents = render_with_each_engine(settings, mail, Recipient("ann@example.com", "Ann", language))

    fast, reference = map(elements_of, (documents["css_inline"], documents["premailer"]))
    assert len([each for each in fast if isinstance(each, tuple) and each[-1]]) > 20
    assert fast == reference


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([*SHIPPED, Showcase]),
    name=st.text(max_size=60),
    remark=st.text(max_size=300),
    link=st.text(max_size=60),
    language=st.sampled_from(["en", "th", "he"]),
)
@pytest.mark.usefixtures("showcase_templates")
def test_both_engines_give_the_same_result_for_any_content(
    settings: Settings, kind: type[Email], name: str, remark: str, link: str, language: str
) -> None:
    mail = Showcase(name=name, remark=remark, link=link) if kind is Showcase else kind.sample()

    documents = render_with_each_engine(settings, mail, Recipient("ann@example.com", name, language))

    fast, reference = map(elements_of, (documents["css_inline"], documents["premailer"]))
    assert fast == reference


SHEETS = {
    "a class beats an element": "p { color: red } .a { color: blue }",
    "an id beats classes": "#i { color: red } .a.b { color: blue }",
    "the later one wins": ".a { color: red } .b { color: blue }",
    "important beats a class": "p { color: red !important } .a { color: blue }",
    "its own style wins": "p { margin-left: 9px }",
    "a side of a margin": "p { margin: 0 0 16px } .a { margin-top: 3px }",
    "a margin after its side": "p { margin-top: 3px } .a { margin: 0 }",
    "descendants and children": "body .a { color: red } body > p { margin: 1px }",
    "modern values": "p { color: rgb(1 2 3); width: calc(1px + 2px) }",
    "properties of one client": "p { mso-line-height-rule: exactly; -webkit-text-size-adjust: 100% }",
}


@pytest.mark.parametrize("css", SHEETS.values(), ids=SHEETS)
def test_both_engines_apply_the_same_precedence(css: str, settings: Settings) -> None:
    html = PAGE.format(
        head=f"<style>{css}</style>", body='<p class="a b" id="i">x</p><p style="margin-left: 1px">y</p>'
    )

    styles = []
    for engine in ENGINES:
        settings.POSTCOMMIT = {"INLINER": engine}
        styles.append(
            [effective_styles(str(p.get("style", ""))) for p in BeautifulSoup(inline_css(html), "html.parser")("p")]
        )

    assert styles[0] == styles[1]
    assert any(styles[0])


@pytest.mark.usefixtures("engine")
def test_media_queries_stay_with_their_importance() -> None:
    html = inline_css(
        PAGE.format(
            head="<style>p { color: red } @media (max-width: 9px) { p { color: blue !important } }</style>",
            body="<p>x</p>",
        )
    )

    soup = BeautifulSoup(html, "html.parser")
    assert soup.style is not None
    assert re.search(r"@media \(max-width: 9px\) \{\s*p \{\s*color: blue !important", soup.style.text)
    assert effective_styles(str(soup("p")[0]["style"])) == {"color": ("red", False)}


@pytest.mark.usefixtures("engine")
def test_a_style_marked_as_not_inlined_stays_unchanged() -> None:
    kept = [":root { color-scheme: light dark }\n [data-x] p { color: red !important }", "@media (a) { b { c: d } }"]
    head = "".join(f'<style data-inline="no">{css}</style>' for css in kept)
    outlook = "<!--[if mso]><table><tr><td><![endif]-->"

    html = inline_css(PAGE.format(head=f"<meta charset=utf-8>{head}", body=f"{outlook}<p>x</p>"))

    assert BeautifulSoup(html, "html.parser").find_all("style") == BeautifulSoup(
        "".join(f"<style>{css}</style>" for css in kept), "html.parser"
    ).find_all("style")
    assert html.index("charset") < html.index("<style>")
    assert html.startswith("<!DOCTYPE html>")
    assert outlook in html


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "conditional",
    [
        "<![if !mso]><p>x</p><![endif]>",
        "<![IF gte mso 9]><p>x</p><![ENDIF]>",
        "<!--[if !mso]><!--><p>x</p><!--<![endif]-->",
        "<!--[if mso]><![if gte mso 9]>y<![endif]><![endif]--><p>x</p>",
        '<!--[if mso]><style data-inline="no">a{}</style><![endif]--><p>x</p>',
    ],
)
def test_a_condition_for_outlook_stays_a_condition(conditional: str) -> None:
    assert conditional in inline_css(PAGE.format(head="<meta charset=utf-8>", body=conditional))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("html", ["<p>x</p>", "<html><body><p>x</p></body></html>", "<!doctype html><p>x</p>"])
def test_a_fragment_becomes_a_document(html: str) -> None:
    document = inline_css(html)

    assert document.lower().startswith("<!doctype html>")
    assert document.lower().count("<!doctype") == document.count("<html>") == document.count("<body>") == 1


@pytest.mark.usefixtures("engine")
def test_a_link_to_a_style_sheet_stays() -> None:
    link = '<link rel="stylesheet" href="https://example.com/fonts.css">'

    assert link in inline_css(PAGE.format(head=link, body="<p>x</p>"))


# --- Nothing is fetched ----------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """A web server that no test should reach, and the paths of its requests."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"p { color: red }")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


REFERENCES: dict[str, Callable[[str], str]] = {
    "link": lambda url: f"<link rel=stylesheet href='{url}'>",
    "link for Word": lambda url: f"<link rel='stylesheet' type='text/css' media='screen' href='{url}'>",
    "import": lambda url: f"<style>@import url({url});</style>",
    "import of a string": lambda url: f"<style>@import '{url}' screen; p {{ margin: 0 }}</style>",
    "import in a kept style": lambda url: f"<style data-inline='no'>@import '{url}';</style>",
    "background": lambda url: f"<style>p {{ background: url({url}) }}</style>",
    "font": lambda url: f"<style>@font-face {{ font-family: x; src: url({url}) }} p {{ font-family: x }}</style>",
    "base": lambda url: f"<base href='{url}'><link rel=stylesheet href=x.css>",
}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("reference", REFERENCES)
def test_nothing_is_fetched_from_the_network_or_the_disk(
    reference: str, web: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = web
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.css").write_text("p { color: green }")

    for address in (f"{url}/x.css", f"//{url.partition('//')[2]}/x.css", f"file://{tmp_path}/x.css", "x.css"):
        html = inline_css(PAGE.format(head=REFERENCES[reference](address), body="<p>x</p>"))
        assert not re.search("<p[^>]*color", html)

    assert seen == []
