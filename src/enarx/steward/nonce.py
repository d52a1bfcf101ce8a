"""Freshness without memory: a nonce is a moment and randomness, and a MAC over both (flow.md, 4).

    nonce = u32 seconds since 1970 ‖ randomness ‖ first bytes of
            HMAC-SHA256(key, "nonce" ‖ 0x00 ‖ origin ‖ 0x00 ‖ length ‖ moment ‖ randomness)

Any Steward of the same origin that holds the same key accepts it, for minutes. When a running Steward gets another key,
the older one is still recognised, and for a moment still used: its processes do not change at the same instant. Nothing remembers that a nonce was
used: within those minutes the same request gets another certificate for the same key, which helps nobody else.
EST clients may ask for any length from 8 to 64 bytes (draft-ietf-lamps-attestation-freshness); two thirds of what the
moment leaves are MAC, at least 4 bytes and at most 32. The shortest are still no prey: whoever guesses needs evidence
that was signed over his guess beforehand, and learns here only, one request at a time, whether it was right.
"""

import hmac
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, Self

from enarx.errors import UntrustedError

LIFETIME: Final = timedelta(minutes=10)
SKEW: Final = timedelta(minutes=1)  # between Stewards behind one load balancer
OVERLAP: Final = timedelta(seconds=10)  # after a change of keys, until the last process has the new one
SHORTEST: Final = 8
LONGEST: Final = 64
SIZE: Final = 56  # when nobody asks for another: 20 bytes of randomness and the whole MAC

MAX_OLDER: Final = 8

_MOMENT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonces:
    """Makes and recognises the nonces of one origin."""

    origin: str
    key: bytes = field(repr=False)
    lifetime: timedelta = LIFETIME
    older: tuple[bytes, ...] = field(default=(), repr=False)  # keys from before, still recognised
    since: datetime | None = None  # when `key` took the place of the first of those, if that was while we ran

    def after(self, before: Self, at: datetime) -> Self:
        """These, where `before` was in force until that moment."""
        if before.key == self.key:
            return replace(self, older=before.older, since=before.since)
        older = dict.fromkeys((before.key, *before.older, *self.older))
        return replace(self, older=tuple(older)[:MAX_OLDER], since=at)

    def issue(self, at: datetime, randomness: bytes, size: int = SIZE) -> bytes:
        """`randomness` is `random_size(size)` bytes or more from the operating system."""
        key = self.older[0] if self.older and self.since is not None and at < self.since + OVERLAP else self.key
        head = int(at.timestamp()).to_bytes(_MOMENT, "big") + randomness[: random_size(size)]
        return head + self._mac(key, head, size)

    def verify(self, nonce: bytes, at: datetime) -> timedelta:
        """How long ago this origin issued it. Raises UntrustedError unless that was within the lifetime."""
        size = len(nonce) if SHORTEST <= len(nonce) <= LONGEST else 0
        head = nonce[: size - _mac_size(size)] if size else b""
        keys = (self.key, *self.older)
        if not size or not any(hmac.compare_digest(nonce[len(head) :], self._mac(key, head, size)) for key in keys):
            raise UntrustedError(f"nonce: not one that {self.origin} issued")
        age = at - datetime.fromtimestamp(int.from_bytes(head[:_MOMENT], "big"), UTC)
        if not -SKEW <= age <= self.lifetime:
            raise UntrustedError(
                f"nonce: expected one of the last {self.lifetime.total_seconds():.0f} seconds, "
                f"found one {age.total_seconds():.0f} seconds old"
            )
        return age

    def _mac(self, key: bytes, head: bytes, size: int) -> bytes:
        text = b"nonce\0" + self.origin.encode() + b"\0" + size.to_bytes(1, "big") + head
        return hmac.digest(key, text, sha256)[: _mac_size(size)]


def random_size(size: int) -> int:
    """The bytes of randomness in a nonce of `size` bytes."""
    return size - _MOMENT - _mac_size(size)


def _mac_size(size: int) -> int:
    return min(32, max(4, (size - _MOMENT) * 2 // 3))
