"""Read a complaint: a person pressed "this is spam", and their provider tells the sender (RFC 5965)."""

from collections.abc import Iterator
from datetime import datetime

from mailer.feedback.opened import ADDRESS, Opened, head, value, values
from mailer.feedback.report import Report
from mailer.models import What

KIND = "message/feedback-report"
TYPES = {
    **dict.fromkeys(("abuse", "fraud", "virus", "other", "miscategorized"), What.COMPLAINED),
    **dict.fromkeys(("opt-out", "opt-out-list"), What.UNSUBSCRIBED),
}
"""By Feedback-Type (RFC 5965, 7.3). `not-spam` is praise, and `auth-failure` a report of DMARC (RFC 6591)."""
HOTMAIL = "X-HmXmrOriginalRecipient"
"""In the returned mail: the older form of Outlook.com (JMRP), which has no report."""


def reports(mail: Opened, at: datetime) -> Iterator[Report]:
    """Yield the complaint for each recipient. Most providers do not name one."""
    for block in (head(part.text) for part in mail.of_kind(KIND)):
        kind = value(block, "Feedback-Type").lower()
        if what := TYPES.get(kind):
            said = " ".join(filter(None, (kind, value(block, "User-Agent"))))
            named = [address[0] for field in values(block, "Original-Rcpt-To") if (address := ADDRESS.search(field))]
            for recipient in named or [""]:
                yield Report(event_id="", what=what, at=at, recipient=recipient, text=said)


def of_hotmail(mail: Opened, at: datetime) -> Iterator[Report]:
    """Yield the complaint in a mail of Outlook.com's older kind, which is only the returned mail."""
    for part in mail.of_kind("message/rfc822"):
        if address := ADDRESS.search(value(head(part.text), HOTMAIL)):
            yield Report(event_id="", what=What.COMPLAINED, at=at, recipient=address[0], text="abuse Outlook.com")
