"""Bytes that every parser reads, made by the simulators and encoders. `scripts/fuzz.py --seeds` keeps them."""

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import quote

from enarx import cbor
from enarx.attested.claims import RuntimeClaims, SealingKey
from enarx.attested.result import AttestationResult
from enarx.digest import Digest
from enarx.pki import csr, keys
from enarx.pki.certificate import Certificate, Extension, pem
from enarx.pki.csr import EXTENSION_REQUEST
from enarx.tee.azure.hcl import Kind
from enarx.tee.azure.report import encode
from enarx.tee.cca.report import OID as CCA
from enarx.tee.cca.simulator import CcaMachine
from enarx.tee.dcap.certification import Named
from enarx.tee.dcap.pck import EXTENSION
from enarx.tee.dcap.quoted import Quoted
from enarx.tee.model import Endorsements
from enarx.tee.nitro.simulator import NitroMachine
from enarx.tee.sgx import registration
from enarx.tee.sgx import report as sgx
from enarx.tee.snp import report as snp
from enarx.tee.snp.report import parse
from enarx.tee.svsm.report import encode as encode_svsm
from enarx.tee.tdx import report as tdx
from tests.properties.parsers import AT
from tests.unit.tee.azure import test_azure as azure
from tests.unit.tee.dcap import peer, support
from tests.unit.tee.dcap import support as intel
from tests.unit.tee.snp import support as amd
from tests.unit.tee.svsm import test_svsm as svsm
from tests.values import replace

DATA = bytes(range(64))
Seed = tuple[str, str, bytes]


def all_seeds() -> Iterator[Seed]:
    yield from _intel()
    yield from _amd()
    yield from _others()
    yield from _requests()
    yield from _texts()


def _intel() -> Iterator[Seed]:
    enclave, domain, vendor = intel.enclave(), intel.domain(), intel.vendor()
    sgx_quote, old = enclave.quote(DATA), Endorsements(crls=vendor.crls(AT))
    for version in (3, 5):
        bare = enclave.quote(DATA, version=3 if version == 3 else 5)
        yield "quote", f"sgx-v{version}", bare
        yield "sgx-bare", f"v{version}", bare
    for version, body_type in ((4, 2), (5, 2), (5, 3), (5, 4)):
        bare = domain.quote(
            DATA, version=4 if version == 4 else 5, body_type=2 if body_type == 2 else 3 if body_type == 3 else 4
        )
        yield "quote", f"tdx-v{version}-{body_type}", bare
        yield "tdx-bare", f"v{version}-{body_type}", bare
    yield "sgx-ours-5", "whole", enclave.evidence(DATA).body
    for guid, kind in registration.KINDS.items():
        for edition in (2, 3):
            request = registration.Request(kind=kind, body=guid + bytes(20), version=edition)
            yield "sgx-registration", f"{kind}-{edition}", request.encode()
    yield "sgx-registration-status", "complete", registration.Status(bits=1, error=0).encode()
    yield (
        "sgx-original-2",
        "tcb",
        sgx.encode(sgx_quote, Endorsements(crls=old.crls, tcb_infos=enclave.endorsements.tcb_infos)).body,
    )
    yield "sgx-original-2", "crl", sgx.encode(sgx_quote, old).body
    yield "sgx-original-2", "quote", sgx_quote
    yield "tdx-ours-2", "whole", domain.evidence(DATA).body
    yield "tdx-ours-2", "crl", tdx.encode(domain.quote(DATA), old).body
    yield "sgx-report", "enclave", enclave.report(DATA).encode()
    leaf = enclave.machine.chain[0]
    yield "certificate", "pck", leaf
    yield "certificate", "root", vendor.root.certificate
    yield "pck-extension", "platform", Certificate.parse(leaf).extensions[EXTENSION].value
    yield (
        "pck-extension",
        "processor",
        Certificate.parse(intel.enclave("processor").machine.chain[0]).extensions[EXTENSION].value,
    )
    quoted = Quoted.parse(sgx_quote)
    yield "pck-chain", "platform", quoted.quote.certification
    yield "pck-chain", "crlf", quoted.quote.certification.replace(b"\n", b"\r\n")
    pck = quoted.pck
    for number, ppid in ((1, pck.ppid), (2, bytes(256)), (3, bytes(384))):
        named = Named(kind=number, ppid=ppid, cpu_svn=pck.cpu_svn, pce_svn=pck.pce_svn, pce_id=pck.pce_id).encode()
        yield "quote", f"named-{number}", replace(quoted.quote, certification_type=number, certification=named).encode()
    alone = pem("CERTIFICATE", leaf)
    yield "quote", "leaf", replace(quoted.quote, certification_type=4, certification=alone).encode()
    yield "crl", "empty", vendor.crl("root", AT)
    yield "crl", "one", vendor.revoke(leaf).crl("platform", AT)
    for tee in ("SGX", "TDX"):
        info, identity = (
            vendor.tcb_info(AT, "SGX" if tee == "SGX" else "TDX"),
            vendor.qe_identity(AT, "SGX" if tee == "SGX" else "TDX"),
        )
        yield "tcb-info", tee.lower(), info.body
        yield "qe-identity", tee.lower(), identity.body
        yield "collateral", f"tcb-info-{tee.lower()}", info.body
        yield "collateral", f"qe-identity-{tee.lower()}", identity.body
    yield (
        "collateral",
        "chain.pem",
        pem("CERTIFICATE", vendor.signer.certificate) + pem("CERTIFICATE", vendor.root.certificate),
    )
    yield "collateral", "crl.der", vendor.crl("root", AT)
    yield "collateral", "certificate.hex", leaf.hex().encode()
    yield "collateral", "certificate.base64", base64.encodebytes(leaf)
    chain = pem("CERTIFICATE", vendor.signer.certificate) + pem("CERTIFICATE", vendor.root.certificate)
    head = f"HTTP/1.1 200 OK\r\nTCB-Info-Issuer-Chain: {quote(chain, safe='')}\r\n\r\n"
    yield "collateral", "answer.http", head.encode() + vendor.tcb_info(AT, "SGX").body
    yield "collateral", "qvl.json", peer.collateral_of(intel.case()).encode()


def _amd() -> Iterator[Seed]:
    for product, kind in (("Milan", "VCEK"), ("Genoa", "VLEK"), ("Turin", "VCEK")):
        machine = amd.machine(product, "VCEK" if kind == "VCEK" else "VLEK")
        yield "snp-bare", product.lower(), machine.report(DATA)
        yield "snp-ours-6", product.lower(), machine.evidence(DATA).body
        yield "vek", product.lower(), machine.certificate
    milan = amd.machine()
    yield "snp-original-3", "milan", milan.evidence(DATA, snp.OID).body
    yield "certificate", "vcek", milan.endorsements.certificates[0]
    yield "id-block", "zero", bytes(48) + bytes(32) + (1).to_bytes(4, "little") + bytes(12)


def _others() -> Iterator[Seed]:
    nitro = NitroMachine.create(AT, image=bytes(48))
    document = nitro.document(DATA, AT)
    yield "nitro-bare", "document", document
    yield "nitro-ours-4", "document", nitro.evidence(DATA, AT).body
    yield "cose", "nitro", document
    yield "cbor", "nitro", document
    yield "cbor", "kinds", cbor.encode({1: "a", "b": (b"c", True, None, -5), 3: cbor.Tagged(tag=18, value=0)})
    token = CcaMachine.create(initial=bytes(32)).token(DATA)
    yield "cca-bare", "token", token
    yield f"cca-ours-{CCA.rpartition('.')[2]}", "token", CcaMachine.create(initial=bytes(32)).evidence(DATA).body
    yield "cbor", "cca", token
    yield "nil-original-1", "empty", b""
    yield from _azure()
    for name, manifest in (("all", svsm.ALL), ("vtpm", svsm.VTPM)):
        found = encode_svsm(svsm.NONCE, manifest, svsm.made(manifest)).body
        yield "snp-svsm-ours-9", name, found
        yield "snp-svsm-bare", name, found


def _azure() -> Iterator[Seed]:
    quoted, signature = azure.message(), azure.sign(azure.message())
    raw, whole = azure.MACHINE.report(DATA), azure.MACHINE.evidence(DATA)
    certificate = parse(whole).endorsements.certificates[0]
    snp_report, tdx_report = azure.hcl(raw, azure.runtime()), azure.hcl(bytes(1024), azure.runtime(), kind=4)
    quote = intel.domain().quote(DATA)
    for kind, hcl, beside, hardware in (
        ("snp", snp_report, {"vcek": certificate}, whole.body),
        ("tdx", tdx_report, {"td_quote": quote}, intel.domain().evidence(DATA).body),
    ):
        technology: Kind = "snp" if kind == "snp" else "tdx"
        made = encode(technology, hcl, quoted, signature, azure.REGISTERS, hardware)
        yield f"az-{kind}-ours-{made.oid.rpartition('.')[2]}", "whole", made.body
        tpm = {"message": quoted.hex(), "signature": signature.hex(), "pcrs": [one.hex() for one in azure.REGISTERS]}
        files = {name: base64.b64encode(data).decode() for name, data in {"hcl_report": hcl, **beside}.items()}
        yield f"az-{kind}-bare", "recorded", json.dumps({"tpm_quote": tpm, **files}).encode()


def _requests() -> Iterator[Seed]:
    claims = RuntimeClaims(
        audience="https://steward.example.com",
        nonce=bytes(32),
        digests=(Digest.of(b"main.wasm"),),
        slug="registry.example.com/user/repo:1.0.0",
        sealing=SealingKey(kem=0x647A, key=bytes(1216)),
        names=("localhost",),
        lifetime=3600,
    )
    result = AttestationResult(
        technology="snp",
        simulated=True,
        debug=False,
        measurement=bytes(48),
        signer=bytes(48),
        tcb_status="UpToDate",
        tcb_date=AT,
        advisories=("INTEL-SA-00615",),
        chip=bytes(32),
        appraised_at=AT + timedelta(seconds=1),
        policy=bytes(32),
        claims=claims,
    )
    yield "claims", "whole", claims.encode()
    yield "claims", "least", RuntimeClaims(audience="-").encode()
    yield "result", "whole", result.encode()
    evidence = intel.domain().evidence(DATA)
    request = csr.build(keys.generate("P-256"), [Extension(oid=evidence.oid, critical=False, value=evidence.body)])
    small = csr.build(keys.generate("P-384"), [Extension(oid="1.3.6.1.4.1.58270.1.1", critical=False, value=b"")])
    for name, one in (("tdx", request), ("nil", small)):
        yield "csr", name, one
        yield "request", name, one
    yield "request-bundle", "two", _sequence(small + request)
    yield "detect", "csr.der", small
    yield "detect", "csr.pem", pem("CERTIFICATE REQUEST", small)
    yield "detect", "quote.hex", support.case().quote.hex().encode()
    yield "detect", "quote.base64", base64.encodebytes(support.case().quote)
    assert EXTENSION_REQUEST


def _sequence(content: bytes) -> bytes:
    size = len(content).to_bytes(3, "big").lstrip(b"\0")
    return b"\x30" + bytes((0x80 | len(size),)) + size + content


def _texts() -> Iterator[Seed]:
    digest = Digest.of(b"")
    yield "digest", "sha256", str(digest).encode()
    yield "digest", "bare", digest.hex.encode()
    meta = b'{"digest":{"sha-256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},"length":0,"type":"application/wasm"}'
    yield "meta", "wasm", meta
    yield "directory", "one", b'{"main.wasm":' + meta + b"}"
    yield "directory", "none", b"{}"
    yield "tag", "bare", meta
    yield (
        "history",
        "change",
        json.dumps(
            {
                "number": 1,
                "at": "2026-06-01T12:00:00+00:00",
                "by": "user",
                "event": "publish",
                "detail": {},
                "previous": "",
            }
        ).encode(),
    )
    yield "nonce-request", "size", b'{"len":32}'
    yield "nonce-request", "none", b""
    yield "revocations", "none", b"{}"
    yield "deploy-config", "none", b""
    yield (
        "enarx-toml",
        "sockets",
        b'args = ["a"]\n[env]\nA = "b"\n[[files]]\nkind = "listen"\nname = "web"\nport = 443\nprot = "tls"\n',
    )
    yield "toml", "kinds", b'a = 1\n[b]\nc = [true, "d", 2026-06-01T12:00:00Z]\n[[e]]\nf = 1.5\n'
