"""Freshness without memory: a nonce is a moment and randomness, and a MAC over both (flow.md, 4).

    nonce = u32 seconds since 1970 ‖ randomness ‖ first bytes of
            HMAC-SHA256(key, "nonce" ‖ 0x00 ‖ origin ‖ 0x00 ‖ length ‖ moment ‖ randomness)

Any Steward of the same origin that holds the same key accepts it, for minutes. Nothing remembers that a nonce was
used: within those minutes the same request gets another certificate for the same key, which helps nobody else.
EST clients may ask for any length from 8 to 64 bytes (draft-ietf-lamps-attestation-freshness); two thirds of what the
moment leaves are MAC, at least 4 bytes and at most 32. The shortest are still no prey: whoever guesses needs evidence
that was signed over his guess beforehand, and learns here only, one request at a time, whether it was right.
"""

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from enarx.errors import UntrustedError

LIFETIME: Final = timedelta(minutes=10)
SKEW: Final = timedelta(minutes=1)  # between Stewards behind one load balancer
SHORTEST: Final = 8
LONGEST: Final = 64
SIZE: Final = 56  # when nobody asks for another: 20 bytes of randomness and the whole MAC

_MOMENT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonces:
    """Makes and recognises the nonces of one origin."""

    origin: str
    key: bytes = field(repr=False)
    lifetime: timedelta = LIFETIME

    def issue(self, at: datetime, randomness: bytes, size: int = SIZE) -> bytes:
        """`randomness` is `random_size(size)` bytes or more from the operating system."""
        head = int(at.timestamp()).to_bytes(_MOMENT, "big") + randomness[: random_size(size)]
        return head + self._mac(head, size)

    def verify(self, nonce: bytes, at: datetime) -> timedelta:
        """How long ago this origin issued it. Raises UntrustedError unless that was within the lifetime."""
        size = len(nonce) if SHORTEST <= len(nonce) <= LONGEST else 0
        head = nonce[: size - _mac_size(size)] if size else b""
        if not size or not hmac.compare_digest(nonce[len(head) :], self._mac(head, size)):
            raise UntrustedError(f"nonce: not one that {self.origin} issued")
        age = at - datetime.fromtimestamp(int.from_bytes(head[:_MOMENT], "big"), UTC)
        if not -SKEW <= age <= self.lifetime:
            raise UntrustedError(
                f"nonce: expected one of the last {self.lifetime.total_seconds():.0f} seconds, "
                f"found one {age.total_seconds():.0f} seconds old"
            )
        return age

    def _mac(self, head: bytes, size: int) -> bytes:
        text = b"nonce\0" + self.origin.encode() + b"\0" + size.to_bytes(1, "big") + head
        return hmac.digest(self.key, text, sha256)[: _mac_size(size)]


def random_size(size: int) -> int:
    """The bytes of randomness in a nonce of `size` bytes."""
    return size - _MOMENT - _mac_size(size)


def _mac_size(size: int) -> int:
    return min(32, max(4, (size - _MOMENT) * 2 // 3))
