"""The file of `enarx sign` as a launch takes it: who answers for what is launched (protocol.md, 3.7).

    {"version": "…", "sev": {"id_block": [96 octets], "id_auth": [4096 octets]}, "sgx": [1808 octets]}

At least one of the two is there. `version` is that of the program that wrote it, and is not compared: the originals' was
that of the Keep's code, for what they signed was in the program itself; what is signed here is a measurement of an image.
Whether the signatures hold is the processor's to say, which refuses the launch; here is said what can be said before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from enarx.errors import MalformedError
from enarx.web.files import read_file

SIZES: Final = {"id_block": 96, "id_auth": 4096, "sgx": 1808}
MAX_FILE: Final = 64 * 1024  # bytes; octets in decimal take up to four characters


class _Sev(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id_block: list[int]
    id_auth: list[int]


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: str
    sev: _Sev | None = None
    sgx: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatures:
    """ID block and authentication of a launch with SEV-SNP; the SIGSTRUCT of an enclave."""

    source: str
    sev: tuple[bytes, bytes] | None = None
    sgx: bytes | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises NotFoundError, MalformedError."""
        return cls.parse(read_file(path, MAX_FILE), source=str(path))

    @classmethod
    def parse(cls, data: bytes, *, source: str) -> Self:
        """Raises MalformedError."""
        try:
            found = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedError(f"{source}: expected what `enarx sign` writes: {error}") from error
        if found.sev is None and found.sgx is None:
            raise MalformedError(f"{source}: holds no signature, expected `sev` or `sgx`")
        octets = {} if found.sev is None else {"id_block": found.sev.id_block, "id_auth": found.sev.id_auth}
        octets |= {} if found.sgx is None else {"sgx": found.sgx}
        parts = {name: _octets(source, name, value) for name, value in octets.items()}
        sev = (parts["id_block"], parts["id_auth"]) if "id_block" in parts else None
        return cls(source=source, sev=sev, sgx=parts.get("sgx"))

    def require_sev(self) -> tuple[bytes, bytes]:
        """ID block and ID authentication. Raises MalformedError."""
        if self.sev is None:
            raise MalformedError(
                f"{self.source}: is of an SGX enclave, expected `sev`; `enarx sign IMAGE --sev-id-key KEY` makes it"
            )
        return self.sev

    def require_sgx(self) -> bytes:
        """The SIGSTRUCT. Raises MalformedError."""
        if self.sgx is None:
            raise MalformedError(
                f"{self.source}: is of a launch with SEV-SNP, expected `sgx`; "
                "`enarx sign --sgx-key KEY --sgx-body FILE` makes it"
            )
        return self.sgx


def _octets(source: str, name: str, value: list[int]) -> bytes:
    try:
        found = bytes(value)
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"{source}: {name}: expected octets, found a number beyond 0 to 255") from error
    if len(found) != SIZES[name]:
        raise MalformedError(f"{source}: {name}: expected {SIZES[name]} octets, found {len(found)}")
    return found
