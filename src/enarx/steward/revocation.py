"""What the operator took back: rules by measurement, chip, workload or serial number, and what follows from them.

A rule has two effects. Nothing that matches it is certified any more (the authority asks, in the gate *rejected*),
and every certificate that was issued, matches and has not ended stands in the revocation list. Re-attestation is the
normal way to withdraw trust (certificates live for hours); this is for emergencies. Pure: files are kept by `ledger`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Literal, Self, get_args

import msgspec

from enarx.attested.result import AttestationResult
from enarx.digest import Digest
from enarx.errors import MalformedError
from enarx.steward.issuer import Revoked
from enarx.tee.model import stamp

Kind = Literal["measurement", "chip", "workload", "serial"]
MEASUREMENTS: Final = (32, 48, 64)  # bytes: SHA-256, SHA-384, SHA-512
CHIPS: Final = (8, 16, 32, 33, 64)  # bytes: AMD's newer ids, Intel's, a SHA-256, Arm's instances, AMD's older ids
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_encoder: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What is remembered of an issued certificate: hexadecimal, as rules name it. `chip` is its SHA-256."""

    serial: str
    measurement: str
    chip: str
    workload: str
    not_after: datetime

    @classmethod
    def of(cls, serial: int, result: AttestationResult, not_after: datetime) -> Self:
        return cls(serial=f"{serial:x}", not_after=not_after, **_facts(result))

    def encode(self) -> str:
        """One line of JSON, without the line's end."""
        members = {kind: getattr(self, kind) for kind in KINDS}
        return _encoder.encode({**members, "not_after": stamp(self.not_after.astimezone(UTC))}).decode()

    @classmethod
    def parse(cls, line: str) -> Self:
        """Raises MalformedError."""
        members = _strings(_load(line, "issued certificate"), "issued certificate")
        if set(members) != {*KINDS, "not_after"}:
            raise MalformedError("issued certificate: expected serial, measurement, chip, workload and not_after")
        not_after = _moment(members.pop("not_after"), "issued certificate: not_after")
        return cls(not_after=not_after, **members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """The rules: for each kind, hexadecimal values and since when."""

    rules: Mapping[Kind, Mapping[str, datetime]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, data: bytes, what: str = "revocations") -> Self:
        """Raises MalformedError."""
        rules: dict[Kind, dict[str, datetime]] = {}
        for kind, values in _load(data, what).items():
            if kind not in KINDS or not isinstance(values, dict):
                raise MalformedError(f"{what}: expected objects named {', '.join(KINDS)}, found {kind!r}")
            pairs = _strings(values, f"{what}: {kind}").items()
            rules[kind] = {_hex(value, what): _moment(since, f"{what}: {kind}") for value, since in pairs}
        return cls(rules=rules)

    def encode(self) -> bytes:
        plain = {
            kind: {value: since.astimezone(UTC).strftime(_TIME) for value, since in values.items()}
            for kind, values in self.rules.items()
        }
        return json.dumps(plain, indent=2, sort_keys=True).encode() + b"\n"

    def adding(self, kind: Kind, value: str, since: datetime) -> Self:
        """With one more rule; one that is there already keeps its moment."""
        values = {_hex(value, kind): since, **self.rules.get(kind, {})}
        return type(self)(rules={**self.rules, kind: values})

    def denies(self, result: AttestationResult) -> tuple[str, ...]:
        """Why a certificate for this result would be revoked at once: a sentence for each rule that matches."""
        return tuple(
            f"{kind} {value} was revoked by the operator"
            for kind, value in _facts(result).items()
            if value and value in self.rules.get(kind, {})  # type: ignore[call-overload]  # the keys of _facts are Kinds
        )

    def withdrawn(self, serial: int, result: AttestationResult) -> tuple[str, ...]:
        """Why this very certificate counts no more."""
        named = f"{serial:x}" in self.rules.get("serial", {})
        return (*([f"serial {serial:x} was revoked by the operator"] if named else []), *self.denies(result))

    def entries(self, issued: Sequence[Issued], at: datetime) -> tuple[Revoked, ...]:
        """What stands in the list at that moment: each certificate once, those that have ended left out."""
        found: dict[int, datetime] = {}
        for item in issued:
            matches = [since for kind in KINDS if (since := self.rules.get(kind, {}).get(getattr(item, kind)))]
            if matches and item.not_after > at:
                found[int(item.serial, 16)] = min(matches)
        named = self.rules.get("serial", {})
        known = {item.serial for item in issued}
        found |= {int(serial, 16): since for serial, since in named.items() if serial not in known}
        return tuple(Revoked(serial=serial, since=since) for serial, since in sorted(found.items()))


def rule_value(kind: Kind, text: str) -> str:
    """What a person wrote, as rules have it. Raises MalformedError.

    A workload may be written with its algorithm or without. A chip is known by the SHA-256 of its id, which certificates carry;
    an id of another length than 32 bytes is hashed. AMD's ids of 8 bytes may be written with the zeros of a report.
    """
    if kind == "workload":
        return Digest.parse(text if ":" in text else f"sha-256:{text}").hex
    value = _hex(text, kind)
    if kind == "serial":
        return f"{int(value, 16):x}"
    if len(value) % 2:
        raise MalformedError(f"{kind}: expected whole bytes of hexadecimal, found {len(value)} digits")
    raw = bytes.fromhex(value)
    wanted = MEASUREMENTS if kind == "measurement" else CHIPS
    if len(raw) not in wanted:
        raise MalformedError(f"{kind}: expected {', '.join(map(str, wanted))} bytes, found {len(raw)}")
    raw = raw[:8] if kind == "chip" and len(raw) == 64 and not any(raw[8:]) else raw
    return sha256(raw).hexdigest() if kind == "chip" and len(raw) != sha256().digest_size else value


def _facts(result: AttestationResult) -> dict[str, str]:
    workload = None if result.claims is None else result.claims.workload
    return {
        "measurement": result.measurement.hex(),
        "chip": "" if result.chip is None else result.chip.hex(),
        "workload": "" if workload is None else workload.hex,
    }


def _load(text: str | bytes, what: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what}: not JSON") from error
    if not isinstance(value, dict):
        raise MalformedError(f"{what}: expected a JSON object")
    return value


def _strings(members: Mapping[str, object], what: str) -> dict[str, str]:
    for name, value in members.items():
        if not isinstance(value, str):
            raise MalformedError(f"{what}: {name}: expected a string")
    return {name: str(value) for name, value in members.items()}


def _hex(value: str, what: str) -> str:
    text = value.strip().lower().removeprefix("0x")
    if not text or text.strip("0123456789abcdef"):
        raise MalformedError(f"{what}: expected hexadecimal digits, found {value[:100]!r}")
    return text


def _moment(text: str, what: str) -> datetime:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedError(f"{what}: expected a moment like 2026-01-01T00:00:00Z, found {text[:40]!r}") from error
