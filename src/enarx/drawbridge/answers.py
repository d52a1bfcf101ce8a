"""What the registry answers with: headers, whole and partial bodies, sealed ones.

Downloads that are not sealed have an ETag and ranges. What publishers uploaded is never run in a browser:
`Content-Security-Policy: sandbox`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from enarx.attested import sealing
from enarx.attested.relying import Peer
from enarx.digest import Digest, Digests
from enarx.drawbridge.registry import JSON_TYPE, Stored, StoredNode
from enarx.drawbridge.streams import ahead
from enarx.drawbridge.tree import Meta
from enarx.drawbridge.visit import Visit
from enarx.errors import DeniedError

SMALL: Final = 256 * 1024  # bytes of an answer that is not streamed
UPLOADED: Final = {"Content-Security-Policy": "sandbox; default-src 'none'", "Referrer-Policy": "no-referrer"}
NOT_AS_EXPECTED: Final = "What is here is not what If-Match or If-None-Match expects"
OURS: Final = {**UPLOADED, "Cache-Control": "no-store"}


def as_json(visit: Visit, value: object, status: int = 200) -> Response:
    _require_match(visit, None)
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, OURS, media_type=JSON_TYPE)


def as_stored(visit: Visit, stored: Stored, headers: Mapping[str, str] | None = None) -> Response:
    return as_body(visit, stored.body, stored.meta, headers)


def as_body(visit: Visit, body: bytes, meta: Meta, headers: Mapping[str, str] | None = None) -> Response:
    named = {**_headers(meta, Digest.of(body)), **(headers or {})}
    _require_match(visit, named["ETag"])
    if _is_known(visit, named["ETag"]):
        return Response(status_code=304, headers=named)
    response = Response(b"" if visit.method == "HEAD" else body, headers=named)
    response.headers["Content-Type"] = meta.media_type
    response.headers["Content-Length"] = str(len(body))
    return response


def _headers(meta: Meta, sha256: Digest) -> dict[str, str]:
    digests = meta.digests or Digests([sha256])
    return {
        **UPLOADED,
        "Content-Digest": digests.header(),
        "ETag": f'"{sha256.hex}"',
        "Cache-Control": "no-cache",
        "Vary": "Authorization",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """An answer whose beginning takes a while: it is for a thread."""

    begin: Callable[[], Response]


def as_node(visit: Visit, node: StoredNode) -> Response | Later:
    """A node as it is, or a range of it. The first piece is read before anything is said, so damage is an error."""
    length, headers = node.meta.length, _headers(node.meta, node.sha256)
    headers["Accept-Ranges"] = "bytes"
    _require_match(visit, headers["ETag"])
    if _is_known(visit, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = _range(visit, length, headers["ETag"])
    start, stop = wanted or (0, length)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{length}"
        headers["Repr-Digest"] = headers.pop("Content-Digest")  # of the whole, which this is not (RFC 9530, 3)
    headers |= {"Content-Type": node.meta.media_type, "Content-Length": str(stop - start)}
    status = 200 if wanted is None else 206
    if visit.method == "HEAD":
        return Response(status_code=status, headers=headers)
    if length > SMALL:
        return Later(begin=lambda: _streamed(node.read(start, stop), status, headers))
    return _streamed(node.read(start, stop), status, headers)


def as_sealed(visit: Visit, node: StoredNode, keep: Peer, workload: Digest) -> Response:
    """A node that only this Keep can open: no ranges, nothing to keep."""
    key = keep.sealing_key
    if key is None:
        raise DeniedError("The certificate names no sealing key")
    meta = node.meta.encode()
    length = sealing.sealed_length(len(meta), node.meta.length)
    headers = {**OURS, "Content-Type": sealing.MEDIA_TYPE, "Content-Length": str(length)}
    body = sealing.seal(
        key, leaf=keep.certificate.der, workload=workload, path=str(visit.target.path), meta=meta, body=node.read()
    )
    if visit.method == "HEAD":
        return Response(headers=headers)
    return _streamed(body, 200, headers)


def _streamed(pieces: Iterator[bytes], status: int, headers: Mapping[str, str]) -> Response:
    """What is small is read at once: going from thread to thread would cost more than reading it."""
    if int(headers["Content-Length"]) <= SMALL:
        return Response(b"".join(pieces), status, headers)
    first = next(pieces, b"")
    return StreamingResponse(ahead(pieces, first), status, headers)


def _require_match(visit: Visit, etag: str | None) -> None:
    """RFC 9110, 13.1.1. What has no ETag matches none. Raises 412."""
    wanted = visit.headers.get("if-match")
    if wanted is not None and wanted.strip() != "*" and etag not in [item.strip() for item in wanted.split(",")]:
        raise HTTPException(412, NOT_AS_EXPECTED)


def _is_known(visit: Visit, etag: str) -> bool:
    """RFC 9110, 13.1.2."""
    wanted = visit.headers.get("if-none-match")
    if wanted is None:
        return False
    return wanted.strip() == "*" or any(item.strip().removeprefix("W/") == etag for item in wanted.split(","))


def _range(visit: Visit, length: int, etag: str) -> tuple[int, int] | None:
    """The one range that is asked for, from and to before; None for all. Raises 416 for one outside.

    Several ranges, and what can not be read, are answered with the whole (RFC 9110, 14.2).
    """
    text = visit.headers.get("range", "").strip()
    condition = visit.headers.get("if-range")
    if visit.method != "GET":  # RFC 9110, 14.2
        return None
    if text[:6].lower() != "bytes=" or "," in text or (condition is not None and condition.strip() != etag):
        return None
    first, dash, last = text[6:].strip().partition("-")
    if not dash or not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last)):
        return None
    if first:
        start, stop = _position(first), min(_position(last) + 1 if last else length, length)
        if last and _position(last) < start:
            return None
    elif last:
        start, stop = max(0, length - _position(last)), length
    else:
        return None
    if start >= stop:
        raise HTTPException(416, f"Range not satisfiable: {length} bytes", {"Content-Range": f"bytes */{length}"})
    return start, stop


def _position(digits: str) -> int:
    """A position, however far outside; what has more digits than any file has bytes is beyond each of them."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) < 20 else 10**20
