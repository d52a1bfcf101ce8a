"""The attestation result: the extension by which a certificate says what its key runs in (flow.md, 4).

Steward writes it, never critical, into every certificate it issues; Drawbridge and third parties
read it and need to know nothing else of hardware. It is as true as the chain above it: whoever
reads it verifies that chain first (`enarx.attested.relying`). What the claims inside say is bound to
the report, except the slug, which the host only claimed.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Self

from enarx import der
from enarx.attested.claims import MAX_CLAIMS, ClaimsDer, RuntimeClaims, require_text, wrong
from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate, moment

ATTESTATION_RESULT_OID: Final = "2.25.67770326763034024982283820726568347927.10"

MAX_RESULT: Final = MAX_CLAIMS + 16 * 1024  # bytes of DER
MAX_MEASUREMENT: Final = 64  # bytes: the longest hash a TEE measures with is SHA-512
MAX_ADVISORIES: Final = 128  # Intel's longest list for one TCB level has about 30
MAX_WORD: Final = 64  # characters of a TCB status or the name of an advisory
FIRST_YEAR: Final = 2000

_TECHNOLOGY: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


@der.sequence
class _Result:
    version: int
    technology: str
    simulated: bool
    debug: bool
    measurement: bytes
    signer: Annotated[bytes | None, der.Explicit(0)]
    tcb_status: str
    tcb_date: Annotated[der.GeneralizedTime | None, der.Explicit(1)]
    advisories: list[str]
    chip: Annotated[bytes | None, der.Explicit(2)]
    appraised_at: der.GeneralizedTime
    policy: bytes
    claims: Annotated[ClaimsDer | None, der.Explicit(3)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """What a Steward found. Raises MalformedError when a value is out of its bounds.

    `chip` is the SHA-256 of the chip or platform instance id, `policy` that of the canonical policy. Moments are
    aware, in UTC, in whole seconds. `measurement` is empty for `nil`, which measures nothing.
    """

    technology: str
    simulated: bool
    debug: bool
    measurement: bytes
    tcb_status: str
    appraised_at: datetime
    policy: bytes
    version: int = 1
    signer: bytes | None = None
    tcb_date: datetime | None = None
    advisories: tuple[str, ...] = ()
    chip: bytes | None = None
    claims: RuntimeClaims | None = None

    def __post_init__(self) -> None:
        if self.version != 1:
            raise _wrong("version", "1", self.version)
        if not _TECHNOLOGY.fullmatch(self.technology):
            raise _wrong("technology", "a name", ascii(self.technology))
        if len(self.measurement) > MAX_MEASUREMENT:
            raise _wrong("measurement", f"at most {MAX_MEASUREMENT} bytes", len(self.measurement))
        if self.signer is not None and not 0 < len(self.signer) <= MAX_MEASUREMENT:
            raise _wrong("signer", f"1 to {MAX_MEASUREMENT} bytes", len(self.signer))
        require_text(self.tcb_status, "attestation result: tcbStatus", MAX_WORD)
        if len(self.advisories) > MAX_ADVISORIES:
            raise _wrong("advisories", f"at most {MAX_ADVISORIES}", len(self.advisories))
        for advisory in self.advisories:
            require_text(advisory, "attestation result: advisories", MAX_WORD)
        if self.chip is not None and len(self.chip) != 32:
            raise _wrong("chip", "32 bytes", len(self.chip))
        if len(self.policy) != 32:
            raise _wrong("policy", "32 bytes", len(self.policy))
        _require_moment("appraisedAt", self.appraised_at)
        if self.tcb_date is not None:
            _require_moment("tcbDate", self.tcb_date)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the DER of flow.md, section 4. Raises MalformedError."""
        if len(data) > MAX_RESULT:
            raise MalformedError(f"attestation result: expected at most {MAX_RESULT} bytes, found {len(data)}")
        value = der.decode(_Result, data, "attestation result")
        return cls(
            version=value.version,
            technology=value.technology,
            simulated=value.simulated,
            debug=value.debug,
            measurement=value.measurement,
            signer=value.signer,
            tcb_status=value.tcb_status,
            tcb_date=None if value.tcb_date is None else moment(value.tcb_date),
            advisories=tuple(value.advisories),
            chip=value.chip,
            appraised_at=moment(value.appraised_at),
            policy=value.policy,
            claims=None if value.claims is None else RuntimeClaims.from_der(value.claims),
        )

    @classmethod
    def from_certificate(cls, certificate: Certificate) -> Self | None:
        """The result in a certificate, or None when it carries none. Raises MalformedError."""
        extension = certificate.extensions.get(ATTESTATION_RESULT_OID)
        return None if extension is None else cls.parse(extension.value)

    def encode(self) -> bytes:
        """The DER of the extension's value; the inverse of `parse`, whose layout it writes out."""
        members = (
            der.integer(self.version),
            der.text(self.technology),
            der.boolean(self.simulated),
            der.boolean(self.debug),
            der.wrap(0x04, self.measurement),
            b"" if self.signer is None else der.wrap(0xA0, der.wrap(0x04, self.signer)),
            der.text(self.tcb_status),
            b"" if self.tcb_date is None else der.wrap(0xA1, der.generalized_time(self.tcb_date)),
            der.wrap(0x30, b"".join(map(der.text, self.advisories))),
            b"" if self.chip is None else der.wrap(0xA2, der.wrap(0x04, self.chip)),
            der.generalized_time(self.appraised_at),
            der.wrap(0x04, self.policy),
            b"" if self.claims is None else der.wrap(0xA3, self.claims.encode()),
        )
        return der.wrap(0x30, b"".join(members))


def _require_moment(name: str, stamp: datetime) -> None:
    if stamp.utcoffset() is None or stamp.microsecond or stamp.year < FIRST_YEAR:
        raise _wrong(name, f"a whole second in UTC since {FIRST_YEAR}", stamp.isoformat())


def _wrong(field: str, expected: str, found: object) -> MalformedError:
    return wrong(f"attestation result: {field}", expected, found)
