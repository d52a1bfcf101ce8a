"""The attestation document of an AWS Nitro Enclave: COSE_Sign1 over a CBOR map (Nitro Enclaves, attestation process).

    module_id    text, not empty                    digest       "SHA384"
    timestamp    milliseconds since 1970            pcrs         {0..31: 48 bytes}
    certificate  DER of the key that signed         cabundle     DER, the root first
    public_key, user_data, nonce                    optional bytes, at most 1024, 512, 512

Every member is required but the last three, unknown ones are refused, and sizes are those that the NSM promises. The
document travels as it is, in an extension of OID `.4` (flow.md, 3) as an OCTET STRING, or bare. What a Keep binds
stands in `user_data`: the 64 bytes of flow.md, 2, with SHA-384.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from enarx import cbor, der
from enarx.errors import MalformedError
from enarx.pki.cose import ES384, Sign1
from enarx.tee.model import Endorsements, Evidence, Parsed

OID: Final = "2.25.67770326763034024982283820726568347927.4"

MAX_DOCUMENT: Final = 16 * 1024  # bytes: the NSM answers with at most 12 KiB
MAX_BUNDLE: Final = 8  # certificates above the signer; there are four
PCR_SIZE: Final = 48  # bytes, SHA-384
PCRS: Final = range(32)
DIGEST: Final = "SHA384"

_WHAT: Final = "nitro document"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = 253_402_300_799_000  # milliseconds: the end of the year 9999
_REQUIRED: Final = frozenset({"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"})
_OPTIONAL: Final[Mapping[str, int]] = {"public_key": 1024, "user_data": 512, "nonce": 512}
_SEQUENCE_TAGS: Final = (0x84, 0xD2)  # an array of four, or the tag 18 before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What an enclave's document says, parsed and not believed."""

    token: Sign1
    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    certificate: bytes
    bundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedError."""
        if len(data) > MAX_DOCUMENT:
            raise MalformedError(f"{_WHAT}: expected at most {MAX_DOCUMENT} bytes, found {len(data)}")
        token = Sign1.parse(data, _WHAT)
        if token.algorithm != ES384:
            raise MalformedError(f"{_WHAT}: expected the algorithm ES384, found {token.algorithm}")
        members = cbor.decode(token.payload, f"{_WHAT}: payload")
        if not isinstance(members, dict):
            raise MalformedError(f"{_WHAT}: payload: expected a map")
        _require_members(members)
        if members["digest"] != DIGEST:
            raise MalformedError(f"{_WHAT}: digest: expected {DIGEST}, found {str(members['digest'])[:40]!r}")
        return cls(
            token=token,
            module_id=_module(members["module_id"]),
            timestamp=_moment(members["timestamp"]),
            pcrs=_pcrs(members["pcrs"]),
            certificate=_bytes(members["certificate"], "certificate"),
            bundle=_bundle(members["cabundle"]),
            **{name: _optional(members.get(name), name, limit) for name, limit in _OPTIONAL.items()},
        )

    @property
    def debug(self) -> bool:
        """An enclave that was started in debug mode reports its image as zero."""
        return not any(any(self.pcrs.get(index, b"")) for index in range(3))

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(certificates=self.bundle)


def parse(evidence: Evidence) -> Parsed[Document]:
    """Read evidence with our OID or a bare document. Raises MalformedError."""
    body = der.content(evidence.body, 0x04, "nitro evidence") if evidence.oid else evidence.body
    document = Document.parse(body)
    return Parsed(report=document, endorsements=document.endorsements)


def recognise(data: bytes) -> bool:
    """Whether bare bytes begin as a token whose payload is a Nitro document."""
    return data[:1] in {bytes((tag,)) for tag in _SEQUENCE_TAGS} and b"module_id" in data[:64]


def _require_members(members: Mapping[int | str, cbor.Value]) -> None:
    missing = sorted(_REQUIRED - members.keys())
    unknown = [name for name in members if name not in _REQUIRED and name not in _OPTIONAL]
    if missing or unknown:
        found = f"without {missing[0]}" if missing else f"with {str(unknown[0])[:40]!r}"
        raise MalformedError(f"{_WHAT}: expected {', '.join(sorted(_REQUIRED))}, found a map {found}")


def _bytes(value: cbor.Value, name: str) -> bytes:
    if not isinstance(value, bytes) or not value:
        raise MalformedError(f"{_WHAT}: {name}: expected bytes")
    return value


def _optional(value: cbor.Value, name: str, limit: int) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) > limit:
        raise MalformedError(f"{_WHAT}: {name}: expected at most {limit} bytes")
    return value


def _module(value: cbor.Value) -> str:
    if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
        raise MalformedError(f"{_WHAT}: module_id: expected a name")
    return value


def _moment(value: cbor.Value) -> datetime:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LATEST:
        raise MalformedError(f"{_WHAT}: timestamp: expected milliseconds since 1970, found {str(value)[:40]}")
    return _EPOCH + timedelta(milliseconds=value)


def _pcrs(value: cbor.Value) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not value:
        raise MalformedError(f"{_WHAT}: pcrs: expected a map of registers")
    found: dict[int, bytes] = {}
    for index, content in value.items():
        if not isinstance(index, int) or index not in PCRS:
            raise MalformedError(f"{_WHAT}: pcrs: expected an index of 0 to 31, found {str(index)[:40]!r}")
        if not isinstance(content, bytes) or len(content) != PCR_SIZE:
            raise MalformedError(f"{_WHAT}: pcrs: PCR{index}: expected {PCR_SIZE} bytes")
        found[index] = content
    if 0 not in found:
        raise MalformedError(f"{_WHAT}: pcrs: expected PCR0, the enclave's image")
    return found


def _bundle(value: cbor.Value) -> tuple[bytes, ...]:
    if not isinstance(value, tuple) or not 0 < len(value) <= MAX_BUNDLE:
        raise MalformedError(f"{_WHAT}: cabundle: expected 1 to {MAX_BUNDLE} certificates")
    return tuple(_bytes(item, "cabundle") for item in value)
