"""Every text that users see has a translation in each language."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.utils.translation import trans_real
from django.utils.translation.template import templatize

PROJECT = Path(settings.BASE_DIR)
OURS = ("accounts", "mailer")
FUNCTIONS = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "pgettext", "npgettext"}
CALL_IN_A_TEMPLATE = re.compile(
    r"""\b(?:gettext|ngettext|pgettext)\(u?((?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))""", re.DOTALL
)
OTHERS = [code for code, _ in settings.LANGUAGES if code != settings.LANGUAGE_CODE]


def in_python(source: str) -> Iterator[str]:
    """Find the texts that Python code translates."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def in_template(source: str) -> Iterator[str]:
    """Find the texts that a template translates, as makemessages does."""
    for call in CALL_IN_A_TEMPLATE.findall(templatize(source)):
        yield ast.literal_eval(call)


def texts() -> dict[str, str]:
    """Return each text with a file that contains it."""
    found: dict[str, str] = {}
    for app in OURS:
        for file in (PROJECT / app).rglob("*.py"):
            found |= dict.fromkeys(in_python(file.read_text()), str(file.relative_to(PROJECT)))
    for file in [*(PROJECT / "templates").rglob("*.*"), *(PROJECT / "mailer" / "templates").rglob("*.*")]:
        if "admin" not in file.parts:
            found |= dict.fromkeys(in_template(file.read_text()), str(file.relative_to(PROJECT)))
    return found


def test_texts_are_found() -> None:
    template = "{% load i18n %}{% translate 'One' %}{% blocktranslate trimmed %}\n Two {{ x }}\n{% endblocktranslate %}"

    assert list(in_template(template)) == ["One", "Two %(x)s"]
    assert list(in_python('_("One")\nx(_("Two"))')) == ["One", "Two"]
    assert len(texts()) > 150


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_is_translated(language: str) -> None:
    catalogue = trans_real.translation(language)

    missing = {
        text: file
        for text, file in texts().items()
        if catalogue.gettext(text) == text and catalogue._catalog.get((text, catalogue.plural(1))) is None  # type: ignore[attr-defined]
    }

    assert missing == {}
