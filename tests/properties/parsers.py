"""Every parser of outside bytes, by name: what the fuzzer feeds and what the seeds in `tests/corpus` are for.

Each takes any bytes and answers with a value or with MalformedError. `seeds` makes bytes that are values, from the
simulators, so that a fuzzer starts deep inside; they are kept in the tree, so that it starts at the same place always.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from enarx import cbor, toml
from enarx.attested.claims import RuntimeClaims
from enarx.attested.result import AttestationResult
from enarx.digest import Digest
from enarx.drawbridge.history import Change
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Directory, Meta
from enarx.errors import MalformedError
from enarx.keep.config import Config
from enarx.keep.overrides import DeployConfig
from enarx.pki.certificate import Certificate
from enarx.pki.cose import Sign1
from enarx.pki.crl import Crl
from enarx.pki.csr import CertificationRequest
from enarx.steward import collateral, offline
from enarx.steward.est import NonceRequest
from enarx.steward.request import Request, parse_bundle
from enarx.steward.revocation import Revocations
from enarx.tee import TECHNOLOGIES
from enarx.tee.dcap.collateral import QeIdentity, TcbInfo
from enarx.tee.dcap.enclave import EnclaveReport
from enarx.tee.dcap.pck import Pck, read_chain
from enarx.tee.dcap.quoted import Quoted
from enarx.tee.model import Evidence, Technology
from enarx.tee.sgx import registration
from enarx.tee.snp.idblock import IdBlock
from enarx.tee.snp.vek import Vek

CORPUS: Final = Path(__file__).resolve().parent.parent / "corpus"
AT: Final = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
OIDS: Final = frozenset(oid for technology in TECHNOLOGIES for oid in technology.oids)

Parser = Callable[[bytes], object]


def _evidence() -> Mapping[str, Parser]:
    """Each technology's evidence in the form of each of its identifiers, and bare."""
    return {
        f"{technology.name}-{_last(oid)}": _reading(technology, oid)
        for technology in TECHNOLOGIES
        for oid in (*sorted(technology.oids), *([""] if technology.name != "nil" else []))
    }


def _reading(technology: Technology[Any, Any], oid: str) -> Parser:  # Any: as in TECHNOLOGIES
    return lambda data: technology.parse(Evidence(oid=oid, body=data))


def _last(oid: str) -> str:
    return f"{'ours' if oid.startswith('2.25') else 'original'}-{oid.rpartition('.')[2]}" if oid else "bare"


def _text(parse: Callable[[str], object]) -> Parser:
    def read(data: bytes) -> object:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise MalformedError("not UTF-8") from error
        return parse(text)

    return read


PARSERS: Final[Mapping[str, Parser]] = {
    **_evidence(),
    "cbor": lambda data: cbor.decode(data, "cbor"),
    "certificate": Certificate.parse,
    "claims": RuntimeClaims.parse,
    "collateral": lambda data: collateral.recognise(data, "file"),
    "cose": lambda data: Sign1.parse(data, "token"),
    "crl": Crl.parse,
    "csr": CertificationRequest.parse,
    "deploy-config": DeployConfig.parse,
    "detect": offline.detect,
    "digest": _text(Digest.parse),
    "directory": Directory.parse,
    "enarx-toml": Config.parse,
    "history": Change.parse,
    "id-block": IdBlock.parse,
    "meta": Meta.parse,
    "nonce-request": lambda data: NonceRequest.parse(data, OIDS),
    "pck-chain": read_chain.__wrapped__,
    "pck-extension": Pck.parse,
    "qe-identity": QeIdentity.parse,
    "quote": Quoted.parse,
    "request": lambda data: Request.parse(data, OIDS),
    "request-bundle": parse_bundle,
    "result": AttestationResult.parse,
    "revocations": Revocations.parse,
    "sgx-registration": registration.Request.parse,
    "sgx-registration-status": registration.Status.parse,
    "sgx-report": EnclaveReport.parse,
    "tag": Tag.parse,
    "tcb-info": TcbInfo.parse,
    "toml": lambda data: toml.parse(data, source="file"),
    "vek": lambda data: Vek.of(Certificate.parse(data)),
}


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Parser, name and bytes; every one of them is a value to its parser."""
    from tests.properties import seeds as made

    return made.all_seeds()


def kept(parser: str) -> list[Path]:
    """The seeds in the tree."""
    return sorted((CORPUS / parser).glob("*"))
