"""Judge by the reply of a server whether an address exists. A pure function."""

import re

from mailer import known_replies
from mailer.known_replies import NAMES_SENDER, UNKNOWN_USER, About
from mailer.models import Bounce
from mailer.outcomes import NO_SUCH_ADDRESS

STATUS = re.compile(r"(?<![\w.])[245]\.\d{1,3}\.\d{1,3}(?!\d|\.\d)")
"""An enhanced status (RFC 3463), and no part of an IP address."""
REPLY_CODE = re.compile(r"(?<![\w.:])[45]\d\d(?=[ -])")
NOT_KNOWN = re.compile(r"[245]\.(0\.\d+|[1-5]\.0)")
"""A status that gives only the class, or the class and the subject. Then the words count."""
ABOUT_THE_MAIL = re.compile(r"5\.(7\.\d+|6\.\d+|1\.[78]|2\.3|3\.4)")
"""Policy, content, the sender's address, the size (RFC 3463, 3)."""
EDGE_BLOCK = re.compile(r"5\.4\.1 .{0,80}recipient address rejected: access denied", re.IGNORECASE)
"""Exchange Online says this of an address that does not exist (directory-based edge blocking)."""
REFUSED = re.compile(
    r"\b(spam|virus|malware|phish|black ?list|block ?list|dnsbl|rbl|spamhaus|blocked|reputation|dmarc|spf|dkim|polic(y|ies)"
    r"|unsolicited|prohibited|banned|content|too (large|big))|\brelay(ing)?\b|\b(message|mail) size\b|\bsize limit",
    re.IGNORECASE,
)
OURS = {About.ACCOUNT, About.QUOTA, About.LOGIN, About.SENDER}
"""What is said about us, and not about the address."""


def judge(reported: str, said: str, words: str = "") -> tuple[Bounce, str]:
    """Return what a final failure says about the address, and the code: the enhanced status, else the reply code.

    `reported` is the status of the report, `said` the reply of the server, `words` what else the report tells people. The
    server's own status is better than that of the report. Each of several replies in one counts.
    """
    text = (said or words)[: known_replies.LONGEST]
    own = [*_statuses(said), *_statuses(reported)] or _statuses(words)
    found = REPLY_CODE.search(text)
    code = found[0] if found else ""
    about_the_mail = next((status for status in own if ABOUT_THE_MAIL.fullmatch(status)), "")
    status = about_the_mail or (own[0] if own else "")
    if status in NO_SUCH_ADDRESS and NAMES_SENDER.search(said):
        return Bounce.POLICY, status
    return _bounce(status or reported, code, text), status or code or reported


def _bounce(status: str, code: str, text: str) -> Bounce:
    if status.startswith("4"):
        return Bounce.SOFT
    if ABOUT_THE_MAIL.fullmatch(status):
        return Bounce.POLICY
    if status in NO_SUCH_ADDRESS or EDGE_BLOCK.search(text):
        return Bounce.HARD
    return (
        _by_words(code, text) if NOT_KNOWN.fullmatch(status) or not status or status.startswith("5.1.") else Bounce.SOFT
    )


def _by_words(code: str, text: str) -> Bounce:
    reply = text[text.find(code) + len(code) :].lstrip(" -") if code else text
    if about := known_replies.about(code, reply):
        return Bounce.POLICY if about in OURS else Bounce.SOFT
    if REFUSED.search(text) or NAMES_SENDER.search(text):
        return Bounce.POLICY
    return Bounce.HARD if UNKNOWN_USER.search(text) and not code.startswith("4") else Bounce.SOFT


def _statuses(text: str) -> list[str]:
    """Return the statuses in a text that say more than "failed"."""
    found = (status[0] for status in STATUS.finditer(text[: known_replies.LONGEST]))
    return [status for status in found if not status.startswith("2") and not NOT_KNOWN.fullmatch(status)]
