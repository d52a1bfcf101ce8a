"""The certificate of the key that signs reports: VCEK (of one chip) or VLEK (of a cloud), AMD 57230.

X.509 with serial number 0 and AMD's own extensions, read strictly: product, the security versions for which the key
was derived, and the chip (hwID) or the cloud (CSP_ID) that it belongs to. The hwID stands bare or in an OCTET STRING,
and is told by its length alone: 64 bytes up to Genoa, 8 from Turin on. What the certificate says is compared by
`enarx.tee.snp.verify`; here is only what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

from enarx import der
from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate, Extension
from enarx.tee.documents import read_certificate
from enarx.tee.snp.tcb import Layout, Tcb, read_layout

Kind = Literal["VCEK", "VLEK"]

ARC: Final = "1.3.6.1.4.1.3704.1"
STRUCT_VERSION: Final = f"{ARC}.1"
PRODUCT_NAME: Final = f"{ARC}.2"
BOOTLOADER: Final = f"{ARC}.3.1"
TEE: Final = f"{ARC}.3.2"
SNP: Final = f"{ARC}.3.3"
RESERVED: Final = tuple(f"{ARC}.3.{arc}" for arc in (4, 5, 6, 7))
MICROCODE: Final = f"{ARC}.3.8"
FMC: Final = f"{ARC}.3.9"
HWID: Final = f"{ARC}.4"
CSP_ID: Final = f"{ARC}.5"
UNDERSTOOD: Final = (STRUCT_VERSION, PRODUCT_NAME, BOOTLOADER, TEE, SNP, *RESERVED, MICROCODE, FMC, HWID, CSP_ID)

NAMES: Final[Mapping[str, Kind]] = {"SEV-VCEK": "VCEK", "SEV-VLEK": "VLEK"}
HWID_SIZE: Final[Mapping[Layout, int]] = {0: 64, 1: 8}

_WHAT: Final = "VEK certificate"
_MAX_TEXT: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Vek:
    """What the certificate says of the key. `hwid` is of the chip (VCEK), `csp_id` names the cloud (VLEK)."""

    certificate: Certificate
    kind: Kind
    layout: Layout
    product_name: str
    tcb: Tcb
    hwid: bytes | None
    csp_id: str | None

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """Raises MalformedError when it is no VCEK and no VLEK, or does not say all that those have to say."""
        kind = NAMES.get(certificate.common_name)
        if kind is None:
            raise MalformedError(f"{_WHAT}: expected SEV-VCEK or SEV-VLEK, found {certificate.common_name!r}")
        have = certificate.extensions
        layout = read_layout(_integer(have, STRUCT_VERSION))
        if layout == 0 and FMC in have:
            raise MalformedError(f"{_WHAT}: FMC SPL has no place in structVersion 0")
        for oid in RESERVED:
            if oid in have and _integer(have, oid):
                raise MalformedError(f"{_WHAT}: reserved SPL {oid} must be 0")
        wrong, right = (CSP_ID, HWID) if kind == "VCEK" else (HWID, CSP_ID)
        if wrong in have or right not in have:
            raise MalformedError(f"{_WHAT}: a {kind} has {right} and not {wrong}")
        return cls(
            certificate=certificate,
            kind=kind,
            layout=layout,
            product_name=_text(have, PRODUCT_NAME),
            tcb=Tcb(
                bootloader=_integer(have, BOOTLOADER),
                tee=_integer(have, TEE),
                snp=_integer(have, SNP),
                microcode=_integer(have, MICROCODE),
                fmc=_integer(have, FMC) if layout else None,
            ),
            hwid=_hwid(have[HWID].value, layout) if kind == "VCEK" else None,
            csp_id=_text(have, CSP_ID) if kind == "VLEK" else None,
        )

    @property
    def product(self) -> str:
        """The product without its stepping: `Milan` of `Milan-B0`. Bergamo and Siena are Genoa to AMD's chains."""
        name = self.product_name.partition("-")[0]
        return "Genoa" if name in {"Bergamo", "Siena"} else name


@lru_cache(maxsize=256)
def read_vek(data: bytes) -> Vek:
    """As `Vek.of` on a DER certificate, remembered. Raises MalformedError."""
    return Vek.of(read_certificate(data))


def integer(value: int) -> bytes:
    """A security version as AMD writes it: a DER INTEGER of one byte, or of two from 128 on."""
    return der.wrap(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def text(value: str) -> bytes:
    """A name as AMD writes it: an IA5String."""
    return der.wrap(0x16, value.encode("ascii"))


def _value(have: Mapping[str, Extension], oid: str) -> bytes:
    extension = have.get(oid)
    if extension is None:
        raise MalformedError(f"{_WHAT}: extension {oid} is missing")
    return extension.value


def _integer(have: Mapping[str, Extension], oid: str) -> int:
    value = _value(have, oid)
    number = int.from_bytes(der.content(value, 0x02, f"{_WHAT}: {oid}"), "big", signed=True)
    if not 0 <= number <= 0xFF or value != integer(number):
        raise MalformedError(f"{_WHAT}: {oid}: expected a minimal INTEGER from 0 to 255, found {value.hex()[:20]}")
    return number


def _text(have: Mapping[str, Extension], oid: str) -> str:
    octets = der.content(_value(have, oid), 0x16, f"{_WHAT}: {oid}")
    if not 1 <= len(octets) <= _MAX_TEXT or not octets.isascii() or not octets.decode().isprintable():
        raise MalformedError(f"{_WHAT}: {oid}: expected 1 to {_MAX_TEXT} printable ASCII characters")
    return octets.decode()


def _hwid(value: bytes, layout: Layout) -> bytes:
    size = HWID_SIZE[layout]
    if len(value) == size:
        return value
    if len(value) == size + 2:
        return der.content(value, 0x04, f"{_WHAT}: hwID")
    raise MalformedError(f"{_WHAT}: hwID: expected {size} bytes in structVersion {layout}, found {len(value)}")
