"""What the receiving side says about a mail after a server took it: one form for a provider's event and for a bounce."""

from dataclasses import dataclass
from datetime import datetime

from mailer.models import Bounce, What


@dataclass(frozen=True, slots=True)
class Report:
    """One fact about one recipient of one mail. It may come twice, late, before other facts, and from anybody."""

    event_id: str
    """Of the provider, or a digest of the report. The same fact that comes again has the same one."""
    what: What
    at: datetime
    """When it happened, as the sender of the report says."""
    recipient: str = ""
    """The address that it is about: of a forwarded mail, where it went last."""
    original_recipient: str = ""
    """The address that we wrote to, if the report names it beside the last one."""
    bounce: Bounce = Bounce.NONE
    code: str = ""
    """The enhanced status (RFC 3463) or the reply code, such as "5.1.1"."""
    text: str = ""
    """What the server or the provider said."""
    message: int | None = None
    """The primary key of the message, from a token of ours that was checked."""
    message_id: str = ""
    """The Message-ID of the mail, with its angle brackets."""
    provider_id: str = ""
    """The provider's own id of the mail."""
