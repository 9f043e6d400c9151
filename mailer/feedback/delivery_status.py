"""Read a delivery report (RFC 3464), also of mail to international addresses (RFC 6533)."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from email.message import Message

from mailer.feedback.opened import ADDRESS, Opened, blocks, value
from mailer.feedback.report import Report
from mailer.feedback.verdict import STATUS, judge
from mailer.models import Bounce, What

KINDS = ("message/delivery-status", "message/global-delivery-status")
"""OpenSMTPD sends them in a multipart/mixed, so the type of the whole mail says nothing."""
ACTIONS = {"failed": What.BOUNCED, "error": What.BOUNCED, "delayed": What.DELAYED, "delivered": What.DELIVERED}
"""`relayed` and `expanded` say only that nothing more will be heard. `error` is of older versions of OpenSMTPD."""
WITHOUT_ACTION = {"5": What.BOUNCED, "4": What.DELAYED, "2": What.DELIVERED}
"""By the class of the status. An action says more: after days of retries, a final failure has the status 4.4.1."""
TYPED = re.compile(r"([a-z0-9-]{1,40})\s*;\s*", re.IGNORECASE)
"""What stands before an address or a reply: `rfc822;`, `smtp; `. Exim leaves out the space."""
HEXPOINT = re.compile(r"\\x\{([0-9A-F]{1,6})\}", re.IGNORECASE)
"""How a seven-bit report writes a character of an international address (RFC 6533, 3)."""
END_OF_ENTRY = re.compile(r"\n[ \t]*\n|\n[ \t]*<?[^\s@<>]{1,320}@[^\s@<>]{1,320}>?[ \t]*(?=[:\n])")
"""In the text for people: a blank line, or a line that begins with the next address."""
LONGEST_ENTRY = 2000


def reports(mail: Opened, at: datetime) -> Iterator[Report]:
    """Yield what the mail reports of each recipient."""
    text = mail.text
    found = [block for part in mail.of_kind(*KINDS) for block in blocks(part.text) if _is_about_recipient(block)]
    for block in found:
        final, original = (_address(value(block, name)) for name in ("Final-Recipient", "Original-Recipient"))
        words = entry_about(final or original, text) or (" ".join(text.split()) if len(found) == 1 else "")
        if report := _report(block, words, at):
            yield replace(report, recipient=final or original, original_recipient=original)


def _report(block: Message, words: str, at: datetime) -> Report | None:
    status = STATUS.search(value(block, "Status"))
    reported = status[0] if status else ""
    action = re.match(r"[a-z]*", value(block, "Action").lower())
    what = ACTIONS.get(action[0]) if action and action[0] else WITHOUT_ACTION.get(reported[:1])
    if what is None:
        return None
    _, said = _typed(value(block, "Diagnostic-Code"))
    if what is What.DELIVERED:
        return Report(event_id="", what=what, at=at, code=reported, text=said)
    bounce, code = judge(reported, said, words)
    return Report(
        event_id="",
        what=what,
        at=at,
        bounce=bounce if what is What.BOUNCED else Bounce.NONE,
        code=code,
        text=said or words,
    )


def _is_about_recipient(block: Message) -> bool:
    return "Final-Recipient" in block or "Original-Recipient" in block


def _address(field: str) -> str:
    """Return the address in `rfc822; ann@example.com`; empty if it is none, such as a mailbox of X.400."""
    kind, bare = _typed(field)
    if kind == "utf-8":
        bare = HEXPOINT.sub(lambda found: _character(int(found[1], 16)), bare)
    address = ADDRESS.search(bare)
    return address[0] if address else ""


def _typed(field: str) -> tuple[str, str]:
    """Return the type and the rest of `smtp; 550 5.1.1 no such user`."""
    typed = TYPED.match(field)
    return (typed[1].lower(), field[typed.end() :]) if typed else ("", field)


def _character(point: int) -> str:
    return chr(point) if point < 0xD800 or 0xE000 <= point <= 0x10FFFF else "\ufffd"


def entry_about(address: str, text: str) -> str:
    """Return what a text says about an address: from there to a blank line, or to the next address."""
    whole = rf"(?<![\w.+=-]){re.escape(address)}(?![\w-]|\.\w)"
    found = re.search(whole, text, re.IGNORECASE) if address else None
    if found is None:
        return ""
    entry = text[found.end() : found.end() + LONGEST_ENTRY]
    end = END_OF_ENTRY.search(entry)
    return " ".join(entry[: end.start() if end else None].lstrip(">: \t").split())
