from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string

from mailer.composing import previews
from mailer.composing.previews import NoPreview, Preview
from mailer.email import UnknownKind

FORMATS: dict[str, tuple[str, Callable[[Preview], bytes]]] = {
    "text": (".txt", lambda preview: preview.text.encode()),
    "html": (".html", lambda preview: preview.page.encode()),
    "raw": (".eml", lambda preview: preview.source),
}
"""What can be asked for, with the ending of its files and its bytes."""


class Command(BaseCommand):
    help = (
        "Shows an e-mail as it would look, made from its sample: no database, no mail server, nothing is sent. "
        "Without options it prints header and text; with --all it writes every kind in every language into a folder."
    )

    requires_system_checks = ()  # they would stop at another kind that is broken, and here it is this one that is asked for

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", nargs="?", metavar="KIND", help="such as accounts.VerifyAddress, or VerifyAddress")
        parser.add_argument("--language", choices=previews.languages(), help="the site's, unless it is given")
        parser.add_argument("--format", choices=list(FORMATS), help="print this, and nothing else")
        parser.add_argument(
            "--output", type=Path, metavar="PATH", help="write a file (or .txt, .html, .eml into a folder)"
        )
        parser.add_argument("--list", action="store_true", help="list the kinds")
        parser.add_argument(
            "--all", action="store_true", help="every kind and language, with an index.html (./previews)"
        )

    def handle(self, *args: Any, kind: str | None, **options: Any) -> None:
        if sum(map(bool, (kind, options["list"], options["all"]))) != 1:
            raise CommandError("Say which: KIND, --all, or --list to see what there is.")
        try:
            if options["list"]:
                self._list()
            elif options["all"]:
                self._write_all(options["output"] or Path("previews"), options["language"])
            else:
                self._show(previews.preview(previews.find(str(kind)), options["language"]), **options)
        except UnknownKind as error:
            raise CommandError(str(error)) from None
        except NoPreview as error:
            raise CommandError(f"{kind} cannot be shown: {error}") from None
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None

    def _list(self) -> None:
        kinds = previews.all_kinds()
        width = max((len(kind.kind) for kind in kinds), default=0)
        for kind in kinds:
            self.stdout.write(f"{kind.kind:<{width}}  {previews.summary(kind)}")

    def _show(self, preview: Preview, *, format: str | None, output: Path | None, **_: Any) -> None:  # noqa: A002
        if output is None:
            self.stdout.write(
                _as_text(preview) if format is None else FORMATS[format][1](preview).decode("utf-8", "replace")
            )
        elif output.is_dir() or not output.suffix:
            for path in _write(preview, output, [format] if format else list(FORMATS)):
                self.stdout.write(str(path))
        else:
            of_suffix = next((name for name, (suffix, _) in FORMATS.items() if suffix == output.suffix), "raw")
            output.write_bytes(FORMATS[format or of_suffix][1](preview))
            self.stdout.write(str(output))

    def _write_all(self, folder: Path, language: str | None) -> None:
        languages = [language] if language else previews.languages()
        rows, faults = [], []
        for kind in previews.all_kinds():
            cells: list[Preview | None] = []
            for each in languages:
                try:
                    preview = previews.preview(kind, each)
                except NoPreview as error:
                    faults.append(f"{kind.kind} in {each!r}: {error}")
                    cells.append(None)
                else:
                    _write(preview, folder, list(FORMATS))
                    cells.append(preview)
            rows.append({"kind": kind.kind, "summary": previews.summary(kind), "previews": cells})
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / "index.html"
        index.write_text(
            render_to_string("mailer/previews.html", {"rows": rows, "languages": languages, "faults": faults})
        )
        self.stdout.write(f"{len(rows)} kinds in {', '.join(languages)}: open {index}")
        if faults:
            raise CommandError("These cannot be shown:\n" + "\n".join(faults))


def _as_text(preview: Preview) -> str:
    """For a terminal: what a reader would see, with the header above it and the files below."""
    return "\n".join([*_header(preview), "", preview.text.strip() or "(no text, HTML alone)", "", *_footer(preview)])


def _header(preview: Preview) -> Iterator[str]:
    technical = {"mime-version", "content-type", "content-transfer-encoding"}
    shown = [(name, value) for name, value in preview.headers if name.lower() not in technical]
    width = max(len(name) for name, _ in shown) + 1
    return (f"{f'{name}:':<{width}} {value}" for name, value in shown)


def _footer(preview: Preview) -> Iterator[str]:
    for name, content_type, size in preview.attachments:
        yield f"[file] {name} ({content_type}, {filesizeformat(size)})"
    html = f"HTML {filesizeformat(len(preview.html.encode()))}" if preview.html else "no HTML"
    yield f"[{preview.kind.kind}, {preview.language}: {filesizeformat(preview.size)}, {html}]"


def _write(preview: Preview, folder: Path, formats: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, content in map(FORMATS.__getitem__, formats):
        path = folder / f"{preview.name}{suffix}"
        path.write_bytes(content(preview))
        paths.append(path)
    return paths
