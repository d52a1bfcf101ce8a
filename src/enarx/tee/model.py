"""The words of attestation (RFC 9334): evidence, endorsements, anchors, claims, appraisal.

Each stage is a type and only one function makes it: `Evidence` as it arrived, a report that is
parsed but not believed, `Claims` that an anchor vouches for (only `verify` makes them), and the
`Appraisal`, which is the verdict with every check that was made (only `appraise` makes it).

The ledger `Checks` carries the rule of the house: in the gates *malformed* and *untrusted* the
first failure ends the judgement; in the gate *rejected* every rule is asked and all failures are
reported together. Nothing here reads a clock, a file or the network.
"""

from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, Generic, Literal, TypeVar

from msgspec import Struct

from enarx.attested.claims import report_data
from enarx.digest import HashName
from enarx.errors import EnarxError, MalformedError, RejectedError, UntrustedError
from enarx.toml import Table

R = TypeVar("R")
P = TypeVar("P")

REPORT_DATA_SIZE = 64  # bytes: AMD 56860 REPORT_DATA, Intel SGX REPORTDATA, TDX REPORTDATA alike

Field = str | int | bool | Sequence["Field"] | Mapping[str, "Field"] | None


class Outcome(StrEnum):
    """What came of one check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not applicable"


class Verdict(StrEnum):
    """The four answers. The first three name the gate that refused."""

    MALFORMED = "malformed"
    UNTRUSTED = "untrusted"
    REJECTED = "rejected"
    ACCEPTED = "accepted"


_PASSED: Final = Outcome.PASSED
_NOT_APPLICABLE: Final = Outcome.NOT_APPLICABLE

Gate = Literal["malformed", "untrusted", "rejected"]
Family = Literal["amd", "intel", "aws", "arm", "nil"]  # who vouches: the vendor whose root is the anchor


class Evidence(Struct, frozen=True, kw_only=True):
    """What a TEE sent: an extension's OID and its value. An empty OID means a bare report or quote."""

    oid: str
    body: bytes


class SignedJson(Struct, frozen=True, kw_only=True):
    """A JSON document of Intel's PCS, byte for byte, with the chain (DER, signer first) of who signed it."""

    body: bytes
    chain: tuple[bytes, ...] = ()


class Endorsements(Struct, frozen=True, kw_only=True):
    """What vendors say about machines: never an anchor, whatever it holds. All DER, or JSON as it came."""

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    tcb_infos: tuple[SignedJson, ...] = ()
    qe_identities: tuple[SignedJson, ...] = ()

    def __or__(self, other: "Endorsements") -> "Endorsements":
        if other in (_NOTHING, self):
            return self
        if self == _NOTHING:
            return other
        return Endorsements(
            certificates=_merged(self.certificates, other.certificates),
            crls=_merged(self.crls, other.crls),
            tcb_infos=_merged(self.tcb_infos, other.tcb_infos),
            qe_identities=_merged(self.qe_identities, other.qe_identities),
        )


_NOTHING: Final = Endorsements()


class TrustAnchor(Struct, frozen=True, kw_only=True):
    """A vendor's root: known by its SHA-256, the certificate itself beside it or found in the endorsements.

    `family` is who it speaks for. `intermediates` pins, by SHA-256, which certificates may
    hang under it; None means any that it signed. Arm has no roots: there it is a platform's key (DER SubjectPublicKeyInfo). `simulated` follows the claims into the certificate.
    """

    family: Family
    sha256: bytes
    certificate: bytes | None = None
    intermediates: frozenset[bytes] | None = None
    simulated: bool = False
    origin: Literal["vendor", "simulator", "operator", "argument"] = "vendor"

    def __post_init__(self) -> None:
        if self.certificate is not None and sha256(self.certificate).digest() != self.sha256:
            raise MalformedError(f"{self.family} trust anchor: the certificate has not the SHA-256 it is pinned by")

    def find(self, endorsements: Endorsements) -> bytes | None:
        """The anchor's certificate: its own, else the one among the endorsements with its SHA-256, else None."""
        if self.certificate is not None:
            return self.certificate
        return next((der for der in endorsements.certificates if sha256(der).digest() == self.sha256), None)


class Leniency(Struct, frozen=True, kw_only=True):
    """What verification may overlook, each by name. The default overlooks nothing."""

    without_crl: bool = False
    allow_evaluation_skew: bool = False
    minimum_evaluation: int = 0  # lowest tcbEvaluationDataNumber that counts


class Binding(Struct, frozen=True, kw_only=True):
    """What the report data has to be. Made only by the three constructors below."""

    _spki: bytes | None = None
    _claims: bytes | None = None
    _exact: bytes | None = None

    @classmethod
    def of_key(cls, spki: bytes, claims: bytes | None = None) -> "Binding":
        """The report speaks for this key (DER SubjectPublicKeyInfo) and, if given, these runtime claims (DER)."""
        return cls(_spki=spki, _claims=claims)

    @classmethod
    def of_report_data(cls, exact: bytes) -> "Binding":
        """The report data is exactly these 64 bytes. Raises MalformedError for another length."""
        if len(exact) != REPORT_DATA_SIZE:
            raise MalformedError(f"report data: expected {REPORT_DATA_SIZE} bytes, found {len(exact)}")
        return cls(_exact=exact)

    @classmethod
    def none(cls) -> "Binding":
        """Nothing to compare with: for looking at a report offline, never for issuing a certificate."""
        return cls()

    def expected(self, algorithm: HashName) -> bytes | None:
        """The 64 bytes the report must carry, or None when nothing is bound."""
        if self._exact is not None:
            return self._exact
        return None if self._spki is None else report_data(algorithm, self._spki, self._claims)


class Parsed(Struct, Generic[R], frozen=True, kw_only=True):
    """A report that was read, and the endorsements that came with it. `notes` tell of older forms."""

    report: R
    endorsements: Endorsements = _NOTHING
    notes: tuple[str, ...] = ()
    legacy: bool = False  # a form from before CRLs and TCB information: explained offline, refused by the server


class Claims(Struct, Generic[R], frozen=True, kw_only=True):
    """What an anchor vouches for. Only a technology's `verify` makes one.

    `report_data` is 64 bytes, or None where the technology has none (nil). `expires` is the earliest end among
    the certificates, CRLs and collateral the claims rest on. `chip` is the raw chip or platform instance id.
    """

    report: R
    report_data: bytes | None
    measurement: bytes
    signer: bytes | None
    debug: bool
    product: str
    tcb_status: str
    anchor: TrustAnchor | None
    expires: datetime
    tcb_date: datetime | None = None
    advisories: tuple[str, ...] = ()
    chip: bytes | None = None
    fields: Mapping[str, Field] = {}

    @property
    def simulated(self) -> bool:
        return self.anchor is not None and self.anchor.simulated


class Check(Struct, frozen=True, gc=False):
    """One line of the ledger. `name` is dotted; `found` and `expected` are for people.

    A judgement makes some fifty, so what one costs counts.
    """

    gate: Gate
    name: str
    outcome: Outcome
    found: str = ""
    expected: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "gate": self.gate,
            "name": self.name,
            "outcome": self.outcome.value,
            "found": self.found,
            "expected": self.expected,
        }


Recorded = tuple[tuple[Check, ...], tuple[Check, ...], tuple[bytes | SignedJson, ...]]  # all, failed, rested on


class Later(Mapping[str, Field]):
    """JSON values that are made when somebody looks: most judgements are only counted."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Mapping[str, Field]]) -> None:
        self._make = make
        self._made: Mapping[str, Field] | None = None

    def _values(self) -> Mapping[str, Field]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __getitem__(self, key: str) -> Field:
        return self._values()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def keys(self) -> KeysView[str]:
        return self._values().keys()


class Checks:
    """The append-only ledger of one judgement."""

    def __init__(self) -> None:
        self._checks: list[Check] = []
        self._gate: Gate = "malformed"
        self._failed: list[Check] = []
        self._rested: list[bytes | SignedJson] = []

    def __iter__(self) -> Iterator[Check]:
        return iter(tuple(self._checks))

    @property
    def rested_on(self) -> tuple[bytes | SignedJson, ...]:
        """The CRLs and signed documents whose signatures verified and that decided something."""
        return tuple(self._rested)

    def rests_on(self, document: bytes | SignedJson) -> None:
        """A verifier says that it verified this CRL (DER) or document (with its signer) and relied on it."""
        self._rested.append(document)

    def mark(self) -> tuple[int, int, int]:
        """How much is recorded by now."""
        return len(self._checks), len(self._failed), len(self._rested)

    def since(self, mark: tuple[int, int, int]) -> Recorded:
        """What was recorded after `mark`."""
        return tuple(self._checks[mark[0] :]), tuple(self._failed[mark[1] :]), tuple(self._rested[mark[2] :])

    def replay(self, recorded: Recorded) -> None:
        """Record again what another judgement recorded in the same gate."""
        self._checks += recorded[0]
        self._failed += recorded[1]
        self._rested += recorded[2]

    def gate(self, gate: Gate) -> "_Gate":
        """Everything recorded inside belongs to `gate`; leaving *rejected* raises all its failures together."""
        return _Gate(self, gate)

    def check(self, name: str, ok: bool, *, found: str = "", expected: str = "") -> None:
        """Record one comparison. Outside the gate *rejected*, a failure raises at once."""
        if ok:
            self._checks.append(Check(self._gate, name, _PASSED, found, expected))
            return
        self._fail(name, found, expected)
        if self._gate != "rejected":
            failure = _reason(self._checks[-1])
            raise MalformedError(failure) if self._gate == "malformed" else UntrustedError(failure)

    def step(self, name: str, *, expected: str = "", found: str = "") -> "_Step":
        """Record a piece of work: passed when it ends, failed with the error's words when one of ours escapes.

        What it gives says what was found, where that is known only inside. An error that was already recorded by a
        `check` or `step` inside is not recorded twice.
        """
        return _Step(self, name, expected, found)

    def not_applicable(self, name: str, why: str) -> None:
        self._checks.append(Check(self._gate, name, _NOT_APPLICABLE, why))

    def skip(self, name: str, why: str) -> None:
        self._checks.append(Check(self._gate, name, Outcome.SKIPPED, why))

    def finish(self, names: Mapping[str, Gate]) -> tuple[Check, ...]:
        """The whole ledger, with every check of `names` that was never reached as skipped."""
        recorded = {check.name for check in self._checks}
        if not recorded.issuperset(names):
            missing = [name for name in names if name not in recorded]
            self._checks += [Check(names[name], name, Outcome.SKIPPED, "not reached") for name in missing]
        return tuple(self._checks)

    def _fail(self, name: str, found: str, expected: str) -> None:
        check = Check(self._gate, name, Outcome.FAILED, found, expected)
        self._checks.append(check)
        self._failed.append(check)


class _Gate:
    """What `Checks.gate` gives; no generator, for every judgement passes three."""

    __slots__ = ("_before", "_checks", "_gate")

    def __init__(self, checks: Checks, gate: Gate) -> None:
        self._checks, self._gate, self._before = checks, gate, 0

    def __enter__(self) -> None:
        self._checks._gate = self._gate  # noqa: SLF001 - its own part
        self._before = len(self._checks._failed)  # noqa: SLF001

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failures = self._checks._failed[self._before :]  # noqa: SLF001
        if isinstance(error, EnarxError):
            if not failures:
                name = "format" if self._gate == "malformed" else "verification"
                self._checks._fail(name, str(error), "")  # noqa: SLF001
        elif error is None and failures:
            reasons = [_reason(check) for check in failures]
            raise RejectedError("; ".join(reasons), reasons=reasons)


class _Step:
    """What `Checks.step` gives."""

    __slots__ = ("_before", "_checks", "_expected", "_found", "_name")

    def __init__(self, checks: Checks, name: str, expected: str, found: str) -> None:
        self._checks, self._name, self._expected, self._found, self._before = checks, name, expected, found, 0

    def __enter__(self) -> Callable[[str], None]:
        self._before = len(self._checks._failed)  # noqa: SLF001 - its own part
        return self._say

    def _say(self, found: str) -> None:
        self._found = found

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        checks = self._checks
        if error is None:
            checks.check(self._name, ok=True, found=self._found, expected=self._expected)
        elif isinstance(error, EnarxError) and len(checks._failed) == self._before:  # noqa: SLF001
            checks._fail(self._name, str(error), self._expected)  # noqa: SLF001


@dataclass(frozen=True, slots=True, kw_only=True)
class Technology(Generic[R, P]):
    """Everything the house knows of one TEE: five functions and the names of their checks.

    `parse` raises MalformedError, `verify` UntrustedError; `read_policy` raises ConfigError; `accept` records into
    the ledger. `anchors` gives the vendor's roots that the package carries or pins.
    """

    name: str
    title: str
    family: Family
    oids: frozenset[str]
    binding_hash: HashName
    key_curve: Literal["P-256", "P-384"]
    check_names: tuple[tuple[Gate, str], ...]
    parse: Callable[[Evidence], Parsed[R]]
    verify: Callable[[R, Endorsements, Sequence[TrustAnchor], datetime, Leniency, Checks], Claims[R]]
    read_policy: Callable[[Table], P]
    default_policy: P
    accept: Callable[[Claims[R], P, Checks], None]
    anchors: Callable[[], tuple[TrustAnchor, ...]]
    recognise: Callable[[bytes], bool] = lambda _: False  # whether bare bytes look like this one's report


class Appraisal(Struct, frozen=True, kw_only=True):
    """The verdict as a value: what the log, the HTTP problem, the command line and the tests all show."""

    technology: str
    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    claims: Claims[Any] | None  # Any: the report type of whichever technology judged
    at: datetime
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.verdict is Verdict.ACCEPTED

    def to_json(self) -> dict[str, object]:
        return {
            "verdict": self.verdict.value,
            "gate": self.verdict.value,
            "technology": self.technology,
            "at": self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "checks": [check.to_json() for check in self.checks],
            "claims": None if self.claims is None else claims_to_json(self.claims),
        }


def claims_to_json(claims: Claims[Any]) -> dict[str, object]:
    """The claims as JSON values: bytes in lower-case hex, moments in RFC 3339. Any: whichever report type."""
    return {
        "product": claims.product,
        "measurement": claims.measurement.hex(),
        "signer": None if claims.signer is None else claims.signer.hex(),
        "report_data": None if claims.report_data is None else claims.report_data.hex(),
        "debug": claims.debug,
        "simulated": claims.simulated,
        "tcb_status": claims.tcb_status,
        "tcb_date": None if claims.tcb_date is None else stamp(claims.tcb_date),
        "advisories": list(claims.advisories),
        "chip": None if claims.chip is None else claims.chip.hex(),
        "anchor": None if claims.anchor is None else claims.anchor.sha256.hex(),
        "anchor_origin": None if claims.anchor is None else claims.anchor.origin,
        "expires": stamp(claims.expires),
        **claims.fields,
    }


def stamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds; a twentieth of what `strftime` costs."""
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _reason(check: Check) -> str:
    """One failed check as a sentence."""
    if check.found and check.expected:
        return f"{check.name}: expected {check.expected}, found {check.found}"
    return f"{check.name}: {check.found or f'expected {check.expected}'}"


T = TypeVar("T")


def _merged(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*first, *second)))
