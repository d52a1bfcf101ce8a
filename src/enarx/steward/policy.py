"""What a Steward accepts, and what it grants: one table a technology, deny by default, what is unsafe says so.

    [snp] [sgx] …       what is acceptable of that technology; one without a table is rejected
    [certificate]       how long certificates live and which DNS names they carry
    [unsafe]            accept_nil, accept_simulated, allow_any_measurement, allow_evaluation_skew
    [unsafe.simulated]  the roots of simulated vendors, by family: amd = ["…"], intel = ["…"]

This is the one place where anchors are chosen: simulated ones count only when their files are named *and*
`accept_simulated` is true. A technology's table has to list reference values unless `allow_any_measurement` is true,
which without any table means every technology by its defaults; a policy that accepts nothing is refused. The
originals' keys keep their meaning; each technology reads its own.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal

from enarx.attested.claims import MAX_LIFETIME, RuntimeClaims
from enarx.digest import Digest
from enarx.errors import MalformedError
from enarx.tee import TECHNOLOGIES, nil
from enarx.tee.appraise import Judge, Memory, judge
from enarx.tee.model import Checks, Claims, Family, Leniency, Technology, TrustAnchor
from enarx.toml import Table

NonceRule = Literal["claims", "always", "optional"]

DEFAULT_LIFETIME: Final = timedelta(hours=8)
LONGEST_LIFETIME: Final = timedelta(days=28)  # what the originals gave everybody
REFERENCE_VALUES: Final = ("hash", "signer", "id_key_digest")  # keys that say what may run, not where or how new
FAMILIES: Final[Mapping[str, Family]] = {
    "amd": "amd",
    "intel": "intel",
    "aws": "aws",
    "arm": "arm",
}  # whom a simulator may imitate


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a certificate may carry: how long it lives, names it gets unasked, names it gets when it asks."""

    lifetime: timedelta = DEFAULT_LIFETIME
    dns_names: tuple[str, ...] = ()
    may_request: tuple[str, ...] = ()

    def names(self, claims: RuntimeClaims | None) -> tuple[str, ...]:
        wished = () if claims is None else claims.names
        return (*self.dns_names, *(name for name in wished if name in self.may_request and name not in self.dns_names))

    def duration(self, claims: RuntimeClaims | None) -> timedelta:
        wished = None if claims is None else claims.lifetime
        return self.lifetime if wished is None else min(self.lifetime, timedelta(seconds=wished))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsafe:
    """What is accepted against good advice, each by name."""

    accept_nil: bool = False
    accept_simulated: bool = False
    allow_any_measurement: bool = False
    allow_evaluation_skew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How a policy is applied; the default is a server's.

    `steward verify` explains older forms of evidence where a server refuses them, believes the anchors that were named
    on its command line beside the vendors', and may be told to overlook missing CRLs. A server remembers the highest
    numbers of documents, and refuses rollbacks.
    """

    refuse_legacy: bool = True
    anchors: tuple[TrustAnchor, ...] = ()
    without_crl: bool = False
    memory: Memory | None = None


SERVING: Final = Judging()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy that was read. `judges` and `technologies` are by OID; `digest` is of its canonical form."""

    judges: Mapping[str, Judge]
    technologies: Mapping[str, Technology[Any, Any]]  # Any: as TECHNOLOGIES
    configured: frozenset[str]
    anchors: tuple[TrustAnchor, ...]
    unsafe: Unsafe
    grant: Grant
    grants: Mapping[Digest, Grant]
    nonce: NonceRule
    maximum_age: timedelta | None
    digest: bytes
    tables: Mapping[str, Mapping[str, Any]]  # Any: as written, for `explain`

    def granted(self, claims: RuntimeClaims | None) -> Grant:
        workload = None if claims is None else claims.workload
        return self.grant if workload is None else self.grants.get(workload, self.grant)

    @property
    def oids(self) -> frozenset[str]:
        return frozenset(self.judges)

    def require_something(self, document: Table) -> None:
        """Raises ConfigError when nothing at all would be accepted."""
        if not self.configured:
            names = ", ".join(f"[{technology.name}]" for technology in TECHNOLOGIES if technology.name != "nil")
            raise document.error("", f"this policy accepts nothing: expected a table {names} or something in [unsafe]")


def simulated_anchor(family: str, certificate: bytes) -> TrustAnchor:
    """The root (DER) of a simulated vendor."""
    if family not in FAMILIES:
        raise MalformedError(f"simulated anchor: expected one of {', '.join(FAMILIES)}, found {family!r}")
    return TrustAnchor(
        family=FAMILIES[family],
        sha256=hashlib.sha256(certificate).digest(),
        certificate=certificate,
        simulated=True,
        origin="simulator",
    )


def operator_anchor(family: Family, data: bytes) -> TrustAnchor:
    """An anchor (DER of a certificate or public key) that the operator names, where the vendor publishes no root."""
    return TrustAnchor(family=family, sha256=hashlib.sha256(data).digest(), certificate=data, origin="operator")


def argument_anchors(certificate: bytes) -> tuple[TrustAnchor, ...]:
    """A root (DER) that was named on a command line, believed for whichever vendor's evidence leads to it."""
    pin = hashlib.sha256(certificate).digest()
    return tuple(
        TrustAnchor(family=family, sha256=pin, certificate=certificate, origin="argument")
        for family in FAMILIES.values()
    )


def read_policy(
    document: Table,
    anchors: Sequence[TrustAnchor],
    *,
    extra_names: Sequence[str] = (),
    judging: Judging = SERVING,
) -> Policy:
    """The policy in a document, given the anchors whose files it names (simulated ones, platform keys). Raises ConfigError."""
    simulated = tuple(anchor for anchor in anchors if anchor.simulated)
    danger = document.table("unsafe")
    unsafe = _read_unsafe(danger)
    for family in FAMILIES:
        danger.table("simulated").strings(family)  # read by who may open files
    danger.end()
    if simulated and not unsafe.accept_simulated:
        raise danger.error("simulated", "simulated vendors count only with [unsafe] accept_simulated = true")
    if unsafe.accept_simulated and not simulated:
        raise danger.error("accept_simulated", "no root is named: expected [unsafe.simulated] amd or intel = [FILE]")
    leniency = Leniency(without_crl=judging.without_crl, allow_evaluation_skew=unsafe.allow_evaluation_skew)
    judges: dict[str, Judge] = {}
    configured = set()
    for technology in TECHNOLOGIES:
        known, policy = _read_technology(technology, document, unsafe)
        believed = _anchors(technology, anchors, judging.anchors, accept_nil=unsafe.accept_nil)
        configured |= {technology.name} if known else set()
        judged = technology if known else _refusing(technology)
        made = judge(judged, policy, believed, leniency, refuse_legacy=judging.refuse_legacy, memory=judging.memory)
        judges |= dict.fromkeys(technology.oids, made)
    grant, grants = _read_grants(document.table("certificate"), extra_names)
    nonce = document.string("nonce", "claims")
    if nonce not in {"claims", "always", "optional"}:
        raise document.error("nonce", f"expected claims, always or optional, found {nonce!r}")
    seconds = document.integer("maximum_evidence_age", None, minimum=1, maximum=86400)
    age = None if seconds is None else timedelta(seconds=seconds)
    tables = {t.name: document.values.get(t.name, {}) for t in TECHNOLOGIES if t.name in configured}
    return Policy(
        judges=MappingProxyType(judges),
        technologies=MappingProxyType({oid: t for t in TECHNOLOGIES for oid in t.oids}),
        configured=frozenset(configured),
        anchors=tuple(anchors),
        unsafe=unsafe,
        grant=grant,
        grants=MappingProxyType(grants),
        nonce="always" if nonce == "always" else "optional" if nonce == "optional" else "claims",
        maximum_age=age,
        digest=_digest(tables, unsafe, anchors, nonce, age),
        tables=MappingProxyType(tables),
    )


def default_policy(judging: Judging) -> Policy:
    """What `steward verify` asks for without a configuration: authentic, current, not debug, and nothing compared."""
    leniency = Leniency(without_crl=judging.without_crl)
    judges: dict[str, Judge] = {}
    for technology in TECHNOLOGIES:
        anchors = _anchors(technology, (), judging.anchors, accept_nil=False)
        judges |= dict.fromkeys(technology.oids, judge(technology, technology.default_policy, anchors, leniency))
    return Policy(
        judges=MappingProxyType(judges),
        technologies=MappingProxyType({oid: t for t in TECHNOLOGIES for oid in t.oids}),
        configured=frozenset(technology.name for technology in TECHNOLOGIES if technology.name != "nil"),
        anchors=(),
        unsafe=Unsafe(),
        grant=Grant(),
        grants=MappingProxyType({}),
        nonce="optional",
        maximum_age=None,
        digest=_digest({}, Unsafe(), (), "optional", None),
        tables=MappingProxyType({}),
    )


def _read_unsafe(table: Table) -> Unsafe:
    return Unsafe(
        accept_nil=table.boolean("accept_nil", default=False),
        accept_simulated=table.boolean("accept_simulated", default=False),
        allow_any_measurement=table.boolean("allow_any_measurement", default=False),
        allow_evaluation_skew=table.boolean("allow_evaluation_skew", default=False),
    )


def _read_technology(
    technology: Technology[Any, Any], document: Table, unsafe: Unsafe
) -> tuple[bool, Any]:  # Any: the policy's type belongs to the technology
    """Whether this technology is accepted at all, and its policy."""
    if technology.name == "nil":
        return unsafe.accept_nil, technology.default_policy
    if technology.name not in document:
        nothing_said = not any(each.name in document for each in TECHNOLOGIES)
        known = unsafe.allow_any_measurement and nothing_said
        # a Steward's defaults are those of a table without keys; `default_policy` is for looking at evidence offline
        empty = document.table(technology.name)
        return known, technology.read_policy(empty) if known else technology.default_policy
    table = document.table(technology.name)
    if not table.keys():
        raise document.error(technology.name, "an empty table; expected what is acceptable, or no table")
    policy = technology.read_policy(table)
    table.end()  # a key that is spelled wrong is told before what it was meant to say is missed
    if not any(table.values.get(key) for key in REFERENCE_VALUES) and not unsafe.allow_any_measurement:
        raise document.error(
            technology.name,
            f"lists no measurement: expected {' or '.join(key for key in REFERENCE_VALUES if key in table.asked)}, "
            "or [unsafe] allow_any_measurement = true",
        )
    return True, policy


def _anchors(
    technology: Technology[Any, Any],
    simulated: Sequence[TrustAnchor],
    extra: Sequence[TrustAnchor],
    *,
    accept_nil: bool,
) -> tuple[TrustAnchor, ...]:
    if technology.name == "nil":
        return (nil.PSEUDO_ANCHOR,) if accept_nil else ()
    named = (anchor for anchor in (*simulated, *extra) if anchor.family == technology.family)
    return (*technology.anchors(), *named)


def _refusing(technology: Technology[Any, Any]) -> Technology[Any, Any]:
    """The same technology, whose evidence is judged whether it is authentic and then rejected."""

    def refuse(claims: Claims[Any], policy: object, checks: Checks) -> None:
        del claims, policy
        name = technology.name
        checks.check(f"{name}.configured", ok=False, found=f"no [{name}] table", expected="a table for this technology")

    return dataclasses.replace(technology, accept=refuse)


def _read_grants(table: Table, extra_names: Sequence[str]) -> tuple[Grant, dict[Digest, Grant]]:
    """The grant for everybody, and those for single workloads, which have what they do not say from it."""
    general = _read_grant(table, Grant())
    general = dataclasses.replace(general, dns_names=tuple(dict.fromkeys((*general.dns_names, *extra_names))))
    grants: dict[Digest, Grant] = {}
    for entry in table.tables("workload"):
        try:
            digest = Digest.parse(entry.string("digest"))
        except MalformedError as error:
            raise entry.error("digest", str(error)) from error
        if digest.algorithm != "sha-256" or digest in grants:
            raise entry.error("digest", "expected a SHA-256 digest that no other entry names")
        grants[digest] = _read_grant(entry, general)
    return general, grants


def _read_grant(table: Table, default: Grant) -> Grant:
    lifetime = table.integer("lifetime", minimum=60, maximum=int(LONGEST_LIFETIME.total_seconds()), default=None)
    grant = Grant(
        lifetime=default.lifetime if lifetime is None else timedelta(seconds=lifetime),
        dns_names=table.strings("dns_names", default.dns_names),
        may_request=table.strings("may_request", default.may_request),
    )
    for key in ("dns_names", "may_request"):
        for name in getattr(grant, key):
            require_dns_name(table, key, name)
    return grant


def require_dns_name(table: Table, key: str, name: str) -> None:
    """The same names that runtime claims may wish for. Raises ConfigError."""
    try:
        RuntimeClaims(audience="-", names=(name,))
    except MalformedError as error:
        raise table.error(key, f"expected lower-case DNS names, found {name!r}") from error


def _digest(
    tables: Mapping[str, Any], unsafe: Unsafe, simulated: Sequence[TrustAnchor], nonce: str, age: timedelta | None
) -> bytes:  # Any: as in Policy
    """SHA-256 of the canonical JSON of all that decides acceptance; what is only granted is no part of it."""
    canonical = {
        "technologies": tables,
        "unsafe": dataclasses.asdict(unsafe),
        "simulated": sorted(anchor.sha256.hex() for anchor in simulated),
        "nonce": nonce,
        "maximum_evidence_age": None if age is None else age.total_seconds(),
    }
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).digest()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value)


assert timedelta(seconds=MAX_LIFETIME) >= LONGEST_LIFETIME  # noqa: S101 - what can be wished reaches what can be granted
