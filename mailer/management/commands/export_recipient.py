import json
import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.encoding import force_str

from mailer import database
from mailer.addresses import canonical
from mailer.delivery import erasure
from mailer.delivery.erasure import Holding
from mailer.management.operator import OperatorCommand, whole_address
from mailer.management.progress import Progress
from mailer.mime import serializer
from mailer.models import Message
from mailer.recipients import search, suppression
from mailer.text import ADDRESS

NOTHING = 1
"""The exit code if nothing is stored about the address."""
MESSAGE_FIELDS = (
    *("id", "kind", "recipient", "subject", "message_id_header", "arguments", "state", "reason"),
    *("created_at", "first_due_at", "due_at", "expires_at", "settled_at"),
)
EVENT_FIELDS = ("source", "what", "bounce", "code", "text", "at", "received_at")
ATTEMPT_FIELDS = ("number", "transport", "started_at", "finished_at", "outcome", "phase", "code", "response")


class Command(OperatorCommand):
    help = (
        "Print as JSON what is stored about an address, for a person who asks for it: messages with their delivery attempts "
        "and stored bodies, suppressions, and the ids of accounts. Other recipients of a message are only counted. "
        "Exit code: 0, or 1 if nothing is stored. Example: export_recipient ann@example.com --output ann.json"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", type=whole_address, metavar="ADDRESS", help="the whole address, in any spelling")
        parser.add_argument("--output", type=Path, metavar="PATH", help="write a file that only you may read")

    def handle(self, *args: Any, address: str, output: Path | None, **options: Any) -> None:
        reading = Progress(self.stderr, "stored bodies read")
        export = _export(erasure.find(address, reading))
        reading.end()
        if not any(export[name] for name in ("messages", "suppressions", "accounts")):
            raise CommandError(f"Nothing is stored about {address!r}.", returncode=NOTHING)
        text = json.dumps(export, indent=2, ensure_ascii=False, cls=DjangoJSONEncoder) + "\n"
        if output is None:
            self.stdout.write(text, ending="")
            return
        try:
            output.touch(mode=0o600)
            output.chmod(0o600)  # the file of an earlier export may be readable for others
            output.write_text(text)
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None
        self.stdout.write(f"{len(export['messages'])} messages written to {output}")


def _export(holding: Holding) -> dict[str, Any]:
    return {
        "address": holding.address,
        "exported_at": database.now(),
        "accounts": [{"model": user._meta.label, "id": user.pk} for user in search.of_address(holding.address).users],
        "suppressions": list(
            suppression.rows_of(holding.address).values("stream", "cause", "source", "reason", "created_at")
        ),
        "messages": [_message(message, holding) for message in holding.messages().select_related("payload")],
    }


def _message(message: Message, holding: Holding) -> dict[str, Any]:
    exported = {name: getattr(message, name) for name in MESSAGE_FIELDS} | {"user": message.user_id}
    exported |= {name: _without_others(exported[name], holding) for name in ("arguments", "reason")}
    if message.pk not in holding.own:  # it is another person's mail
        about = {name: value for name, value in message.arguments.items() if erasure.names(value, holding.address)}
        exported |= {"recipient": "another address", "user": None, "arguments": _without_others(about, holding)}
    is_mention = message.pk in holding.mentions
    if is_mention:
        exported["subject"] = None
    answers = [answer for address, answer in message.answers.items() if canonical(address) == holding.address]
    attempts = message.delivery_attempts.order_by("number").values(*ATTEMPT_FIELDS)
    body = None if is_mention else _body(message)
    return exported | {
        "answer": next(iter(answers), None),
        "attempts": list(attempts),
        "reports": _reports(message, holding),
        "body": body,
    }


def _reports(message: Message, holding: Holding) -> list[dict[str, Any]]:
    """Return what the receiving side said of this person; of a mail to several people, not what it said of others."""
    events = message.events.order_by("at", "pk")
    named = ((event, [event.recipient, event.original_recipient]) for event in events)
    return [
        {field: getattr(event, field) for field in EVENT_FIELDS}
        for event, addresses in named
        if holding.address in map(canonical, addresses) or (message.pk in holding.own and not any(addresses))
    ]


def _without_others(value: Any, holding: Holding) -> Any:
    """Return the value without addresses of other people, such as the operator who pressed a button."""

    def theirs(found: re.Match[str]) -> str:
        return found[0] if erasure.names(found[0], holding.address) else "another address"

    return json.loads(ADDRESS.sub(theirs, json.dumps(value, ensure_ascii=False)))


def _body(message: Message) -> dict[str, Any] | None:
    """Return what the person was sent, if it is stored."""
    if message.payload is None:
        return None
    built = serializer.load(bytes(message.payload.document))
    return {
        "subject": str(built.subject),
        "text": force_str(built.body, errors="replace"),
        "alternatives": [force_str(content, errors="replace") for content, _ in getattr(built, "alternatives", ())],
        "files": [str(entry[0]) for entry in built.attachments if isinstance(entry, tuple)],
        "other_recipients": len(built.recipients()) - 1,
    }
