"""A simulated TDX machine asks for a certificate: what an acceptance says, and what the configuration explains."""

from typing import Final

from enarx import toml
from enarx.attested.claims import report_data
from enarx.attested.result import AttestationResult
from enarx.pki import csr, keys
from enarx.pki.certificate import Extension
from enarx.steward.authority import Authority
from enarx.steward.explain import FLAGS, SENTENCES
from enarx.steward.policy import read_policy, simulated_anchor
from enarx.tee.dcap.policy import PlatformPolicy
from enarx.tee.model import Verdict
from enarx.tee.sgx import policy as sgx
from enarx.tee.tdx import policy as tdx
from enarx.tee.tdx.simulator import TdxMachine, Vendor
from tests.unit.steward import support

AT: Final = support.AT
MEASUREMENT: Final = bytes(range(48))


def asked(text: str) -> tuple[bytes, Authority]:
    """A request of a TD with runtime claims, and a Steward with this configuration."""
    vendor = Vendor.create(AT)
    anchor = vendor.anchor()
    assert anchor.certificate is not None
    document = toml.parse(text, source="steward.toml")
    policy = read_policy(document, [simulated_anchor("intel", anchor.certificate)])
    document.end()
    authority = support.authority(policy=policy)
    key, claims = keys.generate("P-256"), support.claims_for(authority)
    evidence = TdxMachine.create(vendor, AT, mr_td=MEASUREMENT).evidence(
        report_data("sha-256", keys.spki(key), claims.encode())
    )
    extensions = [Extension(oid=evidence.oid, critical=False, value=evidence.body), support.claims_extension(claims)]
    return csr.build(key, extensions), authority


def test_a_simulated_td_is_certified_as_simulated() -> None:
    """The certificate says technology, MRTD, simulated, and the claims that the report binds."""
    request, authority = asked(f"[tdx]\nhash = ['{MEASUREMENT.hex()}']\n[unsafe]\naccept_simulated = true\n")
    issuance = authority.issue([request], AT)
    assert issuance.refused is None, issuance.refused
    result = AttestationResult.from_certificate(issuance.issued[0])
    assert result is not None
    assert (result.technology, result.simulated, result.debug) == ("tdx", True, False)
    assert (result.measurement, result.tcb_status, result.signer) == (MEASUREMENT, "UpToDate", None)
    assert result.claims is not None
    assert result.claims.workload == support.WORKLOAD


def test_another_td_is_rejected() -> None:
    """What policy does not list is rejected."""
    request, authority = asked(f"[tdx]\nhash = ['{'55' * 48}']\n[unsafe]\naccept_simulated = true\n")
    refused = authority.issue([request], AT).refused
    assert refused is not None
    assert refused.verdict is Verdict.REJECTED
    assert refused.reasons == (f"policy.hash: expected {'55' * 48}, found {MEASUREMENT.hex()}",)


def test_every_key_of_intels_tables_is_explained_in_words() -> None:
    """What can be configured is told as a sentence, not as a key and a value."""
    known = {*SENTENCES, *FLAGS}
    for module in (sgx, tdx):
        text = (module.__doc__ or "").split("and the keys of")[0]
        keys_of = {word.strip(" ,") for line in text.splitlines() if line.startswith("    ") for word in _keys(line)}
        assert len(keys_of) > 9
        assert keys_of <= known, keys_of - known
    assert PlatformPolicy.__doc__


def _keys(line: str) -> list[str]:
    """The names at the front of a line of a table of keys, before two spaces."""
    return line.strip().split("  ")[0].split(", ")
