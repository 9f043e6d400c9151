"""Write the reference pages: `make docs`. They are made from docstrings, settings and commands."""

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import griffe
import griffe2md

from mailer.conf import Options

DOCS = Path(__file__).parent
ROOT = DOCS.parent
COMMANDS = [ROOT / app / "management" / "commands" for app in ("accounts", "mailer")]

VARIABLE = re.compile(r"# ([A-Z_]+)=(.*)")
"""A variable in .env.example. Lines before it, and indented lines after it, explain it."""

API = {
    "mailer.email": ["Email", "Recipient", "Stream", "WhenUncertain"],
    "mailer.attachments": ["Attachment", "StoredFile"],
    "mailer.outbox": ["enqueue", "enqueue_many", "cancel", "resend", "retry", "cancel_all", "messages_of", "is_slow"],
    "mailer.signals": ["message_settled"],
    "mailer.testing.outbox": ["Outbox", "Mail"],
}
GRIFFE_OPTIONS: dict[str, Any] = {
    "summary": False,
    "show_signature_annotations": True,
    "members_order": "source",
    "show_root_full_path": True,
    "show_root_members_full_path": False,
    "show_object_full_path": False,
    "line_length": 120,
}

REFERENCE = """# Reference: the API

`make docs` makes this page from the docstrings.

{objects}
"""
SETTINGS = """# Reference: settings

`make docs` makes this page from `mailer/conf.py` and `.env.example`.

## The mailer

In a project of your own: `settings.POSTCOMMIT = {{"RETENTION_DAYS": 30}}`. In this project: the environment variable
`POSTCOMMIT_RETENTION_DAYS=30`. `manage.py check --tag postcommit` names a value that is not usable, and web processes and
workers do not start with one.

| setting | default | meaning |
| --- | --- | --- |
{options}

## Environment variables of this project

They come from the environment, or from a file `.env`; the environment wins. `make start` needs none of them.

{variables}
"""
COMMANDS_PAGE = """# Reference: commands

`make docs` makes this page. In a checkout, `manage.py` is `.venv/bin/python manage.py`.
`make` without a target lists the targets of make.

| manage.py | arguments | what it does |
| --- | --- | --- |
{commands}
"""


def reference() -> str:
    """Return the page about the API."""
    options = griffe2md.default_config | GRIFFE_OPTIONS
    mailer = griffe.load("mailer", search_paths=[ROOT])
    sections = [
        griffe2md.render_object_docs(mailer[module.partition(".")[2]][name], options)
        for module, names in API.items()
        for name in names
    ]
    return REFERENCE.format(objects="\n\n".join(section.strip() for section in sections))


def settings() -> str:
    """Return the page about the settings."""
    documented = griffe.load("mailer.conf", search_paths=[ROOT])["Options"].attributes
    options = [
        _row(f"`{field.name.upper()}`", _default(field), _meaning(field, documented[field.name].docstring.value))
        for field in dataclasses.fields(Options)
    ]
    example = (ROOT / ".env.example").read_text().partition("# --- The mailer")[0]
    return SETTINGS.format(options="\n".join(options), variables="\n\n".join(_groups(example)))


def _default(field: "dataclasses.Field[Any]") -> str:
    default = field.default
    if isinstance(default, timedelta):
        return f"{default.total_seconds():g} s"
    return f"`{default}`" if default else "none"


def _meaning(field: "dataclasses.Field[Any]", docstring: str) -> str:
    if get_origin(field.type) is not None and all(isinstance(value, str) for value in get_args(field.type)):
        docstring += f" One of {', '.join(f'`{value}`' for value in get_args(field.type))}."
    return docstring


def _groups(example: str) -> Iterator[str]:
    """Yield a table for each group of variables in .env.example."""
    for group in example.split("# --- ")[1:]:
        title, *blocks = group.split("\n\n")
        rows = [_variable_row(block.splitlines()) for block in blocks if block.strip()]
        yield "\n".join(
            [f"### {title.strip(' -')}", "", "| variable | value | meaning |", "| --- | --- | --- |", *rows]
        )


def _variable_row(lines: list[str]) -> str:
    variables = [match.groups() for line in lines if (match := VARIABLE.match(line))]
    text = " ".join(line.lstrip("# ") for line in lines if not line.startswith("#   ") and not VARIABLE.match(line))
    also = " ".join(line.lstrip("# ") for line in lines if line.startswith("#   "))
    values = [f"`{value}`" if value else "" for _, value in variables]
    return _row(
        "<br>".join(f"`{name}`" for name, _ in variables), "<br>".join(values), f"{text} {also[:1].upper()}{also[1:]}"
    )


def commands() -> str:
    """Return the page about the management commands."""
    rows = [
        _command_row(path) for path in sorted((p for f in COMMANDS for p in f.glob("[!_]*.py")), key=lambda p: p.name)
    ]
    return COMMANDS_PAGE.format(commands="\n".join(rows))


def _command_row(path: Path) -> str:
    tree = ast.parse(path.read_text())
    helps = (n.value for n in ast.walk(tree) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "help")
    calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func).endswith(".add_argument"))
    arguments = [_argument(call) for call in calls]
    return _row(f"`{path.stem}`", ", ".join(arguments), ast.literal_eval(next(helps)))


def _argument(call: ast.Call) -> str:
    metavar = next((keyword.value for keyword in call.keywords if keyword.arg == "metavar"), call.args[0])
    name = call.args[0] if ast.literal_eval(call.args[0]).startswith("-") else metavar
    return f"`{ast.literal_eval(name)}`"


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


PAGES: dict[Path, Callable[[], str]] = {
    DOCS / "reference.md": reference,
    DOCS / "settings.md": settings,
    DOCS / "commands.md": commands,
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        page.write_text(make())
