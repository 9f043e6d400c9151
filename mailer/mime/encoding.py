"""A message as the octets that leave: 8bit or quoted-printable and base64, headers in ASCII or in UTF-8, no line too long."""

import binascii
import copy
import quopri
import re
import secrets
from email import policy
from email.contentmanager import ContentManager, raw_data_manager
from email.headerregistry import AddressHeader, HeaderRegistry
from email.message import EmailMessage as Entity
from email.message import Message
from functools import cache, lru_cache
from typing import Any

from django.core.mail import EmailMessage

from mailer.outcomes import Unsendable

LONGEST_LINE = 998
"""In octets, without CRLF (RFC 5322, 2.1.1)."""
FOLDED_AT = 76
"""The longest line of quoted-printable (RFC 2045, 6.7) and of a header field with an encoded word (RFC 2047, 2)."""
ANY_LINE_END = re.compile(rb"\r\n|\r|\n")
NO_FIELD = re.compile(rb"\0|\r(?!\n)|\n(?![ \t]|\Z)")
"""What no folded field holds: NUL, and a line break that does not fold."""
OF_IDENTITY = ("", "7bit", "8bit", "binary")
"""Encodings that are none: the payload is the content (RFC 2045, 6.2)."""


class Untouchable(Unsendable):
    """It could be sent in 8bit alone."""


class Verbatim(Entity):
    """A message that somebody else made (`ready_made`): its header may be changed, while its body stays as it was."""

    rest: bytes | None = None
    """What follows the last header field; None for a message inside another one, and once it was encoded anew."""

    def as_bytes(self, unixfrom: bool = False, policy: Any = None) -> bytes:
        if self.rest is None:
            return super().as_bytes(unixfrom, policy)
        chosen = policy or self.policy
        header = b"".join(chosen.fold_binary(name, value) for name, value in self.raw_items())
        return header + self.rest.replace(b"\r\n", chosen.linesep.encode())


def standard_policy() -> policy.EmailPolicy:
    """How header fields are written where the server takes 8bit bodies; attached MIME is stored in this form."""
    return _policy(eight_bit=True, utf8=False)


def build(mail: EmailMessage, *, eight_bit: bool, utf8: bool = False) -> Entity:
    """Django's message as Python's. `eight_bit` lets text stay as it is (RFC 6152); `utf8` is for the headers (RFC 6532).

    The mail and its attachments stay as they are. Raises ValueError for what Python does not take for a header.
    """
    ours = copy.copy(mail)
    ours.attachments = copy.deepcopy(mail.attachments)  # those that the caller built may need another encoding
    built: Entity = ours.message(policy=_policy(eight_bit=eight_bit, utf8=utf8))
    if isinstance(built, Verbatim) and not _is_encoded_anew(built, eight_bit=eight_bit):
        return built
    _fit(built, eight_bit=eight_bit)
    _choose_boundaries(built)
    return built


def _is_encoded_anew(made: Verbatim, *, eight_bit: bool) -> bool:
    """Lets go of the body as it was made, if that cannot leave as it is, and says whether it has."""
    if made.rest is None:  # its header cannot be told from the rest
        return True
    if eight_bit or made.rest.isascii():
        return False
    if any(part.get_content_type() == "multipart/signed" for part in made.walk()):
        raise Untouchable("its signature is over 8-bit text, and the server does not announce 8BITMIME (RFC 6152)")
    made.rest = None
    return True


def has_international_address(built: Entity) -> bool:
    """Whether a header names an address with non-ASCII characters before its @, for which there is no ASCII form."""
    headers = (value for value in built.values() if isinstance(value, AddressHeader))
    return any(not address.username.isascii() for header in headers for address in header.addresses)


def octets(built: Entity) -> bytes:
    """The message with CRLF at the end of each line, and nowhere else a CR or LF (RFC 5321, 2.3.8).

    Raises Unsendable where a header cannot be made to fit.
    """
    raw = built.as_bytes()
    if not raw.count(b"\r\n") == raw.count(b"\r") == raw.count(b"\n"):
        raw = ANY_LINE_END.sub(b"\r\n", raw)
    if _is_too_long(raw):
        raise Unsendable(
            f"a header has more than {LONGEST_LINE} octets without a space to fold it at (RFC 5322, 2.1.1)"
        )
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


class _Contents(ContentManager):
    """Leaves text in 8bit up to the longest line that SMTP takes; Python encodes what is longer than a folded header."""

    def get_content(self, msg: Message, *args: Any, **options: Any) -> Any:
        return raw_data_manager.get_content(msg, *args, **options)

    def set_content(self, msg: Message, obj: Any, *args: Any, **options: Any) -> Any:
        if isinstance(obj, str):
            options.setdefault("cte", _encoding_of(obj.encode(options.get("charset", "utf-8")), msg.policy))
        return raw_data_manager.set_content(msg, obj, *args, **options)


REPEATED = frozenset(
    {"from", "mime-version", "content-type", "content-transfer-encoding", "auto-submitted", "list-unsubscribe-post"}
)
"""Header fields that are the same in one mail after the other. They are parsed and folded once: it is most of what it takes to
write a mail."""


class _Headers(HeaderRegistry):
    """The standard registry, which makes two new classes for each field of each mail; this one keeps them."""

    def __getitem__(self, name: str) -> Any:
        return _class_of(name.lower())

    def __call__(self, name: str, value: Any) -> Any:
        if type(value) is str and name.lower() in REPEATED:
            return _parsed(name, value)
        return self[name](name, value)


_class_of = lru_cache(maxsize=256)(HeaderRegistry().__getitem__)


@lru_cache(maxsize=256)
def _parsed(name: str, value: str) -> Any:
    return _class_of(name.lower())(name, value)


class _Policy(policy.EmailPolicy):
    """SMTP's line ends; header fields of machine-readable text stay readable for machines."""

    linesep = "\r\n"
    max_line_length = FOLDED_AT
    content_manager = _Contents()

    def fold_binary(self, name: str, value: str) -> bytes:
        # By its class, since MIME that somebody else made has fields of its own with the same text.
        is_ours = name.lower() in REPEATED and type(value) is _class_of(name.lower())
        return _folded(self, name, value) if is_ours else self.fold_anew(name, value)

    def fold_anew(self, name: str, value: str) -> bytes:
        """The field as it stands in the message, with the line end."""
        # 8-bit octets are for UTF-8 headers alone: 8BITMIME is about bodies (RFC 6152, 3)
        folded: bytes = self.fold(name, value).encode()
        if NO_FIELD.search(folded):  # Python decodes encoded words in parameters, and does not look at what comes out
            raise Unsendable("a header field holds a line break or a NUL")
        if isinstance(value, AddressHeader):
            return self._with_the_same_addresses(name, value, folded)
        # Python encodes a long word to be able to break it, such as the URL in List-Unsubscribe, which is none then.
        if b"=?" in folded and str(value).isascii():
            unbroken = self._unbroken(name, value)
            return folded if b"=?" in unbroken else unbroken
        return folded

    def _with_the_same_addresses(self, name: str, value: Any, folded: bytes) -> bytes:
        """The field, unless others would read more addresses into it than the caller wrote.

        Python takes the quotes off a name that it folds (https://github.com/python/cpython/issues/80222, until 3.12.8 and
        3.13.1), and decodes a name that looks like an encoded word.
        """
        for candidate in (folded, self._unbroken(name, value)):
            unfolded = candidate.decode().partition(":")[2].replace("\r\n", "").strip()
            if self._specs(self.header_factory(name, unfolded)) == self._specs(value):
                return candidate
        raise Unsendable("a name beside an address would be read as another address, or is too long (RFC 5322, 2.1.1)")

    @staticmethod
    def _specs(header: Any) -> list[str]:
        return [address.addr_spec for address in header.addresses]

    def _unbroken(self, name: str, value: str) -> bytes:
        return str(self.clone(max_line_length=LONGEST_LINE).fold(name, value)).encode()


@lru_cache(maxsize=256)
def _folded(policy: _Policy, name: str, value: str) -> bytes:
    return policy.fold_anew(name, value)


@cache
def _policy(*, eight_bit: bool, utf8: bool) -> _Policy:
    return _Policy(cte_type="8bit" if eight_bit else "7bit", utf8=utf8, header_factory=_Headers())


def _encoding_of(text: bytes, of: Any) -> str | None:
    """How a text travels; None where Python's own choice is right."""
    return "8bit" if of.cte_type == "8bit" and not text.isascii() and not _is_too_long(text) else None


def _is_too_long(content: bytes) -> bool:
    return max(map(len, content.splitlines()), default=0) > LONGEST_LINE


def _fit(part: Message, *, eight_bit: bool) -> bool:
    """Encodes what the server would not take, however the caller built it, and says whether 8-bit octets are left."""
    if part.is_multipart():
        fitted = [_fit(inner, eight_bit=eight_bit) for inner in part.get_payload()]  # type: ignore[arg-type]
        part.preamble = part.epilogue = None  # which nobody reads, whatever is in them
        _label(part, is_8bit=any(fitted))
        return any(fitted)
    raw = _raw(part)
    if _may_stay(part, raw, eight_bit=eight_bit):
        return not raw.isascii()
    _encode(part)
    return False


def _raw(part: Message) -> bytes:
    """The octets of a payload as it is, encoded or not."""
    if _encoding(part) in OF_IDENTITY:
        return bytes(part.get_payload(decode=True) or b"")
    return str(part.get_payload()).encode()


def _may_stay(part: Message, raw: bytes, *, eight_bit: bool) -> bool:
    is_allowed = raw.isascii() or (eight_bit and _encoding(part) == "8bit")
    return is_allowed and b"\0" not in raw and _encoding(part) != "binary" and not _is_too_long(raw)


def _encoding(part: Message) -> str:
    return str(part.get("Content-Transfer-Encoding", "")).strip().lower()


def _encode(part: Message) -> None:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    is_text = part.get_content_maintype() == "text" and b"\0" not in content
    if is_text:
        content = ANY_LINE_END.sub(b"\r\n", content)  # the canonical form of text (RFC 2046, 4.1.1)
    quoted = quopri.encodestring(content)
    encoded = binascii.b2a_base64(content, newline=False)
    del part["Content-Transfer-Encoding"]
    if is_text and len(quoted) <= len(encoded):
        part.set_payload(quoted.decode())
        part["Content-Transfer-Encoding"] = "quoted-printable"
    else:
        part.set_payload("\n".join(_pieces(encoded.decode())))
        part["Content-Transfer-Encoding"] = "base64"


def _pieces(text: str) -> list[str]:
    return [text[start : start + FOLDED_AT] for start in range(0, len(text), FOLDED_AT)]


def _choose_boundaries(built: Entity) -> None:
    """Python would search the whole mail for a boundary that it does not hold."""
    for part in built.walk():
        if part.get_content_maintype() == "multipart" and part.get_boundary() is None:
            part.set_boundary(f"={secrets.token_hex(16)}=")


def _label(container: Message, *, is_8bit: bool) -> None:
    """What holds 8-bit octets says so, and may say nothing else (RFC 2045, 6.4)."""
    del container["Content-Transfer-Encoding"]
    if is_8bit:
        container["Content-Transfer-Encoding"] = "8bit"
