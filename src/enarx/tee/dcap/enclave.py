"""The report body of an SGX enclave: the workload's in an SGX quote, and the Quoting Enclave's in every quote.

384 bytes, little-endian (Intel SGX ECDSA Quote Library Reference for DCAP, appendix A.4, table
"Enclave Report Body"; SDM volume 3D, REPORT). Reserved fields must be zero. Nothing is judged here.
"""

import struct
from typing import Final, Self

from msgspec import Struct

from enarx.binary import Writer
from enarx.errors import MalformedError

SIZE: Final = 384
# The fields of EnclaveReport in their order; x are the reserved bytes, which `struct` passes over and `parse` looks at
_LAYOUT: Final = struct.Struct("<16sI12x16sQQ32s32x32s32x64sHHH42x16s64s")
_RESERVED: Final = ((20, 12, "MISCSELECT"), (96, 32, "MRENCLAVE"), (160, 32, "MRSIGNER"), (262, 42, "CONFIGSVN"))

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


class EnclaveReport(Struct, frozen=True):
    """What the CPU says of one enclave. The fields stand in the order of the layout; integers are little-endian there.

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
        if len(data) != SIZE:
            raise MalformedError(f"{what}: expected {SIZE} bytes, found {len(data)}")
        for offset, size, after in _RESERVED:
            if data[offset : offset + size] != bytes(size):
                raise MalformedError(
                    f"{what}: reserved after {after} at 0x{offset:x}..0x{offset + size - 1:x} must be zero"
                )
        return cls(*_LAYOUT.unpack(data))

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
