"""An e-mail → the message that is transmitted: bodies, files, and the header fields that a good message bears."""

from collections.abc import Mapping
from dataclasses import replace
from email.errors import NonASCIILocalPartDefect
from email.headerregistry import Address, AddressHeader
from email.policy import Policy
from hashlib import blake2b

from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailer.attachments import attach
from mailer.composing.built_by_django import DjangoMail
from mailer.composing.templates import Content, one_line, render
from mailer.conf import sender_domain
from mailer.email import Email, Recipient, Stream
from mailer.recipients import subscriptions

LONGEST_NAME = 100
"""Characters of a name that stand beside an address; more of them are a joke, or an attack on a parser."""
OURS = frozenset(
    {
        *("from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "auto-submitted"),
        *("mime-version", "content-type", "content-transfer-encoding", "x-entity-ref-id"),
        *("list-unsubscribe", "list-unsubscribe-post", "list-id", "feedback-id", "dkim-signature"),
    }
)
"""Header fields that `Email.headers` cannot set."""

LONGEST_LIST_ID = 255
"""Characters (RFC 2919, 3)."""
SENDER_ID = range(5, 16)
"""How many characters Gmail lets the last field of a Feedback-ID have."""


class OnOneLine(str):
    """The value of a header field that is not folded.

    Python folds a long word by turning it into encoded-words (RFC 2047), which have no place in a structured field: Gmail
    shows no button for a List-Unsubscribe that is written like that. A line may have 998 characters (RFC 5322, 2.1.1).
    """

    name: str

    def __new__(cls, name: str, value: str) -> "OnOneLine":
        self = super().__new__(cls, value)
        self.name = name
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.name, str(self)  # without which a message could not be copied

    def fold(self, *, policy: Policy) -> str:
        """The whole field; the e-mail package calls it."""
        return f"{self.name}: {self}{policy.linesep}"


def build(mail: Email, message_id: str, *, language: str = "") -> EmailMessage:
    """The message, ready to be transmitted; `message_id` is its RFC 5322 Message-ID. Previews choose the `language`, which
    is else the recipient's.

    Whatever a template, a file or the e-mail's own code raises comes out as it is; StorageAway is no fault of the mail's.
    """
    if isinstance(mail, DjangoMail):
        return _with_message_id(mail.built, message_id)
    recipient = replace(mail.recipient(), language=language) if language else mail.recipient()
    unsubscribe_url = _unsubscribe_url(mail, recipient)
    content = render(mail, recipient, unsubscribe_url=unsubscribe_url)
    return assemble(mail, recipient, content, message_id=message_id, unsubscribe_url=unsubscribe_url)


def _with_message_id(message: EmailMessage, message_id: str) -> EmailMessage:
    """In the place where it would have stood, had the message been sent at once."""
    named = {name: message_id for name in message.extra_headers if name.lower() == "message-id"}
    message.extra_headers = (
        (message.extra_headers | named) if named else {"Message-ID": message_id, **message.extra_headers}
    )
    return message


def assemble(
    mail: Email, recipient: Recipient, content: Content, *, message_id: str, unsubscribe_url: str = ""
) -> EmailMultiAlternatives:
    """The multipart message of a content that is rendered. Raises as `build` does."""
    message = EmailMultiAlternatives(
        subject=content.subject,
        body=content.text,
        from_email=mail.sender(),
        to=[_mailbox(recipient)],
        cc=[_mailbox(each) for each in mail.cc()],
        bcc=[_mailbox(each) for each in mail.bcc()],
        reply_to=mail.reply_to(),
        headers={**_headers(message_id), **_stream_headers(mail, unsubscribe_url), **_own_headers(mail)},
    )
    message.attach_alternative(content.html, "text/html")
    attach(message, mail.attachments())
    return message


def _headers(message_id: str) -> dict[str, str]:
    return {
        "Message-ID": message_id,
        "Auto-Submitted": "auto-generated",  # RFC 3834: no out-of-office reply, please
        "X-Entity-Ref-ID": message_id.strip("<>").partition("@")[0],  # or Gmail folds mails with one subject into one
    }


def _stream_headers(mail: Email, unsubscribe_url: str) -> dict[str, str]:
    stream: Stream | None = mail.stream
    if stream is None:
        return {}
    domain = sender_domain()
    list_id = f"<{stream.name}.{domain}>"  # RFC 2919
    headers = {
        "List-Unsubscribe": f"<{unsubscribe_url}>",  # RFC 2369
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",  # RFC 8058
        "List-ID": list_id if len(list_id) <= LONGEST_LIST_ID + len("<>") else "",
        # Under which Gmail counts complaints: the broadest last, no field twice, and nothing that is one reader's.
        "Feedback-ID": f"{mail.kind.replace(':', '.')}:{stream.name}:{_sender_id(domain)}",
    }
    return {name: OnOneLine(name, value) for name, value in headers.items() if value}


def _sender_id(domain: str) -> str:
    """The domain, or what it begins with and a digest, where Gmail would take it for too long or too short."""
    if len(domain) in SENDER_ID:
        return domain
    return f"{domain[:8]}-{blake2b(domain.encode(), digest_size=3).hexdigest()}"


def _own_headers(mail: Email) -> Mapping[str, str]:
    headers = mail.headers()
    for name, value in headers.items():
        if name.lower() in OURS:
            raise ValueError(f"{mail.kind}.headers() sets {name}, which the mailer writes itself")
        if not name.isascii() or not name.isprintable() or ":" in name or " " in name or not name:
            raise ValueError(f"{mail.kind}.headers() sets {name!r}, which is no name of a header field")
        if "\n" in str(value) or "\r" in str(value):
            raise ValueError(f"{mail.kind}.headers() sets {name} to a value of several lines; write one")
    return {name: str(value) for name, value in headers.items()}


def _unsubscribe_url(mail: Email, recipient: Recipient) -> str:
    stream: Stream | None = mail.stream
    if stream is None:
        return ""
    if mail.cc() or mail.bcc():
        raise ValueError(
            f"{mail.kind} belongs to the stream {stream.name!r}, so each reader needs a message of her own"
        )
    return subscriptions.unsubscribe_url(recipient.address, stream)


def _mailbox(recipient: Recipient) -> str:
    """The recipient as `Name <address>`, or the bare address: no name may cost anybody a mail."""
    name = one_line(recipient.name)[:LONGEST_NAME]
    try:
        mailbox = str(Address(name, addr_spec=recipient.address))
    except NonASCIILocalPartDefect:  # an error in Python's eyes; there are servers that take it (RFC 6531)
        [parsed] = AddressHeader.value_parser(recipient.address).all_mailboxes
        return str(Address(name, parsed.local_part, parsed.domain))
    return recipient.address if AddressHeader.value_parser(mailbox).all_defects else mailbox
