from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string

from mailer.composing import previews
from mailer.composing.previews import NoPreview, Preview
from mailer.email import UnknownKind

SUFFIXES = {"text": ".txt", "html": ".html", "raw": ".eml"}
"""The suffix of each format's file."""


class Command(BaseCommand):
    help = (
        "Preview an e-mail from its sample, without database or mail server. Without options, print header and text; "
        "with --all, write every kind in every language into a folder. Example: preview_email VerifyAddress --language th"
    )
    requires_system_checks = ()  # must work while another kind is broken

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", nargs="?", metavar="KIND", help="accounts.VerifyAddress, or only VerifyAddress")
        parser.add_argument("--language", choices=previews.languages(), help="default: the site's language")
        parser.add_argument("--format", choices=list(SUFFIXES), help="print only this format")
        parser.add_argument("--output", type=Path, metavar="PATH", help="a file; with --all, a folder")
        parser.add_argument("--list", action="store_true", help="list the kinds")
        parser.add_argument("--all", action="store_true", help="all kinds and languages, with index.html")

    def handle(self, *args: Any, kind: str | None, **options: Any) -> None:
        if sum(map(bool, (kind, options["list"], options["all"]))) != 1:
            raise CommandError("Give KIND, --all, or --list to list the kinds.")
        try:
            if options["list"]:
                self._list()
            elif options["all"]:
                languages = [options["language"]] if options["language"] else previews.languages()
                self._write_all(options["output"] or Path("previews"), languages)
            else:
                self._show(previews.preview(previews.find(str(kind)), options["language"]), **options)
        except (UnknownKind, NoPreview) as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None

    def _list(self) -> None:
        for kind in previews.all_kinds():
            self.stdout.write(f"{kind.kind:<32}  {previews.summary(kind)}")

    def _show(self, preview: Preview, *, format: str | None, output: Path | None, **_: Any) -> None:  # noqa: A002
        if output:
            output.write_bytes(preview.files.get(SUFFIXES[format] if format else output.suffix, preview.source))
        else:
            self.stdout.write(
                preview.files[SUFFIXES[format]].decode("utf-8", "replace") if format else _as_text(preview)
            )

    def _write_all(self, folder: Path, languages: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows, faults = [], []
        for kind in previews.all_kinds():
            cells: list[Preview | None] = []
            for language in languages:
                try:
                    preview = previews.preview(kind, language)
                except NoPreview as error:
                    faults.append(f"{kind.kind} in {language!r}: {error}")
                    cells.append(None)
                    continue
                for suffix, content in preview.files.items():
                    (folder / f"{preview.name}{suffix}").write_bytes(content)
                cells.append(preview)
            rows.append({"kind": kind.kind, "summary": previews.summary(kind), "previews": cells})
        context = {"rows": rows, "languages": languages, "faults": faults}
        (folder / "index.html").write_text(render_to_string("mailer/previews.html", context))
        self.stdout.write(f"{len(rows)} kinds in {', '.join(languages)}: open {folder / 'index.html'}")
        if faults:
            raise CommandError("No preview of:\n" + "\n".join(faults))


def _as_text(preview: Preview) -> str:
    """Format the preview for a terminal: header, text, attachments and sizes."""
    technical = {"mime-version", "content-type", "content-transfer-encoding"}
    html = f"HTML {filesizeformat(len(preview.html.encode()))}" if preview.html else "no HTML"
    return "\n".join(
        [
            *(f"{name}: {value}" for name, value in preview.headers if name.lower() not in technical),
            f"\n{preview.text.strip() or '(no text, only HTML)'}\n",
            *(f"[file] {name} ({kind}, {filesizeformat(size)})" for name, kind, size in preview.attachments),
            f"[{preview.mail.kind}, {preview.language}: {filesizeformat(len(preview.source))}, {html}]",
        ]
    )
