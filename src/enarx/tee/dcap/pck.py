"""The PCK certificate: which machine signed for the Quoting Enclave, and how patched it was.

Reads the extension 1.2.840.113741.1.13.1 (Intel SGX PCK Certificate and CRL Profile Specification,
section 1.3.5) strictly: DER, every field of its length, none twice. The identities of the chip, the
16 component SVNs and the PCESVN that Intel certified stand here, not in the quote. The chain that a
quote carries is PEM as Intel's libraries write it and no other, so that no bit of a quote can be
flipped and the rest be read as well. Nothing is judged.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

from enarx import der
from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate, pem, pem_blocks

EXTENSION: Final = "1.2.840.113741.1.13.1"
COMPONENTS: Final = 16
CHAIN_LENGTH: Final = 3  # PCK certificate, PCK CA, root: Intel's profile has no other

SgxType = Literal["Standard", "Scalable", "ScalableWithIntegrity"]
SGX_TYPES: Final[tuple[SgxType, ...]] = ("Standard", "Scalable", "ScalableWithIntegrity")

_WHAT: Final = "PCK extension"


@der.sequence
class _Item:
    oid: der.ObjectIdentifier
    value: der.TLV


@dataclass(frozen=True, slots=True, kw_only=True)
class Pck:
    """What Intel certified about one platform. The optional fields stand only under the Platform CA."""

    ppid: bytes  # 16, identifies the processor package that provisions
    components: tuple[int, ...]  # 16 SVNs, 0 to 255
    pce_svn: int  # 16 bits
    cpu_svn: bytes  # 16
    pce_id: bytes  # 2
    fmspc: bytes  # 6: family, model, stepping, platform type, custom SKU
    sgx_type: SgxType
    platform_instance_id: bytes | None = None  # 16
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the extension's value. Raises MalformedError."""
        top = _Fields(_items(data, EXTENSION, limit=7))
        tcb = _Fields(_items(top.take("2", "TCB"), f"{EXTENSION}.2", limit=18))
        configuration = top.find("7")
        flags = _Fields({} if configuration is None else _items(configuration, f"{EXTENSION}.7", limit=3))
        instance = top.find("6")
        parsed = cls(
            ppid=_octets(top.take("1", "PPID"), 16, "PPID"),
            components=tuple(
                _integer(tcb.take(str(index), f"component {index}"), 0xFF, f"component {index}")
                for index in range(1, COMPONENTS + 1)
            ),
            pce_svn=_integer(tcb.take("17", "PCESVN"), 0xFFFF, "PCESVN"),
            cpu_svn=_octets(tcb.take("18", "CPUSVN"), 16, "CPUSVN"),
            pce_id=_octets(top.take("3", "PCEID"), 2, "PCEID"),
            fmspc=_octets(top.take("4", "FMSPC"), 6, "FMSPC"),
            sgx_type=_sgx_type(top.take("5", "SGX type")),
            platform_instance_id=None if instance is None else _octets(instance, 16, "platform instance id"),
            dynamic_platform=_boolean(flags.find("1"), "dynamic platform"),
            cached_keys=_boolean(flags.find("2"), "cached keys"),
            smt_enabled=_boolean(flags.find("3"), "SMT enabled"),
        )
        for fields in (top, tcb, flags):
            fields.end()
        return parsed

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """What `certificate` says of its platform. Raises MalformedError when it has no such extension."""
        extension = certificate.extensions.get(EXTENSION)
        if extension is None:
            raise MalformedError(f"PCK certificate: extension {EXTENSION} is missing")
        return cls.parse(extension.value)

    def encode(self) -> bytes:
        """The extension's value in the order in which Intel writes it."""
        tcb = [_item(f"2.{index}", _der_integer(svn)) for index, svn in enumerate(self.components, start=1)]
        tcb += [_item("2.17", _der_integer(self.pce_svn)), _item("2.18", der.wrap(0x04, self.cpu_svn))]
        items = [
            _item("1", der.wrap(0x04, self.ppid)),
            _item("2", der.wrap(0x30, b"".join(tcb))),
            _item("3", der.wrap(0x04, self.pce_id)),
            _item("4", der.wrap(0x04, self.fmspc)),
            _item("5", der.wrap(0x0A, bytes((SGX_TYPES.index(self.sgx_type),)))),
        ]
        if self.platform_instance_id is not None:
            items.append(_item("6", der.wrap(0x04, self.platform_instance_id)))
        flags = [
            _item(f"7.{index}", der.wrap(0x01, b"\xff" if flag else b"\0"))
            for index, flag in enumerate((self.dynamic_platform, self.cached_keys, self.smt_enabled), start=1)
            if flag is not None
        ]
        if flags:
            items.append(_item("7", der.wrap(0x30, b"".join(flags))))
        return der.wrap(0x30, b"".join(items))


@lru_cache(maxsize=256)
def read_chain(data: bytes) -> tuple[Certificate, Certificate, Certificate]:
    """The PCK certificate, its CA and the root of a quote's certification data. Raises MalformedError."""
    what = "PCK certificate chain"
    blocks = _blocks(data, what)
    if len(blocks) != CHAIN_LENGTH:
        raise MalformedError(f"{what}: expected {CHAIN_LENGTH} certificates (PCK, CA, root), found {len(blocks)}")
    leaf, issuer, root = (Certificate.parse(block, what) for block in blocks)
    return leaf, issuer, root


def read_leaf(data: bytes) -> Certificate:
    """The PCK certificate alone, as certification data of type 4 has it. Raises MalformedError."""
    what = "PCK certificate"
    blocks = _blocks(data, what)
    if len(blocks) != 1:
        raise MalformedError(f"{what}: expected one certificate, found {len(blocks)}")
    return Certificate.parse(blocks[0], what)


def _blocks(data: bytes, what: str) -> tuple[bytes, ...]:
    """PEM of 64 columns, each block with lines that all end in LF or all in CRLF.

    After a block stand line ends of either kind, none or several, and NULs may fill the end: quoting libraries and the
    services that they have the parts from differ there, and Intel's own verifier passes over both. Any other byte is
    refused.
    """
    blocks = pem_blocks(data, "CERTIFICATE", what, limit=CHAIN_LENGTH)
    rest = data
    for block in blocks:
        text = pem("CERTIFICATE", block).removesuffix(b"\n")
        writing = text if rest.startswith(text) else text.replace(b"\n", b"\r\n")
        if not rest.startswith(writing):
            raise MalformedError(f"{what}: expected PEM of 64 columns and nothing but line ends between the blocks")
        rest = re.sub(rb"\A(?:\r?\n)+", b"", rest[len(writing) :])
    if rest.strip(b"\0"):
        raise MalformedError(f"{what}: expected nothing after the last block but line ends and NULs")
    return blocks


def write_chain(ders: tuple[bytes, ...]) -> bytes:
    """Certificates (DER, leaf first) as the PEM that a quote carries."""
    return b"".join(pem("CERTIFICATE", data) for data in ders)


@lru_cache(maxsize=256)
def read_pck(certificate_extension: bytes) -> Pck:
    """As `Pck.parse`, remembered: machines attest again and again."""
    return Pck.parse(certificate_extension)


class _Fields:
    """The members of one level by the last arc of their OID; what nobody took is an error."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = dict(members)

    def find(self, arc: str) -> bytes | None:
        return self._members.pop(arc, None)

    def take(self, arc: str, name: str) -> bytes:
        value = self.find(arc)
        if value is None:
            raise MalformedError(f"{_WHAT}: {name} is missing")
        return value

    def end(self) -> None:
        if self._members:
            raise MalformedError(f"{_WHAT}: unknown member {min(self._members)}")


def _items(data: bytes, prefix: str, *, limit: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for element in der.sequence_of(data, _WHAT, limit=limit):
        item = der.decode(_Item, element, _WHAT)
        oid = item.oid.dotted_string
        head, _, arc = oid.rpartition(".")
        if head != prefix:
            raise MalformedError(f"{_WHAT}: expected a member of {prefix}, found {oid}")
        if arc in found:
            raise MalformedError(f"{_WHAT}: {oid} stands twice")
        found[arc] = der.raw(item.value)
    return found


def _octets(element: bytes, length: int, name: str) -> bytes:
    value = der.content(element, 0x04, f"{_WHAT}: {name}")
    if len(value) != length:
        raise MalformedError(f"{_WHAT}: {name}: expected {length} bytes, found {len(value)}")
    return value


def _integer(element: bytes, maximum: int, name: str) -> int:
    octets = der.content(element, 0x02, f"{_WHAT}: {name}")
    value = int.from_bytes(octets, "big", signed=True)
    if value < 0 or element != _der_integer(value):
        raise MalformedError(f"{_WHAT}: {name}: expected a minimal INTEGER that is not negative")
    if value > maximum:
        raise MalformedError(f"{_WHAT}: {name}: expected at most {maximum}, found {value}")
    return value


def _sgx_type(element: bytes) -> SgxType:
    value = der.content(element, 0x0A, f"{_WHAT}: SGX type")
    if len(value) != 1 or value[0] >= len(SGX_TYPES):
        raise MalformedError(f"{_WHAT}: SGX type: expected ENUMERATED 0 to {len(SGX_TYPES) - 1}, found {value.hex()}")
    return SGX_TYPES[value[0]]


def _boolean(element: bytes | None, name: str) -> bool | None:
    if element is None:
        return None
    value = der.content(element, 0x01, f"{_WHAT}: {name}")
    if value not in {b"\0", b"\xff"}:
        raise MalformedError(f"{_WHAT}: {name}: expected a BOOLEAN of 00 or ff, found {value.hex()}")
    return value == b"\xff"


def _item(arc: str, value: bytes) -> bytes:
    return der.encode(_Item(oid=der.ObjectIdentifier(f"{EXTENSION}.{arc}"), value=_tlv(value)))


def _tlv(value: bytes) -> der.TLV:
    return der.decode(der.TLV, value, _WHAT)


def _der_integer(value: int) -> bytes:
    return der.wrap(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))
