"""The HTML of a mail → its plain text, for a kind of e-mail that brings no `body.txt`.

inscriptis lays out paragraphs and lists. What it does not do, or not well enough for a letter, is written into the tree
before: links, pictures, headings, quotes, tables whose columns are right in every script, and no layout tables.
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
"""Where lines are wrapped, in columns of a terminal; 78 is what RFC 5322 recommends, and answers add `> ` in front."""

FINISHED = "\ue000"  # private use: begins a line that must stay as it is
NARROWEST = 16
"""The columns that a column of a table is given at the least."""

UNBROKEN = 100_000
"""A width that nothing reaches."""

BLANKS = re.compile(r"[\t\n\f\r \xa0\u2007]+")
HIDDEN = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
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
    """Returns the text of a document whose CSS is inlined: only then can be seen what is hidden. It ends with a line break.

    A link becomes `label <https://…>`, or two lines where it stands alone; no target is lost, and none is said twice.
    What bears `data-text="no"` is left out, as is what is hidden.
    """
    body = document_fromstring(html.replace(FINISHED, "")).find("body")
    if body is None:
        return "\n"
    for prepare in (
        _drop_what_is_hidden,
        _unmake_layout_tables,
        _write_pictures,
        _write_links,
        _write_lines,
        _set_lists_apart,
    ):
        prepare(body)
    return _laid_out(body, WIDTH) + "\n"


def _laid_out(element: HtmlElement, width: int) -> str:
    _write_blocks(element, width)
    for each in element.iter():
        # inscriptis decodes entities, which lxml has done before
        each.text, each.tail = _encoded(each.text), _encoded(each.tail)
    text = Inscriptis(element, ParserConfig(css=CSS)).get_text()
    lines = [line for raw in text.split("\n") for line in _wrapped(raw, width)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _encoded(text: str | None) -> str | None:
    return text.replace("&", "&amp;") if text else text


# --- Inside paragraphs -----------------------------------------------------------------------------------------------


def _drop_what_is_hidden(root: HtmlElement) -> None:
    for element in list(root.iter()):
        if not isinstance(element.tag, str) or (
            element is not root
            and (
                HIDDEN.search(element.get("style", ""))
                or element.get("aria-hidden") == "true"
                or element.get("hidden") is not None
                or element.get("data-text") == "no"
            )
        ):  # a comment: Outlook's conditional ones as well
            element.drop_tree()
        else:
            element.attrib.pop("style", None)  # inscriptis would make lines of margins in pixels


def _unmake_layout_tables(root: HtmlElement) -> None:
    for table in list(root.iter("table")):
        if table.get("role") in ("presentation", "none"):
            for part in _parts_of(table):
                alone = part.tag not in ("td", "th") or len(part.getparent()) == 1
                part.tail = part.tail if alone else " " + (part.tail or "")
                part.tag = "div" if alone else "span"
            table.tag = "div"


def _parts_of(table: HtmlElement) -> list[HtmlElement]:
    """Its groups, rows and cells, without those of tables inside."""
    parts = [part for part in table if part.tag != "table"]
    return parts + [
        inner for part in parts if part.tag in ("tbody", "thead", "tfoot", "tr") for inner in _parts_of(part)
    ]


def _write_pictures(root: HtmlElement) -> None:
    for image in list(root.iter("img")):
        alt = _squeezed(image.get("alt", ""))
        only_child = image.getparent().tag == "a" and not _squeezed(image.getparent().text_content())
        _become(image, alt if only_child or not alt else f"[{alt}]")


def _write_links(root: HtmlElement) -> None:
    for link in list(root.iter("a")):
        target, label = _shown(link.get("href", "").strip()), _squeezed(link.text_content())
        if not target or target.startswith("#"):
            continue
        if label in ("", target, re.sub(r"^https?://|/$", "", target)):
            _become(link, target)
        elif _stands_alone(link):
            _append(link, "" if label[-1] in ":.?!" else ":", below=target)
        else:
            _append(link, f" <{target}>")


def _shown(target: str) -> str:
    return target.removeprefix("mailto:") if "?" not in target else target


def _stands_alone(link: HtmlElement) -> bool:
    """Whether nothing but the link is in its block, as in a button."""
    block = next(each for each in link.iterancestors() if each.tag not in INLINE)
    return _squeezed(link.text_content()) == _squeezed(block.text_content())


def _append(element: HtmlElement, text: str, below: str = "") -> None:
    etree.SubElement(element, "span").text = text
    if below:
        etree.SubElement(element, "br").tail = below


def _write_lines(root: HtmlElement) -> None:
    for line in list(root.iter("hr")):
        line.tag, line.text = "p", "-" * 24


def _set_lists_apart(root: HtmlElement) -> None:
    """A margin of the list itself would go to each of its items."""
    for each in list(root.iter("ul", "ol")):
        if not any(True for _ in each.iterancestors("li")):
            around = etree.Element("section")
            around.tail, each.tail = each.tail, None
            each.getparent().replace(each, around)
            around.append(each)


# --- Blocks ----------------------------------------------------------------------------------------------------------


def _write_blocks(root: HtmlElement, width: int) -> None:
    """Replaces headings, quotes, preformatted text and tables by finished lines, the innermost ones first."""
    for block in list(root.iterdescendants(*BLOCKS))[::-1]:
        write = BLOCKS[block.tag]
        _become_lines(block, write(block, width))


def _heading(heading: HtmlElement, width: int) -> list[str]:
    underline = UNDERLINES.get(str(heading.tag))
    lines = _inside(heading, width)
    return [*lines, underline * max(map(_columns, lines))] if underline and any(lines) else lines


def _quote(quote: HtmlElement, width: int) -> list[str]:
    return [f"> {line}".rstrip() for line in _inside(quote, width - 2)]


def _preformatted(pre: HtmlElement, _: int) -> list[str]:
    for line_break in list(pre.iter("br")):
        _become(line_break, "\n")
    text: str = pre.text_content().replace(FINISHED, "")
    return text.strip("\n").split("\n")


def _table(table: HtmlElement, width: int) -> list[str]:
    """Columns two blanks apart, the widest one wrapped if need be; or, where they do not fit even so, one line a cell."""
    caption = table.find("caption")
    title = [] if caption is None else [*_inside(caption, width), ""]
    cells = [[cell for cell in row if cell.tag in ("td", "th")] for row in table.iter("tr")]
    rows = [[_inside(cell, UNBROKEN) for cell in row] for row in cells]
    excess = _width_of(_widths(rows)) - width
    if excess > 0:
        widths = _widths(rows)
        widest = max(range(len(widths)), key=widths.__getitem__)
        size = max(widths[widest] - excess, NARROWEST)
        rows = [
            [list(_rewrapped(lines, size)) if number == widest else lines for number, lines in enumerate(row)]
            for row in rows
        ]
    widths = _widths(rows)
    if _width_of(widths) > width:
        return title + [line for row in rows for lines in [*row, [""]] for line in _rewrapped(lines, width)]
    return title + [
        "  ".join(_padded(*each) for each in zip(parts, widths, [cell.get("align") for cell in row], strict=False))
        for row, lines in zip(cells, rows, strict=True)
        for parts in zip_longest(*lines, fillvalue="")
    ]


def _widths(rows: list[list[list[str]]]) -> list[int]:
    columns = zip_longest(*rows, fillvalue=[""])
    return [max(_columns(line) for lines in column for line in lines) for column in columns]


def _width_of(widths: list[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _rewrapped(lines: list[str], width: int) -> Iterator[str]:
    for line in lines:
        yield from _wrapped(line, width)


BLOCKS: dict[str, Callable[[HtmlElement, int], list[str]]] = {
    **{f"h{level}": _heading for level in range(1, 7)},
    "blockquote": _quote,
    "pre": _preformatted,
    "table": _table,
}


def _inside(element: HtmlElement, width: int) -> list[str]:
    """The finished lines of an element that is laid out by itself."""
    tail, element.tail, element.tag = element.tail, None, "div"
    lines = _laid_out(element, width).split("\n")
    element.tail = tail
    return lines


def _become_lines(element: HtmlElement, lines: list[str]) -> None:
    _become(element, "\n".join(FINISHED + line for line in lines))
    element.tag = "pre"


def _become(element: HtmlElement, text: str) -> None:
    """The element keeps its place and holds nothing but text."""
    tail = element.tail
    element.clear()
    element.tag, element.text, element.tail = "span", text, tail


# --- Lines -----------------------------------------------------------------------------------------------------------


def _squeezed(text: str) -> str:
    return BLANKS.sub(" ", text).strip()


def _wrapped(line: str, width: int) -> Iterator[str]:
    """Breaks between words alone: an address stays whole, and so does Thai, which has no blanks between its words."""
    indent, finished, text = line.partition(FINISHED)
    if finished:
        yield (indent + text).rstrip()
        return
    indent = " " * (len(line) - len(line.lstrip(" ")))
    bullet = BULLET.match(line.lstrip(" "))
    hanging, current = indent + " " * (bullet.end() if bullet else 0), indent
    for number, word in enumerate(_squeezed(line).split(" ")):
        if number and _columns(current) + 1 + _columns(word) > width:
            yield current
            current = hanging + word
        else:
            current += (" " if number else "") + word
    yield current.rstrip()


def _columns(text: str) -> int:
    """How wide it is where each character has one column: marks above and below have none, East Asian ones two."""
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def _padded(text: str, width: int, align: str | None) -> str:
    blanks = " " * (width - _columns(text))
    return blanks + text if align == "right" else text + blanks
