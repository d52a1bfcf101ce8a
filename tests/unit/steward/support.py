"""A small Steward in memory, and requests as Keeps of the originals and of ours make them."""

from datetime import UTC, datetime
from typing import Final

from enarx import toml
from enarx.attested.claims import RUNTIME_CLAIMS_OID, RuntimeClaims
from enarx.digest import Digest
from enarx.pki import csr, keys
from enarx.pki.certificate import Extension
from enarx.steward import issuer
from enarx.steward.authority import Authority
from enarx.steward.nonce import Nonces
from enarx.steward.policy import Policy, read_policy
from enarx.steward.profile import Profile

AT: Final = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
ORIGIN: Final = "https://steward.example.com"
NIL_OID: Final = "1.3.6.1.4.1.58270.1.1"
WORKLOAD: Final = Digest.of(b"main.wasm")
ACCEPT_NIL: Final = "[unsafe]\naccept_nil = true\n"


def policy(text: str = ACCEPT_NIL) -> Policy:
    document = toml.parse(text, source="steward.toml")
    found = read_policy(document, ())
    document.end()
    found.require_something(document)
    return found


def counting(size: int) -> bytes:
    """Bytes that are as good as random for a test."""
    return bytes(range(7, 7 + size))


def authority(text: str = ACCEPT_NIL, **changes: object) -> Authority:
    made = issuer.development("Steward", AT)
    parts: dict[str, object] = {
        "origin": ORIGIN,
        "policy": policy(text),
        "issuer": made,
        "profile": Profile(trust_domain="example.com", crl_url=f"{ORIGIN}/crl"),
        "nonces": Nonces(origin=ORIGIN, key=made.derive("nonce")),
        "random": counting,
    }
    return Authority(**(parts | changes))  # type: ignore[arg-type]  # the parts are those of Authority


def nil_evidence() -> Extension:
    return Extension(oid=NIL_OID, critical=False, value=b"")


def claims_for(judge: Authority, **changes: object) -> RuntimeClaims:
    parts: dict[str, object] = {"audience": ORIGIN, "nonce": judge.nonce(AT), "digests": (WORKLOAD,)}
    return RuntimeClaims(**(parts | changes))  # type: ignore[arg-type]  # the parts are those of RuntimeClaims


def claims_extension(claims: RuntimeClaims) -> Extension:
    return Extension(oid=RUNTIME_CLAIMS_OID, critical=False, value=claims.encode())


def request(*extensions: Extension, curve: keys.Curve = "P-256") -> bytes:
    return csr.build(keys.generate(curve), extensions)
