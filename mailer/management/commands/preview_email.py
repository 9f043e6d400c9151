from argparse import ArgumentParser
from collections.abc import Callable
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
"""Each format's file suffix and content."""


class Command(BaseCommand):
    help = (
        "Preview an e-mail from its sample, without database or mail server. Without options, print header and text; "
        "with --all, write every kind in every language into a folder."
    )
    requires_system_checks = ()  # must work while another kind is broken

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", nargs="?", metavar="KIND", help="such as accounts.VerifyAddress, or VerifyAddress")
        parser.add_argument("--language", choices=previews.languages(), help="default: the site's language")
        parser.add_argument("--format", choices=list(FORMATS), help="print only this format")
        parser.add_argument("--output", type=Path, metavar="PATH", help="a file, or a folder for .txt, .html and .eml")
        parser.add_argument("--list", action="store_true", help="list the kinds")
        parser.add_argument("--all", action="store_true", help="all kinds and languages, with index.html (./previews)")

    def handle(self, *args: Any, kind: str | None, **options: Any) -> None:
        if sum(map(bool, (kind, options["list"], options["all"]))) != 1:
            raise CommandError("Give KIND, --all, or --list to list the kinds.")
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
            raise CommandError(f"{kind} has no preview: {error}") from None
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
                    cells.append(previews.preview(kind, each))
                except NoPreview as error:
                    faults.append(f"{kind.kind} in {each!r}: {error}")
                    cells.append(None)
            for preview in filter(None, cells):
                _write(preview, folder, list(FORMATS))
            rows.append({"kind": kind.kind, "summary": previews.summary(kind), "previews": cells})
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / "index.html"
        index.write_text(
            render_to_string("mailer/previews.html", {"rows": rows, "languages": languages, "faults": faults})
        )
        self.stdout.write(f"{len(rows)} kinds in {', '.join(languages)}: open {index}")
        if faults:
            raise CommandError("No preview of:\n" + "\n".join(faults))


def _as_text(preview: Preview) -> str:
    """Format the preview for a terminal: header, text, attachments and sizes."""
    technical = {"mime-version", "content-type", "content-transfer-encoding"}
    headers = [(f"{name}:", value) for name, value in preview.headers if name.lower() not in technical]
    width = max(len(name) for name, _ in headers)
    html = f"HTML {filesizeformat(len(preview.html.encode()))}" if preview.html else "no HTML"
    return "\n".join(
        [
            *(f"{name:<{width}} {value}" for name, value in headers),
            f"\n{preview.text.strip() or '(no text, only HTML)'}\n",
            *(f"[file] {name} ({kind}, {filesizeformat(size)})" for name, kind, size in preview.attachments),
            f"[{preview.kind.kind}, {preview.language}: {filesizeformat(preview.size)}, {html}]",
        ]
    )


def _write(preview: Preview, folder: Path, formats: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, content in map(FORMATS.__getitem__, formats):
        path = folder / f"{preview.name}{suffix}"
        path.write_bytes(content(preview))
        paths.append(path)
    return paths
