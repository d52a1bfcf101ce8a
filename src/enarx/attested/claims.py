"""What a Keep claims beside its key, and the report data that binds both to the hardware (flow.md, 2)."""

from typing import Final

from enarx.digest import HashName, hash_bytes

DOMAIN: Final = b"enarx-keep-v1\0"
REPORT_DATA_SIZE: Final = 64  # bytes


def report_data(algorithm: HashName, spki: bytes, claims: bytes | None) -> bytes:
    """The 64 bytes a report must carry for this key (DER SubjectPublicKeyInfo) and these claims (DER).

    Without claims: H(SPKI); with: H("enarx-keep-v1" ‖ 0x00 ‖ SPKI ‖ claims); zeros to 64 bytes.
    """
    parts = (spki,) if claims is None else (DOMAIN, spki, claims)
    return hash_bytes(algorithm, *parts).ljust(REPORT_DATA_SIZE, b"\0")
