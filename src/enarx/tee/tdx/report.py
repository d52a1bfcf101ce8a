"""TDX evidence: the quote of a trust domain (TD), in each of the forms in which it comes.

The report body is that of TDX 1.0 (584 bytes), 1.5 (648) or 1.5 extended (885): Intel TDX DCAP Quoting Library API,
appendix A.3, and the TDX Module ABI specification, TD_INFO and SERVTD_EXT. A later form begins with all of the
earlier ones. Quotes are of version 4 (always TDX 1.0) or 5 (any). Under the OID of flow.md 3 the quote comes with
CRLs, TCB info and QE identity (`dcap.quoted`), or with CRLs alone where the judge has the documents; without an OID
it is the bare quote. The binding hash is SHA-256 (flow.md 2). Reserved bits are policy's: nothing is judged here.
"""

import struct
from typing import Final, Self

from msgspec import Struct

from enarx.binary import Writer
from enarx.errors import MalformedError
from enarx.tee.dcap.quote import ECDSA_P256, TEE_TDX
from enarx.tee.dcap.quoted import Bundle, Quoted
from enarx.tee.model import Endorsements, Evidence, Parsed

OID: Final = "2.25.67770326763034024982283820726568347927.2"

# TDATTRIBUTES, TDX Module Base Architecture specification, table "ATTRIBUTES definition"
DEBUG: Final = 1 << 0
UNDER_DEBUG: Final = 0xFF  # TUD: any of these bits, and the host may look inside
SEPT_VE_DISABLE: Final = 1 << 28  # no exception that the host can cause by taking a page away
MIGRATABLE: Final = 1 << 29
PKS: Final = 1 << 30
KEY_LOCKER: Final = 1 << 31
PERFMON: Final = 1 << 63

RTMRS: Final = 4

# The fields in their order: those of TDX 1.0, what 1.5 has behind them, and what 1.5 extended has behind these
_TD_10: Final = struct.Struct("<16s48s48s8sQQ48s48s48s48s48s48s48s48s64s")
_TD_15: Final = struct.Struct("<16s48s")
_LINEAGE: Final = struct.Struct("<B32s48s48s8s16s16s12s48s8s")
_SIZES: Final = {
    2: _TD_10.size,
    3: _TD_10.size + _TD_15.size,
    4: _TD_10.size + _TD_15.size + _LINEAGE.size,
}


class Lineage(Struct, frozen=True):
    """Where a TD was first launched, if its service TD moved it since (SERVTD_EXT of TDX 1.5 extended), in its order."""

    vm_id: int  # 8 bits, which partition of the TD
    td_id: bytes  # 32
    device_info: bytes  # 48
    initial_service_td: bytes  # 48
    initial_service_td_attributes: bytes  # 8
    initial_cpu_svn: bytes  # 16
    initial_tee_tcb_svn: bytes  # 16
    initial_fmspc: bytes  # 12
    current_service_td: bytes  # 48
    current_service_td_attributes: bytes  # 8

    def write(self, writer: Writer) -> None:
        writer.uint(self.vm_id, 1).put(self.td_id, 32).put(self.device_info, 48)
        writer.put(self.initial_service_td, 48).put(self.initial_service_td_attributes, 8)
        writer.put(self.initial_cpu_svn, 16).put(self.initial_tee_tcb_svn, 16).put(self.initial_fmspc, 12)
        writer.put(self.current_service_td, 48).put(self.current_service_td_attributes, 8)


class TdReport(Struct, frozen=True, kw_only=True):
    """What the TDX module says of one TD. Integers are little-endian in the bytes; digests stand as they are."""

    tee_tcb_svn: bytes  # 16: [0] the module's SVN, [1] its major version, [2] the loader's, at launch
    mr_seam: bytes  # 48, the module
    mr_signer_seam: bytes  # 48, zero for Intel's
    seam_attributes: bytes  # 8
    attributes: int  # TDATTRIBUTES, 64 bits
    xfam: int  # 64 bits
    mr_td: bytes  # 48, what was launched
    mr_config_id: bytes  # 48
    mr_owner: bytes  # 48
    mr_owner_config: bytes  # 48
    rtmrs: tuple[bytes, bytes, bytes, bytes]  # 48 each
    report_data: bytes  # 64
    tee_tcb_svn2: bytes | None = None  # 16, what is loaded now; from TDX 1.5 on
    mr_service_td: bytes | None = None  # 48; from TDX 1.5 on
    lineage: Lineage | None = None  # TDX 1.5 extended

    @classmethod
    def parse(cls, data: bytes, body_type: int) -> Self:
        """Read a body of type 2, 3 or 4, exactly as long as that type is. Raises MalformedError."""
        if body_type not in _SIZES or len(data) != _SIZES[body_type]:
            raise MalformedError(f"TD report: expected {_SIZES.get(body_type)} bytes, found {len(data)}")
        (
            tee_tcb_svn,
            mr_seam,
            mr_signer_seam,
            seam_attributes,
            attributes,
            xfam,
            mr_td,
            mr_config_id,
            mr_owner,
            mr_owner_config,
            *rtmrs,
            report_data,
        ) = _TD_10.unpack_from(data)
        tee_tcb_svn2, mr_service_td = _TD_15.unpack_from(data, _TD_10.size) if body_type > 2 else (None, None)
        return cls(
            tee_tcb_svn=tee_tcb_svn,
            mr_seam=mr_seam,
            mr_signer_seam=mr_signer_seam,
            seam_attributes=seam_attributes,
            attributes=attributes,
            xfam=xfam,
            mr_td=mr_td,
            mr_config_id=mr_config_id,
            mr_owner=mr_owner,
            mr_owner_config=mr_owner_config,
            rtmrs=tuple(rtmrs),
            report_data=report_data,
            tee_tcb_svn2=tee_tcb_svn2,
            mr_service_td=mr_service_td,
            lineage=Lineage(*_LINEAGE.unpack_from(data, _TD_10.size + _TD_15.size)) if body_type == 4 else None,
        )

    def encode(self) -> bytes:
        """The bytes that `parse` reads."""
        writer = Writer().put(self.tee_tcb_svn, 16).put(self.mr_seam, 48).put(self.mr_signer_seam, 48)
        writer.put(self.seam_attributes, 8).uint(self.attributes, 8).uint(self.xfam, 8).put(self.mr_td, 48)
        writer.put(self.mr_config_id, 48).put(self.mr_owner, 48).put(self.mr_owner_config, 48)
        for rtmr in self.rtmrs:
            writer.put(rtmr, 48)
        writer.put(self.report_data, 64)
        if self.tee_tcb_svn2 is not None and self.mr_service_td is not None:
            writer.put(self.tee_tcb_svn2, 16).put(self.mr_service_td, 48)
            if self.lineage is not None:
                self.lineage.write(writer)
        return writer.getvalue()

    @property
    def body_type(self) -> int:
        """2, 3 or 4, as version 5 of the quote numbers them."""
        if self.tee_tcb_svn2 is None or self.mr_service_td is None:
            return 2
        return 3 if self.lineage is None else 4

    @property
    def debug(self) -> bool:
        return bool(self.attributes & DEBUG)


class Report(Struct, frozen=True, kw_only=True):
    """What a TD's evidence says, parsed and not believed."""

    quoted: Quoted
    td: TdReport

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a bare quote. Raises MalformedError, also for a quote of an enclave."""
        quoted = Quoted.parse(data)
        if quoted.quote.tee_type != TEE_TDX:
            raise MalformedError("tdx evidence: the quote is not of a TD but of an SGX enclave")
        return cls(quoted=quoted, td=TdReport.parse(quoted.quote.body, quoted.quote.body_type))

    def encode(self) -> bytes:
        return self.quoted.quote.encode()


def parse(evidence: Evidence) -> Parsed[Report]:
    """Read evidence of either form. Raises MalformedError."""
    if evidence.oid == "":
        return Parsed(report=Report.parse(evidence.body))
    bundle = Bundle.parse(evidence.body, "tdx evidence")
    if bundle.parts == 3:  # one document without the other tells of an encoder that dropped something
        raise MalformedError("tdx evidence: expected TCB info and QE identity, or neither; found one of the two")
    return Parsed(report=Report.parse(bundle.quote), endorsements=bundle.endorsements)


def encode(quote: bytes, endorsements: Endorsements) -> Evidence:
    """Evidence as a Keep sends it."""
    return Evidence(oid=OID, body=Bundle(quote=quote, endorsements=endorsements, parts=0).encode())


def recognise(data: bytes) -> bool:
    """Whether bare bytes begin as a TDX quote does."""
    version, key_type, tee = (int.from_bytes(data[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))
    return version in {4, 5} and key_type == ECDSA_P256 and tee == TEE_TDX
