"""dcap-qvl, an independent verifier of Intel's quotes, asked about the same evidence; a dependency of tests alone."""

import json
from datetime import datetime

import pytest

from enarx.tee.dcap.collateral import split
from enarx.tee.dcap.pck import write_chain
from enarx.tee.model import SignedJson
from tests.unit.tee.dcap import support
from tests.unit.tee.dcap.support import Case

dcap_qvl = pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")

REFUSED = "refused"


def verdict(quote: bytes, collateral: str, at: datetime, root: bytes | None = None) -> str:
    """Its status and advisories in a line, or that it refuses."""
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral)
    moment = int(at.timestamp())
    try:
        if root is None:
            report = dcap_qvl.verify(quote, parsed, moment)
        else:
            report = dcap_qvl.verify_with_root_ca(quote, parsed, root, moment)
    except ValueError:
        return REFUSED
    return described(report.status, report.advisory_ids)


def described(status: str, advisories: object) -> str:
    assert isinstance(advisories, list | tuple)
    return " ".join((status, *sorted(advisories)))


def collateral_of(case: Case) -> str:
    """The endorsements of a simulated machine in the form that it reads."""
    info, identity = case.endorsements.tcb_infos[0], case.endorsements.qe_identities[0]
    root_crl, pck_crl = case.endorsements.crls[:2]
    chain = write_chain((support.vendor().platform.certificate, support.vendor().root.certificate)).decode()

    def parts(document: SignedJson, name: str, key: str) -> dict[str, str]:
        text, signature = split(document.body, name)
        return {
            f"{key}_issuer_chain": write_chain(document.chain).decode(),
            key: text.decode(),
            f"{key}_signature": signature.hex(),
        }

    beside = write_chain(case.machine.machine.chain).decode() if case.endorsements.certificates else None
    return json.dumps(
        {
            "pck_certificate_chain": beside,
            "pck_crl_issuer_chain": chain,
            "root_ca_crl": root_crl.hex(),
            "pck_crl": pck_crl.hex(),
            **parts(info, "tcbInfo", "tcb_info"),
            **parts(identity, "enclaveIdentity", "qe_identity"),
        }
    )
