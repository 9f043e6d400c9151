"""Convert the HTML of a mail to plain text, for a kind of e-mail without `body.txt`.

inscriptis lays out paragraphs and lists. The rest is converted in the tree before: links, images, headings, quotes, data
tables (with columns aligned in every script) and layout tables.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import zip_longest

from inscriptis.css_profiles import STRICT_CSS_PROFILE
from inscriptis.html_engine import Inscriptis
from inscriptis.html_properties import Display
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_element import HtmlElement as Layout
from lxml import etree
from lxml.html import HtmlElement, document_fromstring

WIDTH = 72
"""Lines are wrapped here, in terminal columns: RFC 5322 recommends at most 78, and replies add `> `."""

FINISHED = "\ue000"  # private use: marks the start of a line that must not change
NARROWEST = 16
"""The minimum width of a wrapped table column."""
UNBROKEN = 100_000
"""A width that no line reaches."""

BLANKS = re.compile(r"[\t\n\f\r \xa0\u2007]+")
HIDDEN = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden"
    r"|(?:font-size|max-height|opacity)\s*:\s*0*\.?0*(?:px|em|rem|pt|%)?\s*(?:!important\s*)?(?:;|$))",
    re.IGNORECASE,
)
"""How senders hide the text for the list of an inbox, a preheader."""
PADDING = re.compile(r"(?:[\u034f\u00ad\u200b-\u200f\u2007\u2060\ufeff]\s*){4,}")
"""Characters without a width that follow a preheader, so that a client shows nothing after it. A few stand in words."""
BULLET = re.compile(r"(?:[*+o-]|\d+\.) ")
INLINE = ("b", "strong", "i", "em", "u", "s", "span", "font", "small", "big", "bdi", "code")
UNDERLINES = {"h1": "=", "h2": "-"}
CSS = STRICT_CSS_PROFILE | {
    "ul": Layout(display=Display.block, padding_inline=2),
    "ol": Layout(display=Display.block, padding_inline=3),
    "section": Layout(display=Display.block, margin_before=1, margin_after=1),
    "pre": Layout(
        display=Display.block, margin_before=1, margin_after=1, whitespace=STRICT_CSS_PROFILE["pre"].whitespace
    ),
}


def plain_text(html: str) -> str:
    """Return the text of a document, with a line break at the end. Its CSS must be inlined, to know what is hidden.

    A link becomes `label <https://…>`, or two lines if it is alone in its block; each target appears once. Hidden elements
    and those with `data-text="no"` are left out.
    """
    body = document_fromstring(html.replace(FINISHED, "")).find("body")
    if body is None:
        return "\n"
    _remove_hidden(body)
    _flatten_layout_tables(body)
    _replace_images(body)
    _replace_links(body)
    for rule in body.iter("hr"):
        rule.tag, rule.text = "p", "-" * 24
    _wrap_lists(body)
    return _lay_out(body, WIDTH) + "\n"


def _lay_out(element: HtmlElement, width: int) -> str:
    _replace_blocks(element, width)
    for each in element.iter():
        # inscriptis decodes entities a second time, after lxml
        each.text, each.tail = (text and PADDING.sub("", text).replace("&", "&amp;") for text in (each.text, each.tail))
    text = Inscriptis(element, ParserConfig(css=CSS)).get_text()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_wrap_all(text.split("\n"), width))).strip("\n")


# --- Inside paragraphs -----------------------------------------------------------------------------------------------


def _remove_hidden(root: HtmlElement) -> None:
    for element in list(root.iter()):
        is_comment = not isinstance(element.tag, str)  # also Outlook's conditional comments
        if is_comment or (element is not root and _is_hidden(element)):
            element.drop_tree()
        else:
            element.attrib.pop("style", None)  # inscriptis would turn margins in pixels into lines


def _is_hidden(element: HtmlElement) -> bool:
    return (
        HIDDEN.search(element.get("style", "")) is not None
        or element.get("aria-hidden") == "true"
        or element.get("hidden") is not None
        or element.get("data-text") == "no"
    )


def _flatten_layout_tables(root: HtmlElement) -> None:
    for table in list(root.iter("table")):
        if table.get("role") in ("presentation", "none"):
            for part in _parts_of(table):
                alone = part.tag not in ("td", "th") or len(part.getparent()) == 1
                part.tail = part.tail if alone else " " + (part.tail or "")
                part.tag = "div" if alone else "span"
            table.tag = "div"


def _parts_of(table: HtmlElement) -> list[HtmlElement]:
    """Return groups, rows and cells of a table, without those of nested tables."""
    parts = [part for part in table if part.tag != "table"]
    return parts + [
        inner for part in parts if part.tag in ("tbody", "thead", "tfoot", "tr") for inner in _parts_of(part)
    ]


def _replace_images(root: HtmlElement) -> None:
    for image in list(root.iter("img")):
        alt = _collapse_spaces(image.get("alt", ""))
        only_child = image.getparent().tag == "a" and not _collapse_spaces(image.getparent().text_content())
        _replace_content(image, alt if only_child or not alt else f"[{alt}]")


def _replace_links(root: HtmlElement) -> None:
    for link in list(root.iter("a")):
        target, label = link.get("href", "").strip(), _collapse_spaces(link.text_content())
        target = target if "?" in target else target.removeprefix("mailto:")
        if not target or target.startswith("#"):
            continue
        if label in ("", target, re.sub(r"^https?://|/$", "", target)):
            _replace_content(link, target)
        elif _is_alone_in_block(link):
            _append(link, "" if label[-1] in ":.?!" else ":", below=target)
        else:
            _append(link, f" <{target}>")


def _is_alone_in_block(link: HtmlElement) -> bool:
    """Return whether the block contains only the link, as in a button."""
    block = next(each for each in link.iterancestors() if each.tag not in INLINE)
    return _collapse_spaces(link.text_content()) == _collapse_spaces(block.text_content())


def _append(element: HtmlElement, text: str, below: str = "") -> None:
    etree.SubElement(element, "span").text = text
    if below:
        etree.SubElement(element, "br").tail = below


def _wrap_lists(root: HtmlElement) -> None:
    """Put each outer list into a section with a margin; inscriptis would apply a list's margin to each item."""
    for each in list(root.iter("ul", "ol")):
        if not any(True for _ in each.iterancestors("li")):
            section = etree.Element("section")
            section.tail, each.tail = each.tail, None
            each.getparent().replace(each, section)
            section.append(each)


# --- Blocks ----------------------------------------------------------------------------------------------------------


def _replace_blocks(root: HtmlElement, width: int) -> None:
    """Replace headings, quotes, preformatted text and tables by finished lines, the innermost first."""
    for block in list(root.iterdescendants(*BLOCKS))[::-1]:
        lines = BLOCKS[block.tag](block, width)
        _replace_content(block, "\n".join(FINISHED + line for line in lines), tag="pre")


def _heading(heading: HtmlElement, width: int) -> list[str]:
    underline = UNDERLINES.get(str(heading.tag))
    lines = _lines_of(heading, width)
    return [*lines, underline * max(map(_columns, lines))] if underline and any(lines) else lines


def _quote(quote: HtmlElement, width: int) -> list[str]:
    return [f"> {line}".rstrip() for line in _lines_of(quote, width - 2)]


def _preformatted(pre: HtmlElement, _: int) -> list[str]:
    for line_break in list(pre.iter("br")):
        _replace_content(line_break, "\n")
    text: str = pre.text_content().replace(FINISHED, "")
    return text.strip("\n").split("\n")


def _table(table: HtmlElement, width: int) -> list[str]:
    """Write columns two spaces apart, with the widest one wrapped if needed; or one cell per line if they do not fit."""
    caption = table.find("caption")
    title = [] if caption is None else [*_lines_of(caption, width), ""]
    cells = [[cell for cell in row if cell.tag in ("td", "th")] for row in table.iter("tr")]
    rows = [[_lines_of(cell, UNBROKEN) for cell in row] for row in cells]
    widths = _widths(rows)
    if (excess := _total(widths) - width) > 0:
        widest = max(range(len(widths)), key=widths.__getitem__)
        size = max(widths[widest] - excess, NARROWEST)
        rows = [
            [list(_wrap_all(lines, size)) if number == widest else lines for number, lines in enumerate(row)]
            for row in rows
        ]
        widths = _widths(rows)
    if _total(widths) > width:
        return title + [line for row in rows for lines in [*row, [""]] for line in _wrap_all(lines, width)]
    return title + [
        "  ".join(_pad(*each) for each in zip(parts, widths, [cell.get("align") for cell in row], strict=False))
        for row, lines in zip(cells, rows, strict=True)
        for parts in zip_longest(*lines, fillvalue="")
    ]


def _widths(rows: list[list[list[str]]]) -> list[int]:
    columns = zip_longest(*rows, fillvalue=[""])
    return [max(_columns(line) for lines in column for line in lines) for column in columns]


def _total(widths: list[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


BLOCKS: dict[str, Callable[[HtmlElement, int], list[str]]] = {
    **{f"h{level}": _heading for level in range(1, 7)},
    "blockquote": _quote,
    "pre": _preformatted,
    "table": _table,
}


def _lines_of(element: HtmlElement, width: int) -> list[str]:
    """Lay out an element separately and return its lines."""
    tail, element.tail, element.tag = element.tail, None, "div"
    lines = _lay_out(element, width).split("\n")
    element.tail = tail
    return lines


def _replace_content(element: HtmlElement, text: str, tag: str = "span") -> None:
    """Turn the element into one that contains only this text, at the same position."""
    tail = element.tail
    element.clear()
    element.tag, element.text, element.tail = tag, text, tail


# --- Lines -----------------------------------------------------------------------------------------------------------


def _collapse_spaces(text: str) -> str:
    return BLANKS.sub(" ", text).strip()


def _wrap_all(lines: list[str], width: int) -> Iterator[str]:
    for line in lines:
        yield from _wrap(line, width)


def _wrap(line: str, width: int) -> Iterator[str]:
    """Break a line only at spaces, so that URLs stay whole. Thai, which has no spaces between words, stays whole too."""
    indent, finished, text = line.partition(FINISHED)
    if finished:
        yield (indent + text).rstrip()
        return
    indent = " " * (len(line) - len(line.lstrip(" ")))
    bullet = BULLET.match(line.lstrip(" "))
    hanging, current = indent + " " * (bullet.end() if bullet else 0), indent
    for number, word in enumerate(_collapse_spaces(line).split(" ")):
        if number and _columns(current) + 1 + _columns(word) > width:
            yield current
            current = hanging + word
        else:
            current += (" " if number else "") + word
    yield current.rstrip()


def _columns(text: str) -> int:
    """Return the width in a terminal: combining marks have no column, wide East Asian characters two."""
    if text.isascii():  # most words, and this counts each word of a text
        return len(text)
    visible = [character for character in text if unicodedata.category(character) not in ("Mn", "Me", "Cf")]
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in visible)


def _pad(text: str, width: int, align: str | None) -> str:
    blanks = " " * (width - _columns(text))
    return blanks + text if align == "right" else text + blanks
