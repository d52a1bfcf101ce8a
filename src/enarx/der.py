"""Strict DER to values and back, over `cryptography.hazmat.asn1`.

`decode` accepts exactly one element of the declared type: definite minimal lengths, nothing
after it, and bytes that our own `encode` would write again. Signed parts are kept as `TLV`, and
`raw` gives the bytes of such a part exactly as they arrived, so nothing is judged on a
re-encoding. Types are declared with `@der.sequence` beside the code that owns the layout
(X.690 for the encoding, X.680 for the notation). What is written with every certificate is put
together from `wrap` and the elements beside it, which takes a fraction of the time.
"""

from datetime import UTC, datetime
from typing import TypeVar

from cryptography.hazmat.asn1 import (
    TLV,
    BitString,
    Default,
    Explicit,
    GeneralizedTime,
    IA5String,
    Implicit,
    Null,
    PrintableString,
    SetOf,
    Size,
    UTCTime,
    decode_der,
    encode_der,
    sequence,
)
from cryptography.x509 import ObjectIdentifier

from enarx.errors import MalformedError

__all__ = [
    "TLV",
    "BitString",
    "Default",
    "Explicit",
    "GeneralizedTime",
    "IA5String",
    "Implicit",
    "Null",
    "ObjectIdentifier",
    "PrintableString",
    "SetOf",
    "Size",
    "UTCTime",
    "boolean",
    "content",
    "decode",
    "encode",
    "generalized_time",
    "integer",
    "members",
    "oid",
    "raw",
    "sequence",
    "sequence_of",
    "text",
    "utc_time",
    "wrap",
]

T = TypeVar("T")
B = TypeVar("B", bytes, memoryview)

_SHORT = 40  # characters of a foreign error's text that are worth showing are few; bytes never are


def decode(kind: type[T], data: bytes, what: str) -> T:
    """Read `data` as exactly one DER element of type `kind`, called `what` in errors.

    Raises MalformedError when it is not DER, not that type, has trailing bytes, or is not canonical.
    """
    try:
        value = decode_der(kind, data)
        canonical = encode_der(value)
    except (ValueError, OverflowError, TypeError) as error:
        _require_whole(data, what)
        raise MalformedError(f"{what}: not the expected DER of {len(data)} bytes: {_first_line(error)}") from error
    if canonical != data:
        raise MalformedError(f"{what}: not in canonical DER form")
    return value


def encode(value: object) -> bytes:
    """The DER of a value whose type was declared with `sequence`."""
    return encode_der(value)


def raw(element: TLV) -> bytes:
    """The bytes of `element`, tag and length included, as they arrived."""
    return encode_der(element)


def sequence_of(data: B, what: str, *, limit: int, tag: int = 0x30) -> tuple[B, ...]:
    """The elements of a bare SEQUENCE OF, or of whatever else `tag` is, each with its tag and length.

    `limit` bounds the number of elements before any of them is looked at. Of a view the elements are views, so that a
    large request is not copied at every level. Raises MalformedError.
    """
    at = _header(data, tag, what)
    end = len(data)
    elements: list[B] = []
    while at < end:
        length = data[at + 1] + 2 if at + 1 < end else 0
        if not 2 <= length < 0x82 or length > end - at or data[at] & 0x1F == 0x1F:  # not the short and simple form
            length, _ = _measure(data, what, at)
        if len(elements) == limit:
            raise MalformedError(f"{what}: more than {limit} elements")
        elements.append(data[at : at + length])
        at += length
    return tuple(elements)


def members(data: B, count: int, what: str) -> tuple[B, ...]:
    """The elements of a SEQUENCE of exactly so many, each as it came. Raises MalformedError."""
    found = sequence_of(data, what, limit=count)
    if len(found) != count:
        raise MalformedError(f"{what}: expected {count} elements, found {len(found)}")
    return found


def wrap(tag: int, content: bytes) -> bytes:
    """An element of a one-byte tag: tag, minimal definite length, content."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def integer(value: int) -> bytes:
    """The element INTEGER of a number that is not negative: as few bytes as leave room for a sign (X.690, 8.3)."""
    return wrap(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def boolean(value: bool) -> bytes:
    """The element BOOLEAN."""
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def text(value: str) -> bytes:
    """The element UTF8String."""
    return wrap(0x0C, value.encode())


def utc_time(moment: datetime) -> bytes:
    """The element UTCTime of a moment in whole seconds (RFC 5280, 4.1.2.5.1)."""
    utc = moment.astimezone(UTC)
    return wrap(0x17, f"{utc.year % 100:02}{_since_new_year(utc)}".encode())


def generalized_time(moment: datetime) -> bytes:
    """The element GeneralizedTime of a moment in whole seconds (RFC 5280, 4.1.2.5.2)."""
    utc = moment.astimezone(UTC)
    return wrap(0x18, f"{utc.year:04}{_since_new_year(utc)}".encode())


def _since_new_year(utc: datetime) -> str:
    return f"{utc.month:02}{utc.day:02}{utc.hour:02}{utc.minute:02}{utc.second:02}Z"


def oid(dotted: str) -> bytes:
    """The element OBJECT IDENTIFIER, tag and length included."""
    return encode_der(ObjectIdentifier(dotted))


def content(data: B, tag: int, what: str) -> B:
    """What stands inside the single element `data` of tag `tag`. Raises MalformedError."""
    return data[_header(data, tag, what) :]


def _header(data: bytes | memoryview, tag: int, what: str) -> int:
    """Where the content of the single element `data` begins. Raises MalformedError."""
    length, header = _measure(data, what)
    if data[0] != tag:
        raise MalformedError(f"{what}: expected tag 0x{tag:02x}, found 0x{data[0]:02x}")
    if length != len(data):
        raise MalformedError(f"{what}: {len(data) - length} bytes follow the element, expected none")
    return header


def _require_whole(data: bytes, what: str) -> None:
    """Raises MalformedError when the outermost element is cut off or something follows it."""
    length, _ = _measure(data, what)
    if length != len(data):
        raise MalformedError(f"{what}: {len(data) - length} bytes follow the element, expected none")


def _measure(data: bytes | memoryview, what: str, at: int = 0) -> tuple[int, int]:
    """Length of the element at that place with its header, and of the header alone (X.690 8.1.3, 10.1)."""
    left = len(data) - at
    if left < 2:
        raise MalformedError(f"{what}: expected a DER element, {left} bytes left")
    tag, length = data[at], data[at + 1]
    if tag & 0x1F == 0x1F:
        raise MalformedError(f"{what}: tag 0x{tag:02x} of several bytes is not used here")
    header = 2
    if length >= 0x80:
        count = length & 0x7F
        header = 2 + count
        length = int.from_bytes(data[at + 2 : at + header], "big")
        if not 1 <= count <= 4 or header > left or length < max(0x80, 1 << 8 * (count - 1)):
            raise MalformedError(f"{what}: length is not in the minimal definite form")
    if header + length > left:
        raise MalformedError(f"{what}: element of {length} bytes, {left - header} left")
    return header + length, header


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:_SHORT] or type(error).__name__
