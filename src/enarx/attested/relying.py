"""Who is this TLS peer? The certificates it showed, judged by whoever relies on it (flow.md, 7).

TLS has proven that the peer holds the key of the first certificate. What is left, in this order:
  1  the certificates can be read, and there are not too many             else malformed
  2  they lead to a Steward that is trusted, at this moment               else untrusted
  3  nothing in that path was revoked, where lists were given             else untrusted
  4  the first is an end entity, for this side of TLS                     else untrusted
  5  it carries an attestation result; its one SPIFFE id and its          else untrusted
     subject say the same as the result does
  6  the expectation of the caller: all that fails is reported together   else rejected
An Expectation that says nothing accepts real hardware only, without debugging, of any workload.
No socket is opened and no clock is read here; `enarx.web.attested` does both.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, Literal, Protocol, Self, TypeVar, runtime_checkable

from enarx.attested.claims import SealingKey
from enarx.attested.result import AttestationResult
from enarx.digest import Digest
from enarx.errors import MalformedError, RejectedError, UnavailableError, UntrustedError
from enarx.pki.certificate import Certificate, describe_name, name_attributes
from enarx.pki.chain import order_path, verify_chain
from enarx.pki.crl import Crl, current_for, require_not_revoked
from enarx.pki.names import (
    CLIENT_AUTH,
    CRL_DISTRIBUTION_POINTS,
    EXTENDED_KEY_USAGE,
    SERVER_AUTH,
    SUBJECT_ALT_NAME,
    alternative_names,
    purposes,
)
from enarx.toml import Table

T = TypeVar("T")
Side = Literal["server", "client"]
Policy = Callable[[Sequence[bytes], datetime], "Peer"]

MAX_CHAIN: Final = 6  # certificates: leaf, online intermediate, root, and room for an organisation's own

ORGANIZATION: Final = "2.5.4.10"
NIL: Final = "nil"
TITLES: Final[Mapping[str, str]] = {
    "snp": "AMD SEV-SNP",
    "sgx": "Intel SGX",
    "tdx": "Intel TDX",
    "cca": "Arm CCA",
    "nitro": "AWS Nitro",
    "snp-svsm": "AMD SEV-SNP beneath an SVSM",
    "az-snp": "AMD SEV-SNP in Azure",
    "az-tdx": "Intel TDX in Azure",
    NIL: "no TEE",
}
MEASUREMENT_SIZES: Final[Mapping[str, tuple[int, ...]]] = {  # bytes that each of them measures with
    "snp": (48,),
    "sgx": (32,),
    "tdx": (48,),
    "cca": (32, 48, 64),
    "nitro": (48,),
    "snp-svsm": (48,),
    "az-snp": (48,),
    "az-tdx": (48,),
}
SIGNER_SIZES: Final[Mapping[str, tuple[int, ...]]] = {
    "snp": (48,),
    "sgx": (32,),
    "nitro": (48,),
    "snp-svsm": (48,),
    "az-snp": (48,),
}
TCB_STATUSES: Final = (  # Intel's words, AMD's standing in the same, and what there is where nobody judges a TCB
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "NotReported",
    "Unattested",
)
SIMULATED_WARNING: Final = "SIMULATED: proves nothing. This TEE is a program, and whoever runs it sees everything."
UNATTESTED_WARNING: Final = (
    "UNATTESTED: proves nothing. No hardware vouches for this; all below is the peer's own word."
)
DEBUG_WARNING: Final = "DEBUG: protects nothing. The host of this TEE may read and change its memory."

MAX_AGE: Final = 3_153_600_000  # seconds, a hundred years: no certificate lives as long, and dates reach there

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")  # SPIFFE ID, 2.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a relying party asks of a peer. None asks nothing; an empty set accepts nothing.

    Bytes are raw measurements, signers and SHA-256 digests of deploy configurations. `max_age` is measured from the
    moment at which Steward judged the evidence.
    """

    workloads: frozenset[Digest] | None = None
    technologies: frozenset[str] | None = None
    measurements: frozenset[bytes] | None = None
    signers: frozenset[bytes] | None = None
    config_digests: frozenset[bytes] | None = None
    tcb_statuses: frozenset[str] | None = None
    trust_domains: frozenset[str] | None = None
    max_age: timedelta | None = None
    accept_simulated: bool = False
    accept_nil: bool = False
    accept_debug: bool = False

    @classmethod
    def from_table(cls, table: Table) -> Self:
        """Read a policy file. Raises ConfigError, which names the line and the key."""
        unsafe = table.table("unsafe")
        age = table.integer("max_age_seconds", None, minimum=1, maximum=MAX_AGE)
        technologies = _given(table, "technologies", frozenset(table.choices("technologies", TITLES)))
        made = cls(
            workloads=_each(table, "workloads", Digest.parse),
            technologies=technologies,
            measurements=_bytes_of(table, "measurements", MEASUREMENT_SIZES, technologies),
            signers=_bytes_of(table, "signers", SIGNER_SIZES, technologies),
            config_digests=_given(table, "config_digests", table.hex_list("config_digests", length=32)),
            tcb_statuses=_given(table, "tcb_statuses", frozenset(table.choices("tcb_statuses", TCB_STATUSES))),
            trust_domains=_each(table, "trust_domains", _trust_domain),
            max_age=None if age is None else timedelta(seconds=age),
            accept_simulated=unsafe.boolean("accept_simulated", default=False),
            accept_nil=unsafe.boolean("accept_nil", default=False),
            accept_debug=unsafe.boolean("accept_debug", default=False),
        )
        table.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer that a trusted Steward vouches for. Only `judge_peer` makes one.

    `expires` is the earliest end in its path; `result` is what Steward found.
    """

    certificate: Certificate
    result: AttestationResult
    spiffe_id: str
    trust_domain: str
    dns_names: tuple[str, ...]
    steward: Certificate
    expires: datetime

    @property
    def technology(self) -> str:
        return self.result.technology

    @property
    def simulated(self) -> bool:
        return self.result.simulated

    @property
    def debug(self) -> bool:
        return self.result.debug

    @property
    def unattested(self) -> bool:
        """No hardware vouches: workload, sealing key and all else are only the peer's word."""
        return self.result.technology == NIL

    @property
    def measurement(self) -> bytes:
        return self.result.measurement

    @property
    def workload(self) -> Digest | None:
        return None if self.result.claims is None else self.result.claims.workload

    @property
    def slug_claimed(self) -> str | None:
        """What the host said it deployed. Proven by nothing; no decision may rest on it."""
        return None if self.result.claims is None else self.result.claims.slug

    @property
    def config_digest(self) -> bytes | None:
        return None if self.result.claims is None else self.result.claims.config

    @property
    def sealing_key(self) -> SealingKey | None:
        return None if self.result.claims is None else self.result.claims.sealing

    def warnings(self) -> tuple[str, ...]:
        """What has to be said before anything else."""
        said = ((self.unattested, UNATTESTED_WARNING), (self.simulated, SIMULATED_WARNING), (self.debug, DEBUG_WARNING))
        return tuple(text for holds, text in said if holds)

    def describe(self, at: datetime | None = None) -> list[str]:
        """What one is talking to, in a few lines for people; with `at`, how long the certificate still lives."""
        return [*self.warnings(), *(f"{name:<12}{text}" for name, text in self._lines(at))]

    def _lines(self, at: datetime | None) -> Iterator[tuple[str, str]]:
        result = self.result
        title = TITLES.get(result.technology, result.technology)
        yield "technology", f"{result.technology} ({title}){', SIMULATED' if self.simulated else ''}"
        yield "debug", "YES" if result.debug else "no"
        yield "workload", str(self.workload or "none: the certificate names no workload")
        yield "measurement", result.measurement.hex() or "none"
        if result.signer:
            yield "signer", result.signer.hex()
        since = f" of {result.tcb_date:%Y-%m-%d}" if result.tcb_date else ""
        yield "TCB", result.tcb_status + since + "".join(f", {advisory}" for advisory in result.advisories)
        if self.config_digest:
            yield "config", f"sha-256:{self.config_digest.hex()}"
        if self.slug_claimed:
            yield "slug", f"{self.slug_claimed} (claimed, not proven)"
        if self.dns_names:
            yield "names", ", ".join(self.dns_names)
        yield "identity", self.spiffe_id
        yield "steward", describe_name(self.steward.subject)
        left = "" if at is None else f" ({_duration(self.expires - at)} left)"
        yield "certificate", f"valid until {_stamp(self.expires)}{left}, judged at {_stamp(result.appraised_at)}"

    def to_json(self) -> dict[str, object]:
        """The same for programs: bytes in hex, moments in RFC 3339."""
        result = self.result
        return {
            "technology": result.technology,
            "simulated": result.simulated,
            "unattested": self.unattested,
            "debug": result.debug,
            "workload": str(self.workload) if self.workload else None,
            "measurement": result.measurement.hex(),
            "signer": result.signer.hex() if result.signer else None,
            "tcb_status": result.tcb_status,
            "tcb_date": _stamp(result.tcb_date) if result.tcb_date else None,
            "advisories": list(result.advisories),
            "chip": result.chip.hex() if result.chip else None,
            "config_digest": self.config_digest.hex() if self.config_digest else None,
            "slug_claimed": self.slug_claimed,
            "spiffe_id": self.spiffe_id,
            "dns_names": list(self.dns_names),
            "steward": describe_name(self.steward.subject),
            "certificate_sha256": self.certificate.sha256.hex(),
            "not_before": _stamp(self.certificate.not_before),
            "not_after": _stamp(self.expires),
            "appraised_at": _stamp(result.appraised_at),
            "policy": result.policy.hex(),
            "warnings": list(self.warnings()),
        }


def judge_peer(
    chain: Sequence[bytes],
    anchors: Sequence[Certificate],
    expectation: Expectation,
    at: datetime,
    *,
    side: Side = "server",
    crls: Sequence[Crl] | None = None,
) -> Peer:
    """Judge the certificates that a TLS peer showed (DER, leaf first); the steps are those of the module's text.

    `anchors` are the CAs of the Stewards that are trusted, `side` is the peer's. With `crls`, every certificate that
    names a revocation list needs a current one of its issuer among them. Raises MalformedError, UntrustedError,
    RejectedError with every reason, and UnavailableError when a revocation list is missing or too old.
    """
    # 1
    if not chain:
        raise UntrustedError("peer: showed no certificate")
    if len(chain) > MAX_CHAIN:
        raise MalformedError(f"peer: expected at most {MAX_CHAIN} certificates, found {len(chain)}")
    leaf, *above = (Certificate.parse(der, f"peer: certificate {index}") for index, der in enumerate(chain))
    # 2
    path, expires = _verified_path(leaf, above, anchors, at)
    # 3
    if crls is not None:
        _require_none_revoked(path, crls, at)
    # 4
    _require_end_entity(leaf, side)
    # 5
    result = AttestationResult.from_certificate(leaf)
    if result is None:
        raise UntrustedError("peer: a trusted Steward signed its certificate, but it has no attestation result")
    names = alternative_names(leaf)
    spiffe_id, trust_domain = _spiffe_id(names.uris, result)
    _require_honest_subject(leaf, result)
    peer = Peer(
        certificate=leaf,
        result=result,
        spiffe_id=spiffe_id,
        trust_domain=trust_domain,
        dns_names=names.dns,
        steward=path[1],
        expires=expires,
    )
    # 6
    accept(peer, expectation, at)
    return peer


def accept(peer: Peer, expectation: Expectation, at: datetime) -> None:
    """Compare a verified peer with what is expected of it. Raises RejectedError with every reason."""
    reasons = list(_reasons(peer, expectation, at))
    if reasons:
        raise RejectedError("; ".join(reasons), reasons=reasons)


def judge_connection(
    connection: object, anchors: Sequence[Certificate], expectation: Expectation, at: datetime, *, side: Side = "server"
) -> Peer:
    """The same for the other end of an `ssl.SSLSocket` or `ssl.SSLObject` whose handshake is done."""
    return judge_peer(peer_chain(connection), anchors, expectation, at, side=side)


def attested_clients(
    anchors: Sequence[Certificate], expectation: Expectation, crls: Callable[[], Sequence[Crl]] | None = None
) -> Policy:
    """A policy for a server that wants attested clients: from a chain and a moment to a Peer, or one of our errors.

    `crls` is asked at each judgement, so that lists can be renewed while the server runs.
    """

    def policy(chain: Sequence[bytes], at: datetime) -> Peer:
        lists = None if crls is None else crls()
        return judge_peer(chain, anchors, expectation, at, side="client", crls=lists)

    return policy


@runtime_checkable
class TlsConnection(Protocol):
    """What we need of an `ssl.SSLSocket` or `ssl.SSLObject`."""

    def getpeercert(self, binary_form: bool = False) -> object: ...


def peer_chain(connection: object) -> tuple[bytes, ...]:
    """The certificates the peer of a TLS connection showed (DER, leaf first); empty without one.

    Python gives the whole chain publicly from 3.13 on; before, the same function stands on the object beneath.
    """
    if not isinstance(connection, TlsConnection):
        return ()
    leaf = connection.getpeercert(binary_form=True)
    if not isinstance(leaf, bytes):
        return ()
    beneath = connection if hasattr(connection, "get_unverified_chain") else getattr(connection, "_sslobj", None)
    shown = getattr(beneath, "get_unverified_chain", lambda: None)() or ()
    chain = tuple(item if isinstance(item, bytes) else _der_of(item) for item in shown)
    return chain if chain[:1] == (leaf,) else (leaf, *chain)


def _der_of(certificate: object) -> bytes:
    """DER of an `_ssl.Certificate`; 2 is its ENCODING_DER."""
    found = getattr(certificate, "public_bytes")(2)  # noqa: B009 - a type without a public name
    return found if isinstance(found, bytes) else b""


def _verified_path(
    leaf: Certificate, above: Sequence[Certificate], anchors: Sequence[Certificate], at: datetime
) -> tuple[tuple[Certificate, ...], datetime]:
    """The first path to an anchor that verifies, and when it ends; else the error of the nearest miss."""
    refusal: UntrustedError | None = None
    for anchor in anchors:
        try:
            path = order_path(leaf, above, anchor)
        except UntrustedError:
            continue  # another anchor's business; if it is none's, the error below says so
        try:
            return path, verify_chain(path, at, what="peer", understood={SUBJECT_ALT_NAME, EXTENDED_KEY_USAGE})
        except UntrustedError as error:
            refusal = refusal or error
    raise refusal or UntrustedError(
        f"peer: issued by {describe_name(leaf.issuer)}, which leads to none of the {len(anchors)} trusted Stewards"
    )


def _require_none_revoked(path: Sequence[Certificate], crls: Sequence[Crl], at: datetime) -> None:
    for certificate, issuer in pairwise(path):
        if CRL_DISTRIBUTION_POINTS not in certificate.extensions:
            continue  # its issuer publishes no list
        try:
            crl, _ = current_for(issuer, crls, at, "peer")
        except UntrustedError as error:
            raise UnavailableError(f"whether the peer was revoked can not be said now: {error}") from error
        require_not_revoked(certificate, crl, "peer")


def _require_end_entity(leaf: Certificate, side: Side) -> None:
    if leaf.is_ca:
        raise UntrustedError("peer: its certificate is a CA's, expected an end entity's")
    wanted = SERVER_AUTH if side == "server" else CLIENT_AUTH
    found = purposes(leaf)
    if found is None or wanted not in found:
        raise UntrustedError(f"peer: its certificate is not for a TLS {side}")


def _spiffe_id(uris: Sequence[str], result: AttestationResult) -> tuple[str, str]:
    """The one SPIFFE id and its trust domain, after comparing it with the result (flow.md, 4)."""
    if len(uris) != 1:
        raise UntrustedError(f"peer: expected one URI in its certificate, found {len(uris)}")
    scheme, _, rest = uris[0].partition("://")
    domain, _, path = rest.partition("/")
    if scheme != "spiffe" or not _TRUST_DOMAIN.fullmatch(domain):
        raise UntrustedError(f"peer: expected a SPIFFE id, found {uris[0][:200]!r}")
    workload = None if result.claims is None else result.claims.workload
    measured = f"/{result.measurement.hex()}" if result.measurement else ""
    expected = f"workload/sha-256/{workload.hex}" if workload else f"keep/{result.technology}{measured}"
    if path != expected:
        raise UntrustedError(f"peer: SPIFFE id: expected …/{expected} as its attestation result says, found …/{path}")
    return uris[0], domain


def _require_honest_subject(leaf: Certificate, result: AttestationResult) -> None:
    """The subject warns people who see only names: it has to warn exactly when the result does."""
    found = [text for oid, text in name_attributes(leaf.subject) if oid == ORGANIZATION]
    expected = ["UNATTESTED"] if result.technology == NIL else ["SIMULATED"] if result.simulated else []
    if found != expected:
        raise UntrustedError(
            f"peer: subject: expected organization {expected or 'none'} as its attestation result says, found {found or 'none'}"
        )


def _reasons(peer: Peer, expectation: Expectation, at: datetime) -> Iterator[str]:
    """Every way in which the peer is not what was expected, as a sentence."""
    result = peer.result
    if peer.unattested and not expectation.accept_nil:
        yield "technology: expected a TEE, found none (unattested)"
    if peer.simulated and not expectation.accept_simulated:
        yield "technology: expected real hardware, found a simulated TEE"
    if peer.debug and not expectation.accept_debug:
        yield "debug: expected a TEE that its host can not read, found one open to debugging"
    yield from _not_among("technology", result.technology, expectation.technologies, str)
    yield from _not_among("workload", peer.workload, expectation.workloads, str)
    yield from _not_among("measurement", result.measurement, expectation.measurements, bytes.hex)
    yield from _not_among("signer", result.signer, expectation.signers, bytes.hex)
    yield from _not_among("deploy configuration", peer.config_digest, expectation.config_digests, bytes.hex)
    yield from _not_among("TCB status", result.tcb_status, expectation.tcb_statuses, str)
    yield from _not_among("trust domain", peer.trust_domain, expectation.trust_domains, str)
    age = at - result.appraised_at
    if expectation.max_age is not None and age > expectation.max_age:
        yield f"age: expected at most {_duration(expectation.max_age)} since it was judged, found {_duration(age)}"


def _not_among(name: str, found: T | None, accepted: frozenset[T] | None, show: Callable[[T], str]) -> Iterator[str]:
    if accepted is not None and found not in accepted:
        wanted = " or ".join(sorted(show(item) for item in accepted)) or "nothing at all"
        yield f"{name}: expected {wanted}, found {'none' if found is None else show(found) or 'none'}"


def _each(table: Table, key: str, read: Callable[[str], T]) -> frozenset[T] | None:
    """A list of the policy file, each item read; None when the key is absent."""
    items = table.strings(key)  # asked for in any case, so that a misspelt key finds its neighbour
    if key not in table:
        return None
    found = set()
    for index, text in enumerate(items):
        try:
            found.add(read(text))
        except (MalformedError, ValueError) as error:
            raise table.error(f"{key}[{index}]", str(error), at=key) from error
    return frozenset(found)


def _given(table: Table, key: str, found: frozenset[T]) -> frozenset[T] | None:
    """What was read, None when the key is absent: an empty list accepts nothing, no list everything."""
    return found if key in table else None


def _bytes_of(
    table: Table, key: str, sizes: Mapping[str, tuple[int, ...]], technologies: Iterable[str] | None
) -> frozenset[bytes] | None:
    """What one of the technologies could have: a value of another length would let nobody in, or not who was meant."""
    known = sizes if technologies is None else technologies
    allowed = sorted({size for technology in known for size in sizes.get(technology, ())})
    if table.strings(key) and not allowed:
        raise table.error(f"{key}[0]", "expected none: no technology that is accepted here has such a value", at=key)
    return _given(table, key, table.hex_list(key, length=allowed))


def _trust_domain(text: str) -> str:
    if not _TRUST_DOMAIN.fullmatch(text):
        raise MalformedError(f"expected a trust domain such as example.com, found {text[:80]!r}")
    return text


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _duration(span: timedelta) -> str:
    """A span of time for people, in its two largest units."""
    seconds = max(0, int(span.total_seconds()))
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    words = []
    for size, unit in units:
        if seconds >= size:
            words.append(f"{seconds // size} {unit}")
            seconds %= size
    return " ".join(words[:2]) or "0 s"
