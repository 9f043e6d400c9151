"""Keeps addresses and codes out of log lines. Imports nothing, so that the logging configuration can use it before Django
is set up."""

import re

LOCAL_PART = r"[\w.!#$%&'*+/=?^`{|}~-]"  # RFC 5322, 3.2.3: atext
ADDRESS = re.compile(rf"({LOCAL_PART}){LOCAL_PART}*((?:@|%40)[\w-]+(?:\.[\w-]+)+)")
CODE = re.compile(r"(?<![\w-])[0-9a-f]{40}(?![\w-])")
"""What the secret of a link looks like, wherever it stands: servers like to quote the link that they refuse."""


def mask(text: str) -> str:
    """`ann@example.com` becomes `a***@example.com`: enough to recognise a domain, too little to know a person. The code
    of a link becomes `***`."""
    return CODE.sub("***", ADDRESS.sub(r"\1***\2", text))
