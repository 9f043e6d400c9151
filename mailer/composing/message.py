"""Build the message of an e-mail: bodies, files and header fields."""

from collections.abc import Mapping
from dataclasses import replace
from email.errors import NonASCIILocalPartDefect
from email.headerregistry import Address, AddressHeader
from email.policy import Policy
from hashlib import blake2b

from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailer.addresses import PLAIN_MAILBOX
from mailer.attachments import attach
from mailer.composing.built_by_django import DjangoMail
from mailer.composing.templates import Content, one_line, render
from mailer.conf import sender_domain
from mailer.email import Email, Recipient, Stream
from mailer.outcomes import Unsendable
from mailer.recipients import subscriptions

LONGEST_NAME = 100
"""Characters; longer names beside an address are cut."""
RESERVED_HEADERS = frozenset(
    {
        *("from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "auto-submitted"),
        *("mime-version", "content-type", "content-transfer-encoding", "x-entity-ref-id"),
        *("list-unsubscribe", "list-unsubscribe-post", "list-id", "feedback-id", "dkim-signature"),
    }
)
"""Header fields that `Email.headers` must not set."""

SENDER_ID = range(5, 16)
"""The lengths that Gmail accepts for the last field of a Feedback-ID."""


class Unfolded(str):
    """The value of a header field that is not folded.

    Python folds a long word into encoded-words (RFC 2047), which structured fields must not contain: Gmail shows no button
    for such a List-Unsubscribe. A line may have 998 characters (RFC 5322, 2.1.1).
    """

    name: str

    def __new__(cls, name: str, value: str) -> "Unfolded":
        self = super().__new__(cls, value)
        self.name = name
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.name, str(self)  # needed to copy a message

    def fold(self, *, policy: Policy) -> str:
        """Return the whole field. Called by Python's email package."""
        return f"{self.name}: {self}{policy.linesep}"


def build(mail: Email, message_id: str, *, language: str = "") -> EmailMessage:
    """Build the message that is transmitted, with this Message-ID (RFC 5322). `language` overrides the recipient's.

    Raises what a template, a file or the e-mail's own code raises. StorageAway is temporary: build the message later.
    """
    if isinstance(mail, DjangoMail):
        return _set_message_id(mail.built, message_id)
    recipient = replace(mail.recipient(), language=language) if language else mail.recipient()
    unsubscribe_url = _unsubscribe_url(mail, recipient)
    content = render(mail, recipient, unsubscribe_url=unsubscribe_url)
    return assemble(mail, recipient, content, message_id=message_id, unsubscribe_url=unsubscribe_url)


def _set_message_id(message: EmailMessage, message_id: str) -> EmailMessage:
    """Set the Message-ID at the position where Django would have written it."""
    existing = {name: message_id for name in message.extra_headers if name.lower() == "message-id"}
    first = {} if existing else {"Message-ID": message_id}
    message.extra_headers = first | message.extra_headers | existing
    return message


def assemble(
    mail: Email, recipient: Recipient, content: Content, *, message_id: str, unsubscribe_url: str = ""
) -> EmailMultiAlternatives:
    """Build the multipart message from rendered content. Raises as `build` does."""
    message = EmailMultiAlternatives(
        subject=content.subject,
        body=content.text,
        from_email=mail.sender(),
        to=[_mailbox(recipient)],
        cc=[_mailbox(each) for each in mail.cc()],
        bcc=[_mailbox(each) for each in mail.bcc()],
        reply_to=mail.reply_to(),
        headers={
            "Message-ID": message_id,
            "Auto-Submitted": "auto-generated",  # RFC 3834: prevents out-of-office replies
            "X-Entity-Ref-ID": message_id.strip("<>").partition("@")[0],  # prevents Gmail from grouping equal subjects
            **_stream_headers(mail, unsubscribe_url),
            **_custom_headers(mail),
        },
    )
    message.attach_alternative(content.html, "text/html")
    attach(message, mail.attachments())
    return message


def _stream_headers(mail: Email, unsubscribe_url: str) -> dict[str, str]:
    stream: Stream | None = mail.stream
    if stream is None:
        return {}
    domain = sender_domain()
    headers = {
        "List-Unsubscribe": f"<{unsubscribe_url}>",  # RFC 2369
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",  # RFC 8058
        "List-ID": f"<{stream.name}.{domain}>",  # RFC 2919
        # Gmail counts complaints by these fields: the broadest last, each once, none specific to a recipient.
        "Feedback-ID": f"{mail.kind.replace(':', '.')}:{stream.name}:{_sender_id(domain)}",
    }
    return {name: Unfolded(name, value) for name, value in headers.items()}


def _sender_id(domain: str) -> str:
    """Return the domain, or its beginning and a digest if Gmail does not accept its length."""
    if len(domain) in SENDER_ID:
        return domain
    return f"{domain[:8]}-{blake2b(domain.encode(), digest_size=3).hexdigest()}"


def _custom_headers(mail: Email) -> Mapping[str, str]:
    headers = mail.headers()
    for name, value in headers.items():
        if name.lower() in RESERVED_HEADERS:
            raise Unsendable(f"{mail.kind}.headers() sets {name}, which the mailer writes itself")
        if not name.isascii() or not name.isprintable() or ":" in name or " " in name or not name:
            raise Unsendable(f"{mail.kind}.headers() sets {name!r}, which is not a valid name of a header field")
        if "\n" in str(value) or "\r" in str(value):
            raise Unsendable(f"{mail.kind}.headers() sets {name} to a value of several lines; use one line")
    return {name: str(value) for name, value in headers.items()}


def _unsubscribe_url(mail: Email, recipient: Recipient) -> str:
    stream: Stream | None = mail.stream
    if stream is None:
        return ""
    if mail.cc() or mail.bcc():
        raise Unsendable(f"{mail.kind} is in the stream {stream.name!r}: send a separate message instead of cc and bcc")
    return subscriptions.unsubscribe_url(recipient.address, stream)


def _mailbox(recipient: Recipient) -> str:
    """Format the recipient as `Name <address>`, or as the bare address if the name is not valid."""
    name = one_line(recipient.name)[:LONGEST_NAME]
    if PLAIN_MAILBOX.fullmatch(plain := f"{name} <{recipient.address}>"):
        return plain
    try:
        mailbox = str(Address(name, addr_spec=recipient.address))
    except NonASCIILocalPartDefect:  # Python rejects it, but some servers accept it (RFC 6531)
        [parsed] = AddressHeader.value_parser(recipient.address).all_mailboxes
        return str(Address(name, parsed.local_part, parsed.domain))
    return recipient.address if AddressHeader.value_parser(mailbox).all_defects else mailbox
