"""Make text safe: mask addresses and codes for logs, replace characters that PostgreSQL refuses.

Imports nothing, so that the logging configuration can use it before Django is set up.
"""

import re

LOCAL_PART = r"[\w.!#$%&'*+/=?^`{|}~-]"  # RFC 5322, 3.2.3: atext
# Bounded, or a long word without an @ takes quadratic time: a minute for 60,000 characters.
ADDRESS = re.compile(rf"({LOCAL_PART}){LOCAL_PART}{{0,320}}((?:@|%40)[\w-]+(?:\.[\w-]+)+)")
CODE = re.compile(r"(?<![\w-])(?:[0-9a-f]{40}|[0-9a-z]{1,13}-[0-9a-f]{32})(?![\w-])")
"""The secret of a link. Servers often quote the link that they refuse."""
UNSUBSCRIBE_LINK = re.compile(r"(/unsubscribe/\W*)[\w-]+", re.IGNORECASE)
"""An unsubscribe link works for everyone who has it, so it must not be logged (`mailer.recipients.subscriptions`)."""


def mask(text: str) -> str:
    """Mask addresses, as in `a***@example.com`, and the codes of links."""
    return UNSUBSCRIBE_LINK.sub(r"\1***", CODE.sub("***", ADDRESS.sub(r"\1***\2", text)))


def replace_unstorable(text: str) -> str:
    """Replace NUL and lone surrogates, which mail and file names can contain and PostgreSQL refuses."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
