"""Links in a plain text."""

import pytest

from local.inbox.markup import linked

LINKS = [
    ("see https://example.com.", "https://example.com"),
    ("(https://example.com/a_(b))", "https://example.com/a_(b)"),
    ("<https://example.com/a>", "https://example.com/a"),
    ('"https://example.com/a", and', "https://example.com/a"),
    ("https://example.com/a?b=1&c=%2F~x#d-e_", "https://example.com/a?b=1&amp;c=%2F~x#d-e_"),
    ("HTTP://EXAMPLE.COM/ä!", "HTTP://EXAMPLE.COM/ä"),
    ("https://example.com/a'b", "https://example.com/a&#x27;b"),
]


@pytest.mark.parametrize(("text", "href"), LINKS)
def test_a_url_is_linked_unchanged(text: str, href: str) -> None:
    assert f'<a href="{href}" target="_blank" rel="noopener noreferrer">{href}</a>' in linked(text)


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "data:text/html,x", "example.com", "https://", "a@example.com"]
)
def test_other_text_is_not_linked(text: str) -> None:
    assert "<a" not in linked(text)


def test_the_rest_is_escaped() -> None:
    assert linked("<b> https://a.example <i>&") == (
        '&lt;b&gt; <a href="https://a.example" target="_blank" rel="noopener noreferrer">https://a.example</a> &lt;i&gt;&amp;'
    )
