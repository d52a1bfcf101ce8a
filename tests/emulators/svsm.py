"""An SVSM over a simulated SNP machine: its services manifest, and reports at VMPL 0 over nonce and manifest.

Written from AMD 58019 by itself, with no part of the reader in it. The endorsement keys have the TCG's templates L-1
(RSA 2048) and L-2 (P-256); nobody has their private parts.
"""

import struct
from hashlib import sha256, sha512
from typing import Final
from uuid import UUID

from enarx.tee.snp.simulator import SnpMachine
from tests.values import replace

GUID: Final = UUID("63849ebb-3d92-4670-a1ff-58f9c94b87bb")
VTPM: Final = UUID("c476f1eb-0123-45a5-9641-b4e7dde5bfe3")
REBOOT: Final = UUID("7d5c1a0e-94f0-4a53-b1b7-0d8f3a2c6e11")  # a service that says nothing of itself
POLICY: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
RSA_2048: Final = b"\xc1" + b"".join(sha256(bytes([index])).digest() for index in range(8))[1:]
OTHER: Final = b"\xc3" + RSA_2048[1:]


def endorsement_key(modulus: bytes = RSA_2048) -> bytes:
    """TPMT_PUBLIC of an RSA key, template L-1."""
    head = struct.pack(">HHIH", 0x0001, 0x000B, 0x000300B2, len(POLICY)) + POLICY
    return head + struct.pack(">HHHHHIH", 6, 128, 0x43, 0x10, 8 * len(modulus), 0, len(modulus)) + modulus


def endorsement_key_p256() -> bytes:
    """TPMT_PUBLIC of an ECC key, template L-2."""
    head = struct.pack(">HHIH", 0x0023, 0x000B, 0x000300B2, len(POLICY)) + POLICY
    point = b"".join(b"\0\x20" + sha256(name).digest() for name in (b"x", b"y"))
    return head + struct.pack(">HHHHHH", 6, 128, 0x43, 0x10, 0x0003, 0x10) + point


def table(services: dict[UUID, bytes]) -> bytes:
    """The manifest of all services."""
    at = 24 * (len(services) + 1)
    entries = b""
    for guid, data in services.items():
        entries += guid.bytes_le + struct.pack("<II", at, len(data))
        at += len(data)
    return GUID.bytes_le + struct.pack("<II", at, len(services)) + entries + b"".join(services.values())


def manifest(guid: UUID, modulus: bytes = RSA_2048) -> bytes:
    """What the SVSM says when it is asked for one service, or with a zero GUID for all. KeyError for an unknown one."""
    services = {VTPM: endorsement_key(modulus), REBOOT: b""}
    return services[guid] if guid.int else table(services)


def report(machine: SnpMachine, nonce: bytes, said: bytes, level: int = 0) -> bytes:
    """The hardware's report as the SVSM has it made."""
    return machine.report(sha512(nonce + said).digest(), lambda found: replace(found, vmpl=level))
