"""Read a bounce that is only text, as qmail and older servers write it: flufl.bounce finds the addresses."""

import logging
import re
from collections.abc import Iterator
from datetime import datetime
from email.message import Message

from flufl.bounce import all_failures

from mailer.feedback.delivery_status import entry_about
from mailer.feedback.opened import Opened
from mailer.feedback.report import Report
from mailer.feedback.verdict import judge
from mailer.models import Bounce, What

DAEMON = re.compile(r"\b(mailer-?daemon|post-?master|mail[ ._-]?delivery|mdaemon|smtp32)\b", re.IGNORECASE)
"""In From. A vacation note or a challenge has a null sender too (RFC 3834), but comes in a person's name."""
LONGEST_TEXT, LONGEST_LINE = 16_384, 200
"""Characters. Each of 45 patterns is tried on each line, some in quadratic time."""
UNSAFE = re.compile(r"[^\n\t\x20-\x7e]")

logging.getLogger("flufl.bounce").setLevel(logging.ERROR)  # it logs the name of each detector


def reports(mail: Opened, at: datetime) -> Iterator[Report]:
    """Yield what the text says of each recipient. A mail that is not of a mail system says nothing."""
    if not mail.values("X-Failed-Recipients") and not any(map(DAEMON.search, mail.values("From"))):
        return
    text = mail.text[:LONGEST_TEXT]
    delayed, failed = all_failures(_bounded(mail, text))
    for recipient in sorted(address.decode() for address in delayed | failed):
        words = entry_about(recipient, text) or " ".join(text.split())
        bounce, code = judge("", words)
        is_final = recipient.encode() in failed
        yield Report(
            event_id="",
            what=What.BOUNCED if is_final else What.DELAYED,
            at=at,
            recipient=recipient,
            bounce=bounce if is_final else Bounce.NONE,
            code=code,
            text=words,
        )


def _bounded(mail: Opened, text: str) -> Message:
    """Return a mail of one short part with short lines, in ASCII."""
    short = Message()
    for name in "From", "Subject", "X-Failed-Recipients":
        for value in mail.values(name):
            short[name] = UNSAFE.sub("?", value)
    short.set_payload("\n".join(line[:LONGEST_LINE] for line in UNSAFE.sub("?", text).splitlines()))
    return short
