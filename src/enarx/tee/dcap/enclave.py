"""The report body of an SGX enclave: the workload's in an SGX quote, and the Quoting Enclave's in every quote.

384 bytes, little-endian (Intel SGX ECDSA Quote Library Reference for DCAP, appendix A.4, table
"Enclave Report Body"; SDM volume 3D, REPORT). Reserved fields must be zero. Nothing is judged here.
"""

from dataclasses import dataclass
from typing import Final, Self

from enarx.binary import Reader, Writer

SIZE: Final = 384

# ATTRIBUTES.FLAGS, SDM volume 3D, table "Layout of ATTRIBUTES"
INIT: Final = 1 << 0
DEBUG: Final = 1 << 1
MODE64BIT: Final = 1 << 2
PROVISION_KEY: Final = 1 << 4
EINITTOKEN_KEY: Final = 1 << 5
CET: Final = 1 << 6
KSS: Final = 1 << 7
AEX_NOTIFY: Final = 1 << 10

EXINFO: Final = 1 << 0  # MISCSELECT


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """What the CPU says of one enclave. Integers are little-endian in the bytes; digests stand as they are.

    `flags` and `xfrm` are the two halves of ATTRIBUTES, 64 bits each.
    """

    cpu_svn: bytes  # 16
    misc_select: int
    ext_product_id: bytes  # 16, meaningful with KSS
    flags: int
    xfrm: int
    mr_enclave: bytes  # 32
    mr_signer: bytes  # 32
    config_id: bytes  # 64, meaningful with KSS
    product_id: int
    security_version: int
    config_svn: int  # meaningful with KSS
    family_id: bytes  # 16, meaningful with KSS
    report_data: bytes  # 64

    @classmethod
    def parse(cls, data: bytes, what: str = "SGX report") -> Self:
        """Read exactly 384 bytes. Raises MalformedError."""
        reader = Reader(data, what=what)
        cpu_svn = reader.take(16, "CPUSVN")
        misc_select = reader.uint(4, "MISCSELECT")
        reader.zeros(12, "reserved after MISCSELECT")
        ext_product_id = reader.take(16, "ISVEXTPRODID")
        flags = reader.uint(8, "ATTRIBUTES.FLAGS")
        xfrm = reader.uint(8, "ATTRIBUTES.XFRM")
        mr_enclave = reader.take(32, "MRENCLAVE")
        reader.zeros(32, "reserved after MRENCLAVE")
        mr_signer = reader.take(32, "MRSIGNER")
        reader.zeros(32, "reserved after MRSIGNER")
        config_id = reader.take(64, "CONFIGID")
        product_id = reader.uint(2, "ISVPRODID")
        security_version = reader.uint(2, "ISVSVN")
        config_svn = reader.uint(2, "CONFIGSVN")
        reader.zeros(42, "reserved after CONFIGSVN")
        family_id = reader.take(16, "ISVFAMILYID")
        report_data = reader.take(64, "REPORTDATA")
        reader.end()
        return cls(
            cpu_svn=cpu_svn,
            misc_select=misc_select,
            ext_product_id=ext_product_id,
            flags=flags,
            xfrm=xfrm,
            mr_enclave=mr_enclave,
            mr_signer=mr_signer,
            config_id=config_id,
            product_id=product_id,
            security_version=security_version,
            config_svn=config_svn,
            family_id=family_id,
            report_data=report_data,
        )

    def encode(self) -> bytes:
        """The 384 bytes that `parse` reads."""
        writer = Writer()
        writer.put(self.cpu_svn, 16).uint(self.misc_select, 4).zeros(12).put(self.ext_product_id, 16)
        writer.uint(self.flags, 8).uint(self.xfrm, 8)
        writer.put(self.mr_enclave, 32).zeros(32).put(self.mr_signer, 32).zeros(32)
        writer.put(self.config_id, 64).uint(self.product_id, 2).uint(self.security_version, 2)
        writer.uint(self.config_svn, 2).zeros(42).put(self.family_id, 16).put(self.report_data, 64)
        return writer.getvalue()

    @property
    def attributes(self) -> bytes:
        """ATTRIBUTES as it stands in the report: flags then XFRM, 16 bytes."""
        return self.flags.to_bytes(8, "little") + self.xfrm.to_bytes(8, "little")

    @property
    def debug(self) -> bool:
        return bool(self.flags & DEBUG)

    @property
    def key_separation(self) -> bool:
        """Whether the enclave was made with KSS, so that CONFIGID and its companions mean something."""
        return bool(self.flags & KSS)
