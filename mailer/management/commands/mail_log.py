from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError
from django.template.defaultfilters import pluralize

from mailer.delivery.explain import Explanation, Facts, explain, facts
from mailer.delivery.pulse import look
from mailer.management.operator import OperatorCommand
from mailer.models import OPEN_END, DeliveryAttempt, Message, Suppression
from mailer.recipients.search import MOST, Found, find
from mailer.text import clock

NOTHING = 1
"""The exit code if nothing is found."""


class Command(OperatorCommand):
    help = (
        "Show what is known of a person or a message: accounts, whether the address is suppressed, and each mail, the newest "
        "first, with the reason why it is where it is. WHO is any part of an address in any case, the number of a message, a "
        "Message-ID with or without brackets, or a part of a subject. Exit code: 0 if something is found, 1 if not, 2 if the "
        "database does not answer. Examples: mail_log ann@example.com; mail_log 4711; mail_log '<1234@example.com>'"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("who", metavar="WHO", nargs="+", help="for example ann@exam, 4711, or Your order")
        parser.add_argument(
            "--attempts", action="store_true", help="show each delivery attempt; a single message always does"
        )
        parser.add_argument("--limit", type=int, default=20, metavar="NUMBER", help="show so many mails (default: 20)")

    def handle(self, *args: Any, who: list[str], attempts: bool, limit: int, **options: Any) -> None:
        if limit < 1:
            raise CommandError("--limit must be 1 at least.")
        text = " ".join(who)
        found = find(text)
        if not found:
            raise CommandError(
                f"Nothing is known of {text!r}: no message, account or suppressed address.", returncode=NOTHING
            )
        self.stdout.write("\n".join(_person(found)))
        messages = list(found.messages[: limit + 1])
        pulse, known = look(), facts(messages)
        for message in messages[:limit]:
            explanation = explain(message, pulse, known[message.pk])
            in_full = attempts or len(messages) == 1
            lines = [*_mail(message, explanation), *(_timeline(known[message.pk]) if in_full else ())]
            self.stdout.write("\n" + "\n".join(lines))
        if len(messages) > limit:
            self.stdout.write(f"\nOlder mails are not shown: --limit {limit * 5} shows more.")


def _person(found: Found) -> Iterator[str]:
    for user in found.users:
        yield f"Account {user.pk}: {user}" + ("" if user.is_active else ", which is switched off")
    if not found.users:
        yield "No account has this address."
    if len(found.addresses) > 1:
        more = " at least" if len(found.addresses) == MOST else ""
        yield f"{len(found.addresses)} addresses{more}: {', '.join(found.addresses)}"
    yield from map(_suppression, found.suppressions)
    if not found.suppressions:
        yield f"No mail to the address{pluralize(len(found.addresses), 'es')} is suppressed."


def _suppression(row: Suppression) -> str:
    return f"{row.address} gets no {row.what} since {clock(row.created_at)}: {row.reason}"


def _mail(message: Message, explanation: Explanation) -> Iterator[str]:
    yield f"#{message.pk}  {message.state}  {message.kind}  {message.subject!r}"
    yield f"    to {message.recipient}, {message.message_id_header}"
    times = {
        "asked for": message.created_at,
        "due": None if message.settled_at or message.due_at == OPEN_END else message.due_at,
        "settled": message.settled_at,
        "no attempt after": message.expires_at if message.settled_at is None else None,
    }
    yield "    " + ", ".join(f"{what} {clock(moment)}" for what, moment in times.items() if moment)
    yield f"    {explanation}"


def _timeline(known: Facts) -> Iterator[str]:
    for attempt in known.attempts:
        yield f"    attempt {attempt.number}: {clock(attempt.started_at)}, {_end(attempt)}"
    if not known.attempts:
        yield "    No attempt was made."
    for event in known.events:
        words = ", ".join(filter(None, (event.get_bounce_display() if event.bounce else "", event.said)))
        yield f"    {event.source} said: {clock(event.at)}, {event.get_what_display()}{': ' if words else ''}{words}"


def _end(attempt: DeliveryAttempt) -> str:
    where = f"{attempt.transport} from {attempt.worker or 'an unknown host'}"
    where += f", {attempt.get_taken_display()}" if attempt.taken else ""
    if attempt.finished_at is None:
        return f"{where}, under way"
    took = round((attempt.finished_at - attempt.started_at).total_seconds() * 1000)
    answer = " ".join(filter(None, (attempt.phase, attempt.code, attempt.response)))
    return f"{where}, {attempt.get_outcome_display()} after {took} ms: {answer}"
