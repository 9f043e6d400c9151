"""HTML → plain text that reads like a letter: links keep their URLs, nothing is repeated, columns are aligned."""

import re

import pytest
from bs4 import BeautifulSoup
from hypothesis import example, given
from hypothesis import settings as hsettings
from hypothesis import strategies as st

from mailer import email
from mailer.composing import templates
from mailer.composing.css import inline_css
from mailer.composing.plain_text import FINISHED, WIDTH, plain_text
from mailer.email import Email, Recipient
from tests.mailer.kinds import Showcase

SHIPPED = [kind for name, kind in sorted(email.KINDS.items()) if kind.template and not name.startswith("tests.")]

LINKS = {
    "in a sentence": ('See <a href="https://a.example/?x=1&amp;y=2">the terms</a>.', "See the terms <https://a.example/?x=1&y=2>."),
    "emphasised": ('See <b><a href="https://a.example">this</a></b> now', "See this <https://a.example> now"),
    "alone": ('<p><a href="https://a.example">Log in</a></p>', "Log in:\nhttps://a.example"),
    "alone, a question": ('<p><a href="https://a.example">Lost it?</a></p>', "Lost it?\nhttps://a.example"),
    "its own label": ('At <a href="https://a.example/b">https://a.example/b</a>', "At https://a.example/b"),
    "without its scheme": ('At <a href="https://a.example/">a.example</a>', "At https://a.example/"),
    "without a label": ('At <a href="https://a.example"> </a>.', "At https://a.example."),
    "an address": ('<a href="mailto:a@a.example">a@a.example</a>', "a@a.example"),
    "an address with a name": ('Or <a href="mailto:b@a.example">Bob</a>', "Or Bob <b@a.example>"),
    "to a place in the mail": ('<a href="#top">Up</a>', "Up"),
    "around an image": ('See <a href="https://a.example"><img src="x" alt="our shop"></a>!', "See our shop <https://a.example>!"),
}  # fmt: skip


@pytest.mark.parametrize(("html", "text"), LINKS.values(), ids=LINKS)
def test_a_link_becomes_text_with_its_url(html: str, text: str) -> None:
    assert plain_text(html) == text + "\n"


BLOCKS = {
    "headings": ("<h1>One</h1><p>a</p><h2>Two</h2><h3>Three</h3><p>b</p>", "One\n===\n\na\n\nTwo\n---\n\nThree\n\nb"),
    "a heading of two lines": ("<h1>One<br>and <b>two</b></h1>a", "One\nand two\n=======\n\na"),
    "an empty heading": ("<h1> </h1>a", "a"),
    "quotes and code in a list": ("<ul><li><blockquote>d</blockquote></li><li>e<pre>x\n  y</pre></li></ul>",
                                  "* > d\n\n* e\n\n  x\n    y"),
    "a line break": ("<p>a<br>b</p>", "a\nb"),
    "a rule": ("<p>a</p><hr><p>b</p>", f"a\n\n{'-' * 24}\n\nb"),
    "lists": ("<p>a</p><ul><li>b</li><li>c<ol><li>d</li><li>e</li></ol></li></ul><p>f</p>",
              "a\n\n* b\n* c\n  1. d\n  2. e\n\nf"),
    "a quote": ("<blockquote><p>a</p><blockquote>b<br>c</blockquote></blockquote>d", "> a\n>\n> > b\n> > c\n\nd"),
    "code": ("<pre>def f():\n\n    return '&lt;'  # &amp;amp;</pre>", "def f():\n\n    return '<'  # &amp;"),
    "an image": ('<p><img src="x" alt="A cat"> and <img src="y" alt=""></p>', "[A cat] and"),
    "hidden elements": ('<p>a<span style="display: none">b</span></p><div hidden>c</div><i aria-hidden="true">d</i>', "a"),
    "a preheader": ('<div style="font-size:0px; line-height: 0">b</div><p style="max-height:0;overflow:hidden">c</p>'
                    '<p style="opacity: 0 !important">d</p><p style="font-size: 0.9em; opacity: .5">a</p>', "a"),
    "padding behind a preheader": (f"<p>a</p><div>{'&#847;&zwnj;&nbsp;' * 40}</div><p>b{'&#8203;&shy; ' * 9}</p>", "a\n\nb"),
    "joiners inside words": ("<p>می&zwnj;خواهم 👨&zwj;👩&zwj;👧</p>", "می\u200cخواهم 👨\u200d👩\u200d👧"),
    "elements with data-text=no": ('<p>a</p><p data-text="no">b</p>', "a"),
    "a comment for Outlook": ("<p>a</p><!--[if mso]><p>b</p><![endif]--><p>c</p>", "a\n\nc"),
    "a table for layout": ('<table role="presentation"><tr><td><table role="presentation"><tr><td>&nbsp;</td></tr></table>'
                           "<p>a</p></td></tr><tr><td>b</td><td>c</td></tr></table>", "a\n\nb c"),
    "hidden only in Outlook": ('<a style="mso-hide: all" href="https://a.example">Pay</a>', "Pay:\nhttps://a.example"),
    "entities": ("<p>&amp;lt;b&amp;gt; &amp;amp; &lt;i&gt; &eacute;</p>", "&lt;b&gt; &amp; <i> é"),
    "an empty body": ("<!DOCTYPE html><html><head><title>x</title><style>p { }</style></head><body></body></html>", ""),
    "no body": ("<!-- x -->", ""),
}  # fmt: skip


@pytest.mark.parametrize(("html", "text"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_becomes_text(html: str, text: str) -> None:
    assert plain_text(inline_css(html)) == text + "\n"


def test_table_columns_are_aligned_in_every_script() -> None:
    rows = [("Item", "Price"), ("กาแฟเย็น", "1.00"), ("日本", "1,000.00"), ("שלום", "2.00"), ("Tea<br>green", "3.00")]
    cells = "".join(f"<tr><td>{item}</td><td align=right>{price}</td></tr>" for item, price in rows)

    text = plain_text(f"<table><caption>Order</caption>{cells}</table>")

    assert text.splitlines() == [
        "Order",
        "",
        "Item        Price",
        "กาแฟเย็น      1.00",  # one of its marks has no width
        "日本     1,000.00",
        "שלום         2.00",
        "Tea          3.00",
        "green",
    ]


def test_a_wide_table_wraps_its_widest_column_and_one_that_cannot_wrap_is_written_in_lines() -> None:
    words = "word " * 20

    wide = plain_text(f"<table><tr><td>{words}</td><td>1.00</td></tr></table>").splitlines()
    unwrappable = plain_text(f"<table><tr><td>{'a' * 60}</td><td>{'b' * 60}</td></tr></table>").splitlines()

    assert len(wide) == 2
    assert wide[0].endswith("  1.00")
    assert max(map(len, wide)) <= WIDTH
    assert unwrappable == ["a" * 60, "b" * 60]


@given(
    words=st.lists(
        st.sampled_from(["a", "word", "ไม่มีช่องว่าง" * 9, "https://a.example/" + "x" * 90]), min_size=1, max_size=60
    )
)
def test_lines_are_wrapped_between_words_and_never_inside_a_url(words: list[str]) -> None:
    text = plain_text(f"<ul><li>{' '.join(words)}</li></ul>")

    assert text.split() == ["*", *words]
    for line in text.splitlines():
        assert len(line) <= WIDTH or len(line.split()) <= 2 or "ไ" in line


@pytest.mark.parametrize("kind", [*SHIPPED, Showcase])
@pytest.mark.parametrize("language", ["en", "th", "he"])
@pytest.mark.usefixtures("showcase_templates")
def test_the_text_of_every_mail_contains_the_words_and_links_of_its_html(kind: type[Email], language: str) -> None:
    html = templates.render(kind.sample(), Recipient("ann@example.com", "Ann", language)).html
    text = plain_text(html)

    soup = BeautifulSoup(html, "lxml")
    for hidden in soup.select("[data-text=no], .preheader, title"):
        hidden.decompose()
    words = text.split()
    for element in soup(["h1", "h2", "p", "li", "td", "th", "pre", "blockquote"]):
        if not element.find(True):
            assert [word for word in element.text.split() if word not in words] == []
    for link in soup("a"):
        assert text.count(str(link["href"])) >= 1
    assert "\n\n\n" not in text
    assert not re.search(r"[ \t]\n|\u034f|\xa0|[{}]{2}", text)
    if language == "en":
        assert max(len(line) for line in text.splitlines() if line.isascii() and "://" not in line) <= WIDTH


TAGS = ["p", "b", "a href=x:y", "h1", "h3", "ul", "ol", "li", "blockquote", "pre", "table", "tr", "td", "th", "br", "hr",
        "div", "table role=presentation", "td align=right", "img alt=word", "caption", "thead", "tbody"]  # fmt: skip


@hsettings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from([*TAGS, *(f"/{tag.split()[0]}" for tag in TAGS), "word "]), max_size=40))
@example(parts=["table", "tr", "td", "table", "tr", "td", "word ", "/table", "blockquote", "word ", "ul", "word "])
@example(parts=["ul", "li", "table", "caption", "word ", "table role=presentation", "td", "word "])
def test_no_word_is_lost_from_broken_html(parts: list[str]) -> None:
    html = inline_css("".join(part if part == "word " else f"<{part}>" for part in parts))

    text, shown = plain_text(html), BeautifulSoup(html, "lxml")

    assert text.count("word") >= shown.text.count("word") + len(shown("img"))
    assert FINISHED not in text
