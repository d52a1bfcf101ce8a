"""Bytes that travelled as text: in hexadecimal, in base64, behind a byte order mark, in percent signs, or below HTTP headers.

People mail quotes, paste reports and keep what `curl -i` printed. The text is taken off before anybody looks at the
bytes, and nothing is decided here: what comes out is recognised and judged like everything else.
"""

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from enarx.errors import MalformedError

_MARK: Final = b"\xef\xbb\xbf"  # of UTF-8; RFC 8259 lets a reader of JSON ignore it
_HEX: Final = re.compile(rb"\s*(?:0[xX])?[0-9a-fA-F\s]+")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")
_BASE64_URL: Final = re.compile(rb"[A-Za-z0-9_\-\s]+={0,2}\s*")
_SHORTEST: Final = 64  # characters: a word is base64 too, and no document is as short as that
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")


def unwritten(data: bytes) -> bytes:
    """The bytes behind the text; bytes that are no text as they are. Raises MalformedError for half a byte."""
    data = data.removeprefix(_MARK)
    if _HEX.fullmatch(data):
        digits = re.sub(rb"\s|0[xX]", b"", data)
        if len(digits) % 2:
            raise MalformedError(f"hexadecimal text with an odd number of digits, {len(digits)}: is it cut off?")
        return bytes.fromhex(digits.decode())
    if len(data) < _SHORTEST or b"-----BEGIN" in data:
        return data
    for form, alphabet in ((_BASE64, b"+/"), (_BASE64_URL, b"-_")):
        if form.fullmatch(data):
            return _from_base64(b"".join(data.split()).rstrip(b"="), alphabet)
    return data


def without_percent(data: bytes) -> bytes:
    """PEM as Intel's services put it into headers, as PEM."""
    return unquote_to_bytes(data)


def below_head(data: bytes) -> tuple[bytes, bytes]:
    """The headers and the body of an HTTP answer that was kept whole; redirects and `100 Continue` above it are dropped."""
    head = b""
    while data.startswith(b"HTTP/"):
        end = _HEAD_END.search(data)
        head, data = (data, b"") if end is None else (data[: end.start()], data[end.end() :])
    return head, data


def _from_base64(text: bytes, alphabet: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), alphabet, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"base64 text of {len(text)} characters, which is no whole number of bytes") from error
