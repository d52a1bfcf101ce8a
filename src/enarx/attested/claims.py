"""What a Keep claims beside its key, and the report data that binds both to the hardware (flow.md, 2).

A Keep writes `RuntimeClaims` into its certification request; the report in the same request carries
`report_data` over the key and exactly these bytes. So the claims are as true as the report: said by
whatever was measured, and by nobody on the way. The slug is the exception: it is only what the
host told the Keep. Sizes and counts are bounded before anything is decoded. Nothing is decided here.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Final, Self

from enarx import der
from enarx.digest import ALGORITHMS, Digest, HashName, hash_bytes, hash_name
from enarx.errors import MalformedError

RUNTIME_CLAIMS_OID: Final = "2.25.67770326763034024982283820726568347927.1"

DOMAIN: Final = b"enarx-keep-v1\0"
REPORT_DATA_SIZE: Final = 64  # bytes

MAX_CLAIMS: Final = 16 * 1024  # bytes of DER; with the default sealing key and one digest they have about 1,500
MAX_AUDIENCE: Final = 512  # characters of an origin: scheme, host (at most 253) and port
MAX_NONCE: Final = 128  # bytes
MAX_SLUG: Final = 1024  # characters
MAX_SEALING_KEY: Final = 4096  # bytes; the largest KEM key of the HPKE registry has 1,665
MAX_NAMES: Final = 32
MAX_LIFETIME: Final = 366 * 24 * 3600  # seconds; a certificate lives for hours, whatever is wished

MLKEM768_X25519: Final = 0x647A  # HPKE KEM identifier (IANA registry; X-Wing), see `enarx.attested.sealing`
MLKEM768_X25519_SIZE: Final = 1184 + 32  # bytes: ML-KEM-768 public key, X25519 public key

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


def report_data(algorithm: HashName, spki: bytes, claims: bytes | None) -> bytes:
    """The 64 bytes a report must carry for this key (DER SubjectPublicKeyInfo) and these claims (DER).

    Without claims: H(SPKI); with: H("enarx-keep-v1" ‖ 0x00 ‖ SPKI ‖ claims); zeros to 64 bytes.
    """
    parts = (spki,) if claims is None else (DOMAIN, spki, claims)
    return hash_bytes(algorithm, *parts).ljust(REPORT_DATA_SIZE, b"\0")


@der.sequence
class DigestDer:
    algorithm: str
    value: bytes


@der.sequence
class SealingKeyDer:
    kem: int
    key: bytes


@der.sequence
class ClaimsDer:
    """The layout of flow.md, section 2; `enarx.attested.result` embeds it."""

    version: int
    audience: str
    nonce: Annotated[bytes | None, der.Explicit(0)]
    digests: Annotated[list[DigestDer] | None, der.Explicit(1)]
    slug: Annotated[str | None, der.Explicit(2)]
    sealing: Annotated[SealingKeyDer | None, der.Explicit(3)]
    config: Annotated[bytes | None, der.Explicit(4)]
    names: Annotated[list[str] | None, der.Explicit(5)]
    lifetime: Annotated[int | None, der.Explicit(6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingKey:
    """A public KEM key to which a registry seals what it sends: HPKE KEM number (RFC 9180, 7.1) and raw key."""

    kem: int
    key: bytes

    def __post_init__(self) -> None:
        _require(0 < self.kem < 1 << 16, "sealing.kem", "a KEM number of 16 bits", self.kem)
        _require(0 < len(self.key) <= MAX_SEALING_KEY, "sealing.key", f"1 to {MAX_SEALING_KEY} bytes", len(self.key))
        if self.kem == MLKEM768_X25519:
            size = len(self.key)
            _require(size == MLKEM768_X25519_SIZE, "sealing.key", f"{MLKEM768_X25519_SIZE} bytes", size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeClaims:
    """What a Keep says of itself. Raises MalformedError when a value is out of its bounds.

    `audience` is the origin of the Steward it is meant for, `digests` those of the workload's root node, `config`
    the SHA-256 of the deploy configuration, `names` DNS names and `lifetime` seconds that are wished for.
    """

    audience: str
    version: int = 1
    nonce: bytes | None = None
    digests: tuple[Digest, ...] = ()
    slug: str | None = None
    sealing: SealingKey | None = None
    config: bytes | None = None
    names: tuple[str, ...] = ()
    lifetime: int | None = None

    def __post_init__(self) -> None:
        _require(self.version == 1, "version", "1", self.version)
        require_text(self.audience, "runtime claims: audience", MAX_AUDIENCE)
        if self.nonce is not None:
            _require(0 < len(self.nonce) <= MAX_NONCE, "nonce", f"1 to {MAX_NONCE} bytes", len(self.nonce))
        algorithms = [digest.algorithm for digest in self.digests]
        _require(len(set(algorithms)) == len(algorithms), "digests", "each algorithm once", ", ".join(algorithms))
        if self.slug is not None:
            require_text(self.slug, "runtime claims: slug", MAX_SLUG)
        if self.config is not None:
            _require(len(self.config) == 32, "config", "32 bytes", len(self.config))
        _require(len(self.names) <= MAX_NAMES, "names", f"at most {MAX_NAMES}", len(self.names))
        _require(len(set(self.names)) == len(self.names), "names", "each once", ", ".join(self.names))
        for name in self.names:
            _require(_DNS_NAME.fullmatch(name) is not None, "names", "lower-case DNS names", ascii(name)[:80])
        if self.lifetime is not None:
            _require(0 < self.lifetime <= MAX_LIFETIME, "lifetime", f"1 to {MAX_LIFETIME} seconds", self.lifetime)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the DER of flow.md, section 2. Raises MalformedError."""
        if len(data) > MAX_CLAIMS:
            raise MalformedError(f"runtime claims: expected at most {MAX_CLAIMS} bytes, found {len(data)}")
        return cls.from_der(der.decode(ClaimsDer, data, "runtime claims"))

    @classmethod
    def from_der(cls, value: ClaimsDer) -> Self:
        """The claims in a decoded element. Raises MalformedError."""
        _require(value.digests != [], "digests", "absent, or at least one", "none")
        _require(value.names != [], "names", "absent, or at least one", "none")
        _require(len(value.digests or ()) <= len(ALGORITHMS), "digests", f"at most {len(ALGORITHMS)}", "more")
        return cls(
            version=value.version,
            audience=value.audience,
            nonce=value.nonce,
            digests=tuple(_digest(item) for item in value.digests or ()),
            slug=value.slug,
            sealing=None if value.sealing is None else SealingKey(kem=value.sealing.kem, key=value.sealing.key),
            config=value.config,
            names=tuple(value.names or ()),
            lifetime=value.lifetime,
        )

    def to_der(self) -> ClaimsDer:
        return ClaimsDer(
            version=self.version,
            audience=self.audience,
            nonce=self.nonce,
            digests=[DigestDer(algorithm=d.algorithm, value=d.value) for d in self.digests] or None,
            slug=self.slug,
            sealing=None if self.sealing is None else SealingKeyDer(kem=self.sealing.kem, key=self.sealing.key),
            config=self.config,
            names=list(self.names) or None,
            lifetime=self.lifetime,
        )

    def encode(self) -> bytes:
        """The DER that is bound in the report and stands in the request; the inverse of `parse`."""
        return der.encode(self.to_der())

    @property
    def workload(self) -> Digest | None:
        """The workload digest: the SHA-256 of the canonical bytes of the root node."""
        return next((digest for digest in self.digests if digest.algorithm == "sha-256"), None)


def require_text(text: str, what: str, limit: int) -> None:
    """`text` is 1 to `limit` printable ASCII characters without spaces. Raises MalformedError.

    What goes into certificates is printed on terminals and compared by people, so nothing else may stand there.
    """
    if len(text) > limit or not _PRINTABLE.fullmatch(text):
        raise MalformedError(
            f"{what}: expected 1 to {limit} printable ASCII characters without spaces, "
            f"found {len(text)} characters: {ascii(text)[:60]}"
        )


def require(ok: bool, what: str, expected: str, found: object) -> None:
    """Raises MalformedError with what was expected and found, unless `ok`."""
    if not ok:
        raise wrong(what, expected, found)


def wrong(what: str, expected: str, found: object) -> MalformedError:
    """What to raise for a value that is out of its bounds."""
    return MalformedError(f"{what}: expected {expected}, found {_short(found)}")


def _digest(item: DigestDer) -> Digest:
    name = hash_name(item.algorithm)
    if name is None or name != item.algorithm:
        raise MalformedError(
            f"runtime claims: digests: expected one of {', '.join(ALGORITHMS)}, found {ascii(item.algorithm)[:40]}"
        )
    return Digest(algorithm=name, value=item.value)


def _require(ok: bool, field: str, expected: str, found: object) -> None:
    require(ok, f"runtime claims: {field}", expected, found)


def _short(found: object) -> str:
    """What was found, for people. An integer of DER can have more digits than Python agrees to print."""
    if isinstance(found, int) and found.bit_length() > 64:
        return f"a number of {found.bit_length()} bits"
    return str(found)[:100]
