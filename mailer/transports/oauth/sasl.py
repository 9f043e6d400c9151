"""Log in over SMTP with a token: XOAUTH2 (Google, Microsoft) or OAUTHBEARER (RFC 7628)."""

import base64
import re
import smtplib

from mailer.transports.oauth.token import Token

LONGEST_COMMAND = 512
"""Octets with CRLF (RFC 5321, 4.5.3.1.4). A longer response follows in a line of its own (RFC 4954, 4), as Postfix does it."""
LONG_WORDS = re.compile(r"[\w+/=~-]{40,}", re.ASCII)
"""In a refusal: what may be our own line, which some servers repeat, or cut and repeat."""


def log_in(server: smtplib.SMTP, user: str, token: Token) -> tuple[int, bytes]:
    """Log in. Raises SMTPAuthenticationError, SMTPNotSupportedError, or another OSError."""
    server.ehlo_or_helo_if_needed()
    offered = server.esmtp_features.get("auth", "").upper().split()
    if "XOAUTH2" in offered:
        mechanism, response, to_failure = "XOAUTH2", f"user={user}\1auth=Bearer {token}\1\1", ""
    elif "OAUTHBEARER" in offered:
        mechanism, response, to_failure = "OAUTHBEARER", _bearer(server, user, token), "\1"
    else:
        raise smtplib.SMTPNotSupportedError(
            f"no log-in with a token (XOAUTH2, OAUTHBEARER) is offered, only: {' '.join(offered) or 'none at all'}"
        )
    code, text = _exchange(server, mechanism, _encoded(response), _encoded(to_failure))
    if code != 235:
        said = LONG_WORDS.sub("***", text.decode("utf-8", "replace"))
        raise smtplib.SMTPAuthenticationError(code, said)
    return code, text


def _exchange(server: smtplib.SMTP, mechanism: str, response: str, to_failure: str) -> tuple[int, bytes]:
    """Return the last reply. A refused token is answered with 334 and JSON first; the refusal waits for a line of ours."""
    if len(f"AUTH {mechanism} {response}\r\n") <= LONGEST_COMMAND:
        code, text = server.docmd("AUTH", f"{mechanism} {response}")
    else:
        code, text = server.docmd("AUTH", mechanism)
        if code == 334:
            code, text = server.docmd(response)
    return server.docmd(to_failure) if code == 334 else (code, text)


def _bearer(server: smtplib.SMTP, user: str, token: Token) -> str:
    """Return the first message of OAUTHBEARER. A comma or an equals sign would end the name (RFC 5801, 4)."""
    name = user.replace("=", "=3D").replace(",", "=2C")
    assert server.sock is not None
    host, port = server._host, server.sock.getpeername()[1]  # type: ignore[attr-defined]
    return f"n,a={name},\1host={host}\1port={port}\1auth=Bearer {token}\1\1"


def _encoded(response: str) -> str:
    return base64.b64encode(response.encode()).decode()
