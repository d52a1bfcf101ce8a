"""SGX evidence: the quote of an enclave, in each of the forms in which it comes.

By its OID (flow.md 3, protocol.md 1.7): `1.3.6.1.4.1.58270.1.2` is the originals' SEQUENCE with CRLs and TCB info,
or one of its two older forms; ours, `.5`, adds the QE identity; without an OID it is the bare quote. The quote is
of version 3, or of version 5 with an enclave report inside. The binding hash is SHA-256 (flow.md 2).
"""

from typing import Final, Self

from msgspec import Struct

from enarx.errors import MalformedError
from enarx.tee.dcap.enclave import EnclaveReport
from enarx.tee.dcap.quote import ECDSA_P256, TEE_SGX
from enarx.tee.dcap.quoted import Bundle, Quoted
from enarx.tee.model import Endorsements, Evidence, Parsed

OID: Final = "1.3.6.1.4.1.58270.1.2"
OID_WITH_QE: Final = "2.25.67770326763034024982283820726568347927.5"

_SEQUENCE: Final = 0x30  # first byte of the DER forms; a quote begins with its version


class Report(Struct, frozen=True, kw_only=True):
    """What an enclave's evidence says, parsed and not believed."""

    quoted: Quoted
    enclave: EnclaveReport

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a bare quote. Raises MalformedError, also for a quote of a TD."""
        quoted = Quoted.parse(data)
        if quoted.quote.tee_type != TEE_SGX:
            raise MalformedError("sgx evidence: the quote is not of an SGX enclave but of a TD")
        return cls(quoted=quoted, enclave=EnclaveReport.parse(quoted.quote.body))

    def encode(self) -> bytes:
        return self.quoted.quote.encode()


def parse(evidence: Evidence) -> Parsed[Report]:
    """Read evidence of any form. Raises MalformedError."""
    if evidence.oid == "":
        return Parsed(report=Report.parse(evidence.body))
    if evidence.oid == OID and evidence.body[:1] != bytes((_SEQUENCE,)):
        note = "the oldest form of SGX evidence: a bare quote, without CRLs and TCB information"
        return Parsed(report=Report.parse(evidence.body), notes=(note,), legacy=True)
    bundle = Bundle.parse(evidence.body, "sgx evidence")
    report = Report.parse(bundle.quote)
    if evidence.oid == OID and bundle.parts == 2:
        note = "an older form of SGX evidence: without TCB information"
        return Parsed(report=report, endorsements=bundle.endorsements, notes=(note,), legacy=True)
    wanted = (2, 4) if evidence.oid == OID_WITH_QE else (3,)
    if bundle.parts not in wanted:
        expected = " or ".join(map(str, wanted))
        raise MalformedError(f"sgx evidence: expected {expected} parts under {evidence.oid}, found {bundle.parts}")
    return Parsed(report=report, endorsements=bundle.endorsements)


def encode(quote: bytes, endorsements: Endorsements) -> Evidence:
    """Evidence as a Keep sends it: in the originals' form where TCB information came without the QE identity, else in ours.

    Without either the Steward's own documents are what it is judged by.
    """
    oid = OID if endorsements.tcb_infos and not endorsements.qe_identities else OID_WITH_QE
    return Evidence(oid=oid, body=Bundle(quote=quote, endorsements=endorsements, parts=0).encode())


def recognise(data: bytes) -> bool:
    """Whether bare bytes begin as an SGX quote does."""
    version, key_type, tee = (int.from_bytes(data[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))
    return version in {3, 5} and key_type == ECDSA_P256 and tee == TEE_SGX
