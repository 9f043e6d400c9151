"""Encode a message as octets for SMTP: bodies in 8bit, quoted-printable or base64, headers in ASCII or UTF-8."""

import binascii
import copy
import quopri
import re
import secrets
from email import policy
from email.contentmanager import ContentManager, raw_data_manager
from email.headerregistry import Address, AddressHeader, HeaderRegistry, MessageIDHeader, UnstructuredHeader
from email.message import EmailMessage as Entity
from email.message import Message
from functools import cache, lru_cache
from typing import Any

from django.core.mail import EmailMessage

from mailer.addresses import domain_in_ascii
from mailer.mime import folding
from mailer.mime.folding import FOLDED_AT, LONGEST_LINE
from mailer.outcomes import Unsendable

ANY_LINE_END = re.compile(rb"\r\n|\r|\n")
NO_FIELD = re.compile(rb"\0|\r(?!\n)|\n(?![ \t]|\Z)")
"""What a folded field must not contain: NUL, or a line break that is not part of folding."""
IDENTITY = ("", "7bit", "8bit", "binary")
"""Encodings whose payload is the content itself (RFC 2045, 6.2)."""


class Untouchable(Unsendable):
    """The message can be sent only as 8bit: another encoding would break its signature."""


class Verbatim(Entity):
    """Prebuilt MIME (see `prebuilt`): its header can change, its body stays unchanged."""

    rest: bytes | None = None
    """The bytes after the last header field; None inside another message, and after the body was encoded again."""

    def as_bytes(self, unixfrom: bool = False, policy: Any = None) -> bytes:
        if self.rest is None:
            return super().as_bytes(unixfrom, policy)
        chosen = policy or self.policy
        header = b"".join(chosen.fold_binary(name, value) for name, value in self.raw_items())
        return header + self.rest.replace(b"\r\n", chosen.linesep.encode())


def build(mail: EmailMessage, *, eight_bit: bool, utf8: bool = False) -> Entity:
    """Turn Django's message into Python's. `eight_bit` permits 8bit text (RFC 6152), `utf8` UTF-8 headers (RFC 6532).

    The mail and its attachments are not changed. Raises ValueError for a header that Python rejects.
    """
    clone = with_idna_2008(mail)
    clone.attachments = copy.deepcopy(mail.attachments)  # `message()` may change their encoding
    built: Entity = clone.message(policy=smtp_policy(eight_bit=eight_bit, utf8=utf8))
    if isinstance(built, Verbatim):
        if _can_stay_verbatim(built, eight_bit=eight_bit):
            return built
        built.rest = None
    _encode_for_server(built, eight_bit=eight_bit)
    _choose_boundaries(built)
    return built


def with_idna_2008(mail: EmailMessage) -> EmailMessage:
    """Return a copy whose `message()` encodes the domains of addresses by IDNA 2008, as the envelope does.

    Django's own method follows IDNA 2003, by which the header would name the domain of another owner.
    """
    clone = copy.copy(mail)
    if type(mail)._idna_encode_address_header_domains is EmailMessage._idna_encode_address_header_domains:  # type: ignore[attr-defined]
        vars(clone)["_idna_encode_address_header_domains"] = _encode_domains
    return clone


def _encode_domains(built: Entity) -> None:
    for name, value in built.items():
        if isinstance(value, AddressHeader) and not all(address.domain.isascii() for address in value.addresses):
            addresses = [Address(a.display_name, a.username, domain_in_ascii(a.domain)) for a in value.addresses]
            built.replace_header(name, addresses)


def _can_stay_verbatim(built: Verbatim, *, eight_bit: bool) -> bool:
    """Return whether the server accepts the body unchanged. Raises Untouchable if not, and it is signed."""
    if built.rest is None:  # header and body could not be separated
        return False
    if eight_bit or built.rest.isascii():
        return True
    if any(part.get_content_type() == "multipart/signed" for part in built.walk()):
        raise Untouchable("its signature is over 8-bit text, and the server does not announce 8BITMIME (RFC 6152)")
    return False


def has_international_address(built: Entity) -> bool:
    """Return whether a header has an address with non-ASCII characters before the @. Such an address has no ASCII form."""
    headers = (value for value in built.values() if isinstance(value, AddressHeader))
    return any(not address.username.isascii() for header in headers for address in header.addresses)


def octets(built: Entity) -> bytes:
    """Return the message with CRLF at the end of each line, and no other CR or LF (RFC 5321, 2.3.8).

    Raises Unsendable if a header line is too long.
    """
    return finished(built.as_bytes())


def finished(raw: bytes) -> bytes:
    """Return what `octets` returns, from the message with any line ends. Raises Unsendable as it does."""
    if not raw.count(b"\r\n") == raw.count(b"\r") == raw.count(b"\n"):
        raw = ANY_LINE_END.sub(b"\r\n", raw)
    if _is_too_long(raw):
        raise Unsendable(
            f"a header has more than {LONGEST_LINE} octets without a space to fold it at (RFC 5322, 2.1.1)"
        )
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


class _Contents(ContentManager):
    """Keep 8bit text with lines of up to LONGEST_LINE; Python would encode it if a line is longer than FOLDED_AT."""

    def get_content(self, msg: Message, *args: Any, **options: Any) -> Any:
        return raw_data_manager.get_content(msg, *args, **options)

    def set_content(self, msg: Message, obj: Any, *args: Any, **options: Any) -> Any:
        if isinstance(obj, str):
            text = obj.encode(options.get("charset", "utf-8"))
            keeps = msg.policy.cte_type == "8bit" and not text.isascii() and not _is_too_long(text)
            options.setdefault("cte", "8bit" if keeps else None)  # None leaves the choice to Python
        return raw_data_manager.set_content(msg, obj, *args, **options)


REPEATED = frozenset(
    {"from", "mime-version", "content-type", "content-transfer-encoding", "auto-submitted", "list-unsubscribe-post"}
)
"""Header fields that are the same in most mails. Caching them saves most of the time that building a mail takes."""


class _Headers(HeaderRegistry):
    """Cache the header classes, because the standard registry creates two for each field of each mail."""

    def __getitem__(self, name: str) -> Any:
        return class_of(name.lower())

    def __call__(self, name: str, value: Any) -> Any:
        if type(value) is str and name.lower() in REPEATED:
            return _parsed(name, value)
        return self[name](name, value)


class_of = lru_cache(maxsize=256)(HeaderRegistry().__getitem__)


@lru_cache(maxsize=256)
def _parsed(name: str, value: str) -> Any:
    return class_of(name.lower())(name, value)


class _Policy(policy.EmailPolicy):
    """Write CRLF line ends, and keep machine-readable header fields free of encoded words."""

    linesep = "\r\n"
    max_line_length = FOLDED_AT
    content_manager = _Contents()

    def fold_binary(self, name: str, value: str) -> bytes:
        # A field of prebuilt MIME is of another class, and must stay verbatim even if its text is the same.
        is_cacheable = name.lower() in REPEATED and type(value) is class_of(name.lower())
        return _fold_cached(self, name, value) if is_cacheable else self.fold_uncached(name, value)

    def fold_uncached(self, name: str, value: str) -> bytes:
        """Fold the field, including its line end."""
        # 8BITMIME does not permit 8-bit octets in headers (RFC 6152, 3), so only UTF-8 headers have them.
        folded = self._folded(name, value).encode()
        if NO_FIELD.search(folded):  # Python decodes encoded words in parameters without checking the result
            raise Unsendable("a header field contains a line break or a NUL")
        return self._check_addresses(name, value, folded) if isinstance(value, AddressHeader) else folded

    def _folded(self, name: str, value: Any) -> str:
        if type(value) is class_of(name.lower()):  # no field of prebuilt MIME, which stays as it is
            folded = self._folded_by_us(name, value)
            if folded:
                return folded.replace("\r\n", self.linesep)
        return str(self.fold(name, value))

    def _folded_by_us(self, name: str, value: Any) -> str:
        """Return the folded field, or nothing for one with parameters, a date or a group, which Python folds."""
        if isinstance(value, MessageIDHeader):
            return folding.fold(name, str(value).split(" ")) if str(value).isascii() else ""
        if isinstance(value, UnstructuredHeader):
            return folding.text(name, str(value), utf8=self.utf8)
        if isinstance(value, AddressHeader) and all(group.display_name is None for group in value.groups):
            return folding.mailboxes(name, value.addresses, utf8=self.utf8)
        return ""

    def _check_addresses(self, name: str, value: Any, folded: bytes) -> bytes:
        """Return the folded field. Raises Unsendable if it would be read as other addresses than the caller wrote.

        Python decodes a name that looks like an encoded word.
        """
        unfolded = "".join(folded.decode().partition(":")[2].splitlines()).strip()
        if self._specs(self.header_factory(name, unfolded)) != self._specs(value):
            raise Unsendable("a name beside an address would be read as another address (RFC 5322, 3.4)")
        return folded

    @staticmethod
    def _specs(header: Any) -> list[str]:
        return [address.addr_spec for address in header.addresses]


@lru_cache(maxsize=256)
def _fold_cached(policy: _Policy, name: str, value: str) -> bytes:
    return policy.fold_uncached(name, value)


@cache
def smtp_policy(*, eight_bit: bool, utf8: bool = False) -> policy.EmailPolicy:
    """Return the policy for a server; attached MIME is stored in the form for servers that accept 8bit."""
    return _Policy(cte_type="8bit" if eight_bit else "7bit", utf8=utf8, header_factory=_Headers())


def _is_too_long(content: bytes) -> bool:
    return max(map(len, content.splitlines()), default=0) > LONGEST_LINE


def _encode_for_server(part: Message, *, eight_bit: bool) -> bool:
    """Encode what the server would not accept. Return whether 8-bit octets remain."""
    if part.is_multipart():
        inner_parts: Any = part.get_payload()
        results = [_encode_for_server(inner, eight_bit=eight_bit) for inner in inner_parts]
        is_8bit = any(results)  # not any(generator), which would stop at the first one
        part.preamble = part.epilogue = None  # mail clients do not show them, and they may be 8-bit
        del part["Content-Transfer-Encoding"]
        if is_8bit:  # required; a multipart may declare no other encoding (RFC 2045, 6.4)
            part["Content-Transfer-Encoding"] = "8bit"
        return is_8bit
    is_identity = _encoding(part) in IDENTITY
    payload = bytes(part.get_payload(decode=True) or b"") if is_identity else str(part.get_payload()).encode()
    if _is_accepted(part, payload, eight_bit=eight_bit):
        return not payload.isascii()
    _encode(part)
    return False


def _is_accepted(part: Message, raw: bytes, *, eight_bit: bool) -> bool:
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
        text = encoded.decode()
        part.set_payload("\n".join(text[start : start + FOLDED_AT] for start in range(0, len(text), FOLDED_AT)))
        part["Content-Transfer-Encoding"] = "base64"


def _choose_boundaries(built: Entity) -> None:
    """Set random boundaries; Python would search the whole mail for one that does not occur."""
    for part in built.walk():
        if part.get_content_maintype() == "multipart" and part.get_boundary() is None:
            part.set_boundary(new_boundary())


def new_boundary() -> str:
    """Return a random boundary, which no text contains."""
    return f"={secrets.token_hex(16)}="
