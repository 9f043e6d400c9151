"""Text made safe: without addresses and codes for a log line, without what PostgreSQL refuses for a column.

Imports nothing, so that the logging configuration can use it before Django is set up.
"""

import re

LOCAL_PART = r"[\w.!#$%&'*+/=?^`{|}~-]"  # RFC 5322, 3.2.3: atext
# Bounded, or a long word without an @ would be read to its end from each of its characters: a minute for 60,000 of them.
ADDRESS = re.compile(rf"({LOCAL_PART}){LOCAL_PART}{{0,320}}((?:@|%40)[\w-]+(?:\.[\w-]+)+)")
CODE = re.compile(r"(?<![\w-])(?:[0-9a-f]{40}|[0-9a-z]{1,13}-[0-9a-f]{32})(?![\w-])")
"""What the secret of a link looks like, wherever it stands: servers like to quote the link that they refuse."""


LINK_TO_LEAVE = re.compile(r"(/unsubscribe/\W*)[\w-]+", re.IGNORECASE)
"""Whoever has the link to leave a stream can use it, so it is nothing for a log either (`mailer.recipients.subscriptions`)."""


def mask(text: str) -> str:
    """`ann@example.com` becomes `a***@example.com`: enough to recognise a domain, too little to know a person. The code
    of a link becomes `***`."""
    return LINK_TO_LEAVE.sub(r"\1***", CODE.sub("***", ADDRESS.sub(r"\1***\2", text)))


def replace_unstorable(text: str) -> str:
    """The text without what PostgreSQL does not take: NUL, and halves of characters, which mail and file names can carry."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
