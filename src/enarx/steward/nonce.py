"""Freshness without memory: a nonce is a moment and randomness, and a MAC over both (flow.md, 4).

    nonce = u64 seconds since 1970 ‖ 16 random bytes ‖ HMAC-SHA256(key, "nonce" ‖ 0x00 ‖ origin ‖ 0x00 ‖ first 24 bytes)

Any Steward of the same origin that holds the same key accepts it, for minutes. Nothing remembers that a nonce was
used: within those minutes the same request gets another certificate for the same key, which helps nobody else.
The size, 56 bytes, is within what EST clients expect (draft-ietf-lamps-attestation-freshness: 8 to 64).
"""

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from enarx.errors import UntrustedError

LIFETIME: Final = timedelta(minutes=10)
SKEW: Final = timedelta(minutes=1)  # between Stewards behind one load balancer
RANDOM_BYTES: Final = 16
SIZE: Final = 8 + RANDOM_BYTES + 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonces:
    """Makes and recognises the nonces of one origin."""

    origin: str
    key: bytes = field(repr=False)
    lifetime: timedelta = LIFETIME

    def issue(self, at: datetime, randomness: bytes) -> bytes:
        """`randomness` is RANDOM_BYTES from the operating system."""
        head = int(at.timestamp()).to_bytes(8, "big") + randomness
        return head + self._mac(head)

    def verify(self, nonce: bytes, at: datetime) -> timedelta:
        """How long ago this origin issued it. Raises UntrustedError unless that was within the lifetime."""
        head, mac = nonce[:-32], nonce[-32:]
        if len(nonce) != SIZE or not hmac.compare_digest(mac, self._mac(head)):
            raise UntrustedError(f"nonce: not one that {self.origin} issued")
        age = at - datetime.fromtimestamp(int.from_bytes(head[:8], "big"), UTC)
        if not -SKEW <= age <= self.lifetime:
            raise UntrustedError(
                f"nonce: expected one of the last {self.lifetime.total_seconds():.0f} seconds, "
                f"found one {age.total_seconds():.0f} seconds old"
            )
        return age

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self.key, b"nonce\0" + self.origin.encode() + b"\0" + head, sha256)
