"""SEV-SNP's attestation report, bytes to fields and back, and the evidence that brings it with its certificates.

The report is the ATTESTATION_REPORT of AMD 56860 (SEV-SNP firmware ABI), 1184 bytes, little-endian, of version 2, 3, 4
or 5. Which bytes are reserved depends on the version; every one of them has to be zero, and nothing may follow.
Version 4 is not public: its bytes where version 5 has the mitigation vectors are recorded and mean nothing here.
Evidence is one of these (flow.md 3, protocol.md 1.7); without an OID it is the bare report, or the firmware's response
around it (MSG_REPORT_RSP: status, size, 24 reserved bytes, report), which Linux fills with zeros up to its buffer's end:
    SEQUENCE { crts SEQUENCE { vcek Certificate, crl CrlList }, report OCTET STRING }          the originals
    SEQUENCE { vcek Certificate, report OCTET STRING }                                         theirs, from before CRLs
    SEQUENCE { report OCTET STRING, certs SEQUENCE OF Certificate, crl CrlList }               ours
Whether the signature or anything else is right is asked by `enarx.tee.snp.verify`, over the bytes that came.
"""

import struct
from functools import lru_cache
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from enarx import der
from enarx.binary import Writer, require_zeros
from enarx.errors import MalformedError
from enarx.tee.documents import CrlList, element, put_crls, read_certificate, take_crls
from enarx.tee.model import Endorsements, Evidence, Parsed
from enarx.tee.snp.tcb import layout_of, read_tcb

OID: Final = "1.3.6.1.4.1.58270.1.3"
OID_WITH_CHAIN: Final = "2.25.67770326763034024982283820726568347927.6"

SIZE: Final = 0x4A0
SIGNED: Final = 0x2A0  # the signature covers the bytes before it
VERSIONS: Final = (2, 3, 4, 5)

ECDSA_P384_SHA384: Final = 1  # SIGNATURE_ALGO
HOST: Final = 0xFFFFFFFF  # VMPL of a report that the host asked for, not the guest
VCEK: Final = 0  # SIGNING_KEY
VLEK: Final = 1
NONE: Final = 7

BUFFER: Final = 4000  # bytes of Linux's `snp_report_resp`

MAX_EVIDENCE: Final = 256 * 1024  # bytes; the originals' have about 4,400, with the CRLs of two products
MAX_CERTIFICATES: Final = 8  # leaf, intermediate and root; hosts hand out those of both kinds of keys

_WHAT: Final = "SNP report"
_SCALAR: Final = 48  # bytes of r and of s on P-384; each stands in a field of 72
_FIELD: Final = 72
_TAIL: Final = 368
_RESPONSE: Final = bytes(4) + SIZE.to_bytes(4, "little") + bytes(24)  # the head of MSG_REPORT_RSP: STATUS is 0
_POLICY_ONE: Final = 1 << 17

# The fields in their order, as `Report.parse` names them; x are the bytes that every version reserves.
_LAYOUT: Final = struct.Struct(
    "<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s3s21x64s8s3sx3sx8s16s152x"  # what is signed
    "48s24x48s24x368x"
)
_RESERVED: Final = (
    (0x4C, 4, "reserved"),
    (0x18B, 21, "reserved"),
    (0x1EB, 1, "reserved"),
    (0x1EF, 1, "reserved"),
    (0x208, 152, "reserved"),
    (0x2D0, _FIELD - _SCALAR, "R above 48 bytes"),
    (0x318, _FIELD - _SCALAR, "S above 48 bytes"),
    (0x330, _TAIL, "signature's tail"),
)


class Version(Struct, frozen=True, kw_only=True):
    """A firmware's version, as the report has it: ABI major and minor, and the build."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


class Report(Struct, frozen=True, kw_only=True):
    """What a report says, parsed and not believed. `signed` is what the signature covers, exactly as it came."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes  # 16
    image_id: bytes  # 16
    vmpl: int
    current_tcb: bytes  # 8, as are the other three: what they mean depends on the product
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes  # 64
    measurement: bytes  # 48
    host_data: bytes  # 32
    id_key_digest: bytes  # 48
    author_key_digest: bytes  # 48
    report_id: bytes  # 32
    report_id_ma: bytes  # 32
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None  # family, model, stepping; from version 3
    chip_id: bytes  # 64
    committed_tcb: bytes
    current_version: Version
    committed_version: Version
    launch_tcb: bytes
    launch_mit_vector: int | None  # from version 5
    current_mit_vector: int | None
    unpublished: bytes  # 16 bytes of version 4, else none
    signature: bytes  # r ‖ s, 48 bytes each, little-endian
    signed: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one report. Raises MalformedError."""
        if len(data) != SIZE:
            raise MalformedError(f"{_WHAT}: expected {SIZE} bytes, found {len(data)}")
        for start, count, field in _RESERVED:
            require_zeros(data, start, count, field, what=_WHAT)
        (
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            algorithm,
            current_tcb,
            platform_info,
            flags,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            report_id_ma,
            reported_tcb,
            cpuid,
            chip_id,
            committed_tcb,
            current_version,
            committed_version,
            launch_tcb,
            mitigations,
            r,
            s,
        ) = _LAYOUT.unpack(data)
        if version not in VERSIONS:
            raise MalformedError(f"{_WHAT}: VERSION at 0x0: expected 2 to 5, found {version}")
        if vmpl > 3 and vmpl != HOST:
            raise MalformedError(f"{_WHAT}: VMPL at 0x30: expected 0 to 3 or 0x{HOST:x}, found {vmpl}")
        if algorithm != ECDSA_P384_SHA384:
            raise MalformedError(f"{_WHAT}: SIGNATURE_ALGO at 0x34: expected 1 (ECDSA P-384), found {algorithm}")
        _require_policy(policy)
        author_key_en, mask_chip_key, signing_key = _key_flags(flags)
        launch_mit, current_mit, unpublished = _mitigations(data, version, mitigations)
        report = cls(
            version=version,
            guest_svn=guest_svn,
            policy=policy,
            family_id=family_id,
            image_id=image_id,
            vmpl=vmpl,
            current_tcb=current_tcb,
            platform_info=platform_info,
            author_key_en=author_key_en,
            mask_chip_key=mask_chip_key,
            signing_key=signing_key,
            report_data=report_data,
            measurement=measurement,
            host_data=host_data,
            id_key_digest=id_key_digest,
            author_key_digest=author_key_digest,
            report_id=report_id,
            report_id_ma=report_id_ma,
            reported_tcb=reported_tcb,
            cpuid=_cpuid(data, version, cpuid),
            chip_id=chip_id,
            committed_tcb=committed_tcb,
            current_version=_version(current_version),
            committed_version=_version(committed_version),
            launch_tcb=launch_tcb,
            launch_mit_vector=launch_mit,
            current_mit_vector=current_mit,
            unpublished=unpublished,
            signature=r + s,
            signed=data[:SIGNED],
        )
        report.require_tcbs()
        return report

    def require_tcbs(self) -> None:
        """The reserved bytes of all four TCB_VERSIONs are zero, where the report tells the layout. MalformedError."""
        layout = layout_of(self.cpuid)
        if layout is None:
            return  # version 2: the issuing chain tells, and the verifier reads them under what it tells
        for name, tcb in self.tcbs.items():
            read_tcb(tcb, layout, name)

    @property
    def tcbs(self) -> dict[str, bytes]:
        return {
            "CURRENT_TCB": self.current_tcb,
            "REPORTED_TCB": self.reported_tcb,
            "COMMITTED_TCB": self.committed_tcb,
            "LAUNCH_TCB": self.launch_tcb,
        }

    @property
    def masked(self) -> bool:
        """The host asked the firmware not to tell which chip this is."""
        return not any(self.chip_id)

    def to_be_signed(self) -> bytes:
        """The bytes before the signature, written from the fields: what a signer signs, never what a verifier checks."""
        writer = Writer().uint(self.version, 4).uint(self.guest_svn, 4).uint(self.policy, 8)
        writer.put(self.family_id, 16).put(self.image_id, 16).uint(self.vmpl, 4).uint(ECDSA_P384_SHA384, 4)
        writer.put(self.current_tcb, 8).uint(self.platform_info, 8)
        writer.uint(self.author_key_en | self.mask_chip_key << 1 | self.signing_key << 2, 4).zeros(4)
        writer.put(self.report_data, 64).put(self.measurement, 48).put(self.host_data, 32)
        writer.put(self.id_key_digest, 48).put(self.author_key_digest, 48)
        writer.put(self.report_id, 32).put(self.report_id_ma, 32).put(self.reported_tcb, 8)
        writer.put(bytes(self.cpuid or (0, 0, 0)), 3).zeros(21).put(self.chip_id, 64).put(self.committed_tcb, 8)
        for version in (self.current_version, self.committed_version):
            writer.uint(version.build, 1).uint(version.minor, 1).uint(version.major, 1).zeros(1)
        writer.put(self.launch_tcb, 8)
        if self.version == 4:
            writer.put(self.unpublished, 16)
        else:
            writer.uint(self.launch_mit_vector or 0, 8).uint(self.current_mit_vector or 0, 8)
        return writer.zeros(152).getvalue()

    def encode(self) -> bytes:
        """The report's bytes; the inverse of `parse`."""
        r, s = self.signature[:_SCALAR], self.signature[_SCALAR:]
        writer = Writer().put(self.to_be_signed(), SIGNED)
        for scalar in (r, s):
            writer.put(scalar, _SCALAR).zeros(_FIELD - _SCALAR)
        return writer.zeros(_TAIL).getvalue()

    def with_signature(self, signature: bytes) -> Self:
        """The report as a signer finishes it."""
        return replace(self, signature=signature, signed=self.to_be_signed())


@der.sequence
class _Crts:
    vcek: der.TLV
    crl: CrlList


@der.sequence
class _Original:
    crts: der.TLV
    report: bytes


@der.sequence
class _WithChain:
    report: bytes
    certs: list[der.TLV]
    crl: CrlList


@der.sequence
class _Chain:
    """What stands behind the report in `_WithChain`."""

    certs: list[der.TLV]
    crl: CrlList


def parse(evidence: Evidence) -> Parsed[Report]:
    """Read evidence of any form. Raises MalformedError."""
    what = "snp evidence"
    if len(evidence.body) > MAX_EVIDENCE:
        raise MalformedError(f"{what}: expected at most {MAX_EVIDENCE} bytes, found {len(evidence.body)}")
    if evidence.oid == "":
        return Parsed(report=Report.parse(unwrap(evidence.body)))
    if evidence.oid == OID_WITH_CHAIN:
        report, *beside = der.members(memoryview(evidence.body), 3, what)
        endorsements = _read_chain(b"".join(beside), what)
        return Parsed(
            report=Report.parse(bytes(der.content(report, 0x04, f"{what}: report"))), endorsements=endorsements
        )
    outer = der.decode(_Original, evidence.body, what)
    first = der.raw(outer.crts)
    if len(der.sequence_of(first, what, limit=3)) == 3:  # a certificate has three parts, `crts` has two
        note = "an older form of SNP evidence: without CRLs"
        endorsements = Endorsements(certificates=_certificates([first], what))
        return Parsed(report=Report.parse(outer.report), endorsements=endorsements, notes=(note,), legacy=True)
    crts = der.decode(_Crts, first, f"{what}: crts")
    endorsements = Endorsements(certificates=_certificates([der.raw(crts.vcek)], what), crls=take_crls(crts.crl, what))
    return Parsed(report=Report.parse(outer.report), endorsements=endorsements)


def encode(report: bytes, endorsements: Endorsements, oid: str = OID_WITH_CHAIN) -> Evidence:
    """Evidence as a Keep sends it. The originals' form holds only the first certificate, the VCEK."""
    crl = put_crls(endorsements.crls)
    certificates = [element(certificate) for certificate in endorsements.certificates]
    if oid == OID_WITH_CHAIN:
        return Evidence(oid=oid, body=der.encode(_WithChain(report=report, certs=certificates, crl=crl)))
    crts = der.encode(_Crts(vcek=certificates[0], crl=crl))
    return Evidence(oid=oid, body=der.encode(_Original(crts=element(crts), report=report)))


def recognise(data: bytes) -> bool:
    """Whether bare bytes look like a report: of its size with a small version, or beginning as one does."""
    data = unwrap(data)
    begins = int.from_bytes(data[:4], "little") in VERSIONS and data[0x34:0x38] == b"\1\0\0\0"
    return (len(data) == SIZE and data[1:4] == bytes(3)) or (len(data) > SIGNED and begins)


def unwrap(data: bytes) -> bytes:
    """The report in the firmware's response; anything else as it is, and a report alone may not be followed by zeros."""
    end = len(_RESPONSE) + SIZE
    whole = len(data) == end or (len(data) == BUFFER and not any(data[end:]))
    return data[len(_RESPONSE) : end] if whole and data.startswith(_RESPONSE) else data


@lru_cache(maxsize=64)
def _read_chain(beside: bytes, what: str) -> Endorsements:
    """Each part read once to know that it can be, and remembered: a machine sends the same with every report."""
    parsed = der.decode(_Chain, der.wrap(0x30, beside), what)
    certificates = _certificates([der.raw(certificate) for certificate in parsed.certs], what)
    return Endorsements(certificates=certificates, crls=take_crls(parsed.crl, what))


def _certificates(certificates: list[bytes], what: str) -> tuple[bytes, ...]:
    if len(certificates) > MAX_CERTIFICATES:
        raise MalformedError(f"{what}: expected at most {MAX_CERTIFICATES} certificates, found {len(certificates)}")
    for certificate in certificates:
        read_certificate(certificate)
    return tuple(certificates)


def _require_policy(value: int) -> None:
    if value >> 26:
        raise MalformedError(f"{_WHAT}: POLICY at 0x8: bits 63 to 26 must be zero, found 0x{value:x}")
    if not value & _POLICY_ONE:
        raise MalformedError(f"{_WHAT}: POLICY at 0x8: bit 17 must be one, found 0x{value:x}")


def _key_flags(value: int) -> tuple[bool, bool, int]:
    """AUTHOR_KEY_EN, MASK_CHIP_KEY and SIGNING_KEY."""
    signing_key = value >> 2 & 7
    if value >> 5:
        raise MalformedError(f"{_WHAT}: flags at 0x48: bits 31 to 5 must be zero, found 0x{value:x}")
    if signing_key not in {VCEK, VLEK, NONE}:
        raise MalformedError(f"{_WHAT}: SIGNING_KEY at 0x48: expected 0, 1 or 7, found {signing_key}")
    return bool(value & 1), bool(value & 2), signing_key


def _cpuid(data: bytes, version: int, read: bytes) -> tuple[int, int, int] | None:
    """Family, model and stepping."""
    if version < 3:
        require_zeros(data, 0x188, 3, what=_WHAT)
        return None
    family, model, stepping = read
    return family, model, stepping


def _version(read: bytes) -> Version:
    build, minor, major = read
    return Version(major=major, minor=minor, build=build)


def _mitigations(data: bytes, version: int, read: bytes) -> tuple[int | None, int | None, bytes]:
    """LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR, and what stands in their place in version 4."""
    if version == 5:
        return int.from_bytes(read[:8], "little"), int.from_bytes(read[8:], "little"), b""
    if version == 4:
        return None, None, read
    require_zeros(data, 0x1F8, 16, what=_WHAT)
    return None, None, b""
