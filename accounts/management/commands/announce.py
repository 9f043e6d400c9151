import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import click
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Count, QuerySet

from accounts import announcing
from accounts.announcing import AlreadyAnnounced
from accounts.emails import NEWS
from accounts.models import Announcement, User

LANGUAGES = dict(settings.LANGUAGES)


class Command(BaseCommand):
    help = (
        "Writes to everybody with an active, verified account who has not left the news: all of them or, if anything goes "
        "wrong, nobody. The same text is refused a second time. On a terminal it asks before it begins."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--subject", required=True, help="one line")
        text = parser.add_mutually_exclusive_group(required=True)
        text.add_argument("--text", help="paragraphs, with empty lines between them")
        text.add_argument("--file", metavar="PATH", help="a file with the text, in UTF-8; - is the standard input")
        parser.add_argument("--language", choices=LANGUAGES, default="", help="only to people who read this language")
        parser.add_argument("--dry-run", action="store_true", help="say who would get it, and write nothing")
        parser.add_argument("--again", action="store_true", help="although the same text was sent before")
        parser.add_argument("--no-input", action="store_true", help="ask nothing, on a terminal either")

    def handle(self, *args: Any, **options: Any) -> None:
        announcement = _checked(options["subject"], _text(options["text"], options["file"]), options["language"])
        language, again = options["language"], options["again"]
        if not again and (before := announcing.earlier(announcement.subject, announcement.body)):
            raise CommandError(_refusal(before))
        number = self._tell_who(language)
        if options["dry_run"]:
            self.stdout.write("Nothing was written.")
            return
        if not number:
            raise CommandError("There is nobody to write to.")
        if sys.stdin.isatty() and not options["no_input"] and not click.confirm("Write to them?", err=True):
            raise CommandError("Nothing was written.")
        written = self._announce(announcement, number, again=again)
        self.stdout.write(
            f"{written.readers} mails are enqueued as announcement {written.pk}; manage.py mail_status tells how they fare."
        )

    def _tell_who(self, language: str) -> int:
        counts = _by_language(announcing.readers(language))
        number = sum(counts.values())
        left = announcing.everybody(language).count() - number
        parts = ", ".join(f"{count} in {LANGUAGES.get(code, code)}" for code, count in counts.items())
        self.stdout.write(f"{number} readers{f': {parts}' if parts else ''}.")
        self.stdout.write(
            f'{left} more left the stream "{NEWS.name}", or their address is suppressed; they get nothing.'
        )
        return number

    def _announce(self, text: Announcement, number: int, *, again: bool) -> Announcement:
        hidden = not sys.stderr.isatty()
        with click.progressbar(length=number, label="Writing them down", file=sys.stderr, hidden=hidden) as bar:
            try:
                return announcing.announce(
                    text.subject, text.body, language=text.language, again=again, progress=bar.update
                )
            except AlreadyAnnounced as before:  # by somebody else, at this moment
                raise CommandError(_refusal(before.args[0])) from None


def _text(text: str | None, path: str | None) -> str:
    if path is None:
        return text or ""
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not a text in UTF-8.") from None


def _checked(subject: str, text: str, language: str) -> Announcement:
    """The announcement as it would be written, its lines ended and its ends trimmed in one way, so that a copy is known."""
    body = "\n".join(line.rstrip() for line in text.splitlines()).strip()
    announcement = Announcement(subject=subject.strip(), body=body, language=language)
    if len(announcement.subject.splitlines()) > 1:
        raise CommandError("--subject: write one line.")
    if "\0" in announcement.subject + body:
        raise CommandError("There is a NUL character in it; is it a text?")
    try:
        announcement.clean_fields()
    except ValidationError as error:
        fields = {"subject": "--subject", "body": "--text or --file"}
        broken = (f"{fields.get(name, name)}: {' '.join(said)}" for name, said in error.message_dict.items())
        raise CommandError(" ".join(broken)) from None
    return announcement


def _by_language(readers: "QuerySet[User]") -> dict[str, int]:
    counts = readers.order_by("language").values_list("language").annotate(Count("pk"))
    return dict(counts)


def _refusal(before: Announcement) -> str:
    where = f" in {LANGUAGES[before.language]}" if before.language else ""
    return (
        f"This text was announced before: {before} of {before.created_at:%Y-%m-%d %H:%M} UTC, to {before.readers} "
        f"readers{where}. Nothing was written; --again sends it once more."
    )
