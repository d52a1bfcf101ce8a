"""Intel in software: a root, PCK CAs, a TCB signer, CRLs and documents, and machines with a Quoting Enclave.

It writes with the encoders that the parsers invert and uses Intel's names, so the verifiers need no branch for it:
only the trust anchor differs, and that says `simulated`. It proves nothing to anybody; it is the demo's machine, the
tests' fixture and the source of their negative vectors. `Vendor` holds the keys of the vendor, `Machine` those of one
machine: who judges gets neither, only `Vendor.anchor` and the documents. Time is an argument everywhere. Both are
written and read as files by name (`save`, `load`); who puts them on a disk sets the mode of `*.key.pem` to 0600.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from secrets import randbits, token_bytes
from typing import Any, Final, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from msgspec import structs

from enarx.errors import MalformedError
from enarx.pki import keys
from enarx.pki.certificate import Certificate
from enarx.tee.dcap import verify as names
from enarx.tee.dcap.collateral import Status, compose
from enarx.tee.dcap.enclave import INIT, MODE64BIT, PROVISION_KEY, EnclaveReport
from enarx.tee.dcap.pck import EXTENSION, Pck, write_chain
from enarx.tee.dcap.quote import TEE_SGX, TEE_TDX, Quote
from enarx.tee.model import Endorsements, SignedJson, TrustAnchor

Role = Literal["root", "platform", "processor", "signer"]
TeeName = Literal["SGX", "TDX"]
Json = Mapping[str, object]

LIFETIME: Final = timedelta(days=3650)
DOCUMENT_LIFETIME: Final = timedelta(days=30)  # as Intel's own documents

FMSPC: Final = bytes.fromhex("00f1c7000000")  # no such processor
NEWEST: Final = (7, 9, 3, 3, 2, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
OLDER: Final = (4, 4, 3, 3, 2, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
NEWEST_PCE: Final = 13
OLDER_PCE: Final = 11
OLDER_ADVISORIES: Final = ("INTEL-SA-00586", "INTEL-SA-00615")
TDX_COMPONENTS: Final = (5, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
KINDS: Final = {0: "Early Microcode Update", 1: "SGX Late Microcode Update"}

QE_SIGNER: Final = sha256(b"simulated Quoting Enclave's signer").digest()
QE_PRODUCT: Final = {"SGX": 1, "TDX": 2}
QE_SVN: Final = 8

_COMMON_NAMES: Final[Mapping[Role, str]] = {
    "root": names.ROOT,
    "platform": names.PLATFORM_CA,
    "processor": names.PROCESSOR_CA,
    "signer": names.TCB_SIGNER,
}


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A key and its certificate (DER)."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes

    def issue(
        self,
        common_name: str,
        key: ec.EllipticCurvePublicKey,
        at: datetime,
        *,
        ca: bool = False,
        path_length: int | None = None,
        lifetime: timedelta = LIFETIME,
        extension: bytes | None = None,
        signs: bool = True,
    ) -> bytes:
        """A certificate from one day before `at`; `signs` sets the key usage that fits the role."""
        issuer = x509.load_der_x509_certificate(self.certificate).subject
        return _certificate(
            common_name,
            key,
            issuer,
            self.key,
            at,
            ca=ca,
            path_length=path_length,
            lifetime=lifetime,
            extension=extension,
            signs=signs,
        )

    def sign(self, data: bytes) -> bytes:
        """R ‖ s, 64 bytes."""
        return raw_signature(self.key, data)


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """The vendor: authorities, revoked serials, and which set of TCB recoveries its documents speak of."""

    root: Authority
    platform: Authority
    processor: Authority
    signer: Authority
    revoked: Mapping[Role, frozenset[int]] = field(default_factory=dict)
    crl_number: int = 1
    evaluation: int = 17
    fmspc: bytes = FMSPC
    pce_id: bytes = b"\0\0"

    @classmethod
    def create(cls, at: datetime) -> Self:
        """A new vendor with new keys, whose certificates begin a day before `at`."""
        key = keys.generate("P-256")
        name = _name(names.ROOT)
        certificate = _certificate(names.ROOT, key.public_key(), name, key, at, ca=True, path_length=1)
        root = Authority(key=key, certificate=certificate)

        def below(role: Role, *, ca: bool) -> Authority:
            made = keys.generate("P-256")
            path_length = 0 if ca else None
            issued = root.issue(_COMMON_NAMES[role], made.public_key(), at, ca=ca, path_length=path_length)
            return Authority(key=made, certificate=issued)

        return cls(
            root=root,
            platform=below("platform", ca=True),
            processor=below("processor", ca=True),
            signer=below("signer", ca=False),
        )

    def anchor(self) -> TrustAnchor:
        """What a judge that accepts this simulator is given."""
        return TrustAnchor(
            family="intel",
            sha256=sha256(self.root.certificate).digest(),
            certificate=self.root.certificate,
            simulated=True,
            origin="simulator",
        )

    def revoke(self, certificate: bytes) -> Self:
        """The vendor after `certificate` (DER) was revoked by its issuer: a newer CRL names it."""
        parsed = Certificate.parse(certificate)
        role = next(role for role, name in _COMMON_NAMES.items() if name == parsed.issuer_common_name)
        revoked = {**self.revoked, role: self.revoked.get(role, frozenset()) | {parsed.serial}}
        return replace(self, revoked=revoked, crl_number=self.crl_number + 1)

    def recover(self) -> Self:
        """The vendor after one more TCB recovery: documents of the next evaluation set."""
        return replace(self, evaluation=self.evaluation + 1)

    def crl(
        self, role: Role, at: datetime, *, number: int | None = None, lifetime: timedelta = DOCUMENT_LIFETIME
    ) -> bytes:
        """The CRL (DER) of one authority as published at `at`."""
        authority: Authority = getattr(self, role)
        issuer = x509.load_der_x509_certificate(authority.certificate)
        point = authority.key.public_key()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(at)
            .next_update(at + lifetime)
            .add_extension(x509.CRLNumber(self.crl_number if number is None else number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(point), critical=False)
        )
        for serial in sorted(self.revoked.get(role, ())):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def crls(self, at: datetime) -> tuple[bytes, ...]:
        return tuple(self.crl(role, at) for role in ("root", "platform", "processor"))

    def tcb_info(self, at: datetime, tee: TeeName = "SGX", **members: object) -> SignedJson:
        """A TCB info issued at `at`; `members` replace those of the signed object."""
        inner: dict[str, object] = {
            "id": tee,
            "version": names.TCB_INFO_VERSION,
            "issueDate": _moment(at),
            "nextUpdate": _moment(at + DOCUMENT_LIFETIME),
            "fmspc": self.fmspc.hex().upper(),
            "pceId": self.pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation,
        }
        if tee == "TDX":
            module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            levels = [enclave_level(5, at), enclave_level(3, at, "OutOfDate", "INTEL-SA-01036")]
            inner["tdxModule"] = module
            inner["tdxModuleIdentities"] = [{"id": "TDX_01", **module, "tcbLevels": levels}]
        inner["tcbLevels"] = [
            tcb_level(at, tdx=TDX_COMPONENTS if tee == "TDX" else None),
            tcb_level(
                at - timedelta(days=700),
                OLDER,
                OLDER_PCE,
                "OutOfDate",
                *OLDER_ADVISORIES,
                tdx=TDX_COMPONENTS if tee == "TDX" else None,
            ),
        ]
        return self.document("tcbInfo", {**inner, **members})

    def qe_identity(self, at: datetime, tee: TeeName = "SGX", **members: object) -> SignedJson:
        """A QE identity issued at `at`; `members` replace those of the signed object."""
        inner: dict[str, object] = {
            "id": "QE" if tee == "SGX" else "TD_QE",
            "version": names.QE_IDENTITY_VERSION,
            "issueDate": _moment(at),
            "nextUpdate": _moment(at + DOCUMENT_LIFETIME),
            "tcbEvaluationDataNumber": self.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": QE_PRODUCT[tee],
            "tcbLevels": [enclave_level(QE_SVN, at), enclave_level(6, at, "OutOfDate", "INTEL-SA-00615")],
        }
        return self.document("enclaveIdentity", {**inner, **members})

    def document(
        self, name: Literal["tcbInfo", "enclaveIdentity"], inner: Json | str, signer: Authority | None = None
    ) -> SignedJson:
        """Any inner object, signed by the TCB signer or another, with that signer's chain."""
        who = signer or self.signer
        text = inner if isinstance(inner, str) else json.dumps(inner, separators=(",", ":"))
        body = compose(name, text, who.sign(text.encode()))
        return SignedJson(body=body, chain=(who.certificate, self.root.certificate))

    def endorsements(self, at: datetime, tee: TeeName = "SGX") -> Endorsements:
        """Everything that a judge needs beside a quote, published at `at`."""
        return Endorsements(
            crls=self.crls(at), tcb_infos=(self.tcb_info(at, tee),), qe_identities=(self.qe_identity(at, tee),)
        )

    def publish(self, at: datetime) -> dict[str, bytes]:
        """The vendor's public documents as files for a judge's collateral directory; the root is not among them."""
        files = {f"{role}.crl": self.crl(role, at) for role in ("root", "platform", "processor")}
        for tee in ("SGX", "TDX"):
            files[f"tcb-info-{tee.lower()}.json"] = self.tcb_info(at, tee).body
            files[f"qe-identity-{tee.lower()}.json"] = self.qe_identity(at, tee).body
        files["tcb-signing-chain.pem"] = write_chain((self.signer.certificate, self.root.certificate))
        return files

    def machine(
        self,
        at: datetime,
        *,
        issuer: Literal["platform", "processor"] = "platform",
        tee: TeeName = "SGX",
        components: Sequence[int] = NEWEST,
        pce_svn: int = NEWEST_PCE,
        lifetime: timedelta = LIFETIME,
    ) -> "Machine":
        """A new machine, certified by one of the PCK CAs, with its Quoting Enclave and attestation key ready."""
        multi = issuer == "platform"
        certified = Pck(
            ppid=token_bytes(16),
            components=tuple(components),
            pce_svn=pce_svn,
            cpu_svn=bytes(components),
            pce_id=self.pce_id,
            fmspc=self.fmspc,
            sgx_type="Scalable" if multi else "Standard",
            platform_instance_id=token_bytes(16) if multi else None,
            dynamic_platform=False if multi else None,
            cached_keys=False if multi else None,
            smt_enabled=False if multi else None,
        )
        authority: Authority = getattr(self, issuer)
        key = keys.generate("P-256")
        leaf = authority.issue(names.PCK, key.public_key(), at, lifetime=lifetime, extension=certified.encode())
        machine = Machine(
            key=key,
            attestation=keys.generate("P-256"),
            chain=(leaf, authority.certificate, self.root.certificate),
            auth=token_bytes(32),
            tee=tee,
        )
        return machine.with_qe()

    def save(self) -> dict[str, bytes]:
        """Files by name; the keys among them are the vendor's and belong to nobody who judges."""
        files: dict[str, bytes] = {}
        for role in _COMMON_NAMES:
            authority: Authority = getattr(self, role)
            files[f"{role}.der"] = authority.certificate
            files[f"{role}.key.pem"] = keys.to_pem(authority.key)
        state = {
            "revoked": {role: sorted(map(hex, self.revoked.get(role, ()))) for role in _COMMON_NAMES},
            "crl_number": self.crl_number,
            "evaluation": self.evaluation,
            "fmspc": self.fmspc.hex(),
            "pce_id": self.pce_id.hex(),
        }
        return {**files, "vendor.json": json.dumps(state, indent=1).encode()}

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read what `save` wrote. Raises MalformedError."""
        state = _state(files, "vendor.json")
        try:
            return cls(
                **{role: _authority(files, role) for role in _COMMON_NAMES},
                revoked={
                    role: frozenset(int(serial, 16) for serial in state["revoked"].get(role, ()))
                    for role in _COMMON_NAMES
                },
                crl_number=int(state["crl_number"]),
                evaluation=int(state["evaluation"]),
                fmspc=bytes.fromhex(state["fmspc"]),
                pce_id=bytes.fromhex(state["pce_id"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedError(f"simulated vendor: vendor.json: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine: its PCK with the chain (DER, leaf first), and a Quoting Enclave with its attestation key."""

    key: ec.EllipticCurvePrivateKey
    attestation: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, bytes, bytes]
    auth: bytes
    tee: TeeName = "SGX"
    qe: EnclaveReport | None = None
    qe_signature: bytes = b""

    @property
    def point(self) -> bytes:
        """The attestation key as it stands in quotes: x ‖ y, 64 bytes."""
        return self.attestation.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    def with_qe(self, alter: Callable[[EnclaveReport], EnclaveReport] = lambda report: report) -> Self:
        """The machine with a Quoting Enclave whose report the PCK signed; `alter` makes it another one."""
        report = EnclaveReport(
            cpu_svn=bytes(16),
            misc_select=0,
            ext_product_id=bytes(16),
            flags=INIT | MODE64BIT | PROVISION_KEY,
            xfrm=0xE7,
            mr_enclave=sha256(b"simulated Quoting Enclave").digest(),
            mr_signer=QE_SIGNER,
            config_id=bytes(64),
            product_id=QE_PRODUCT[self.tee],
            security_version=QE_SVN,
            config_svn=0,
            family_id=bytes(16),
            report_data=sha256(self.point + self.auth).digest() + bytes(32),
        )
        altered = alter(report)
        return replace(self, qe=altered, qe_signature=raw_signature(self.key, altered.encode()))

    def quote(
        self, body: bytes, *, version: int, body_type: int, alter: Callable[[Quote], Quote] | None = None
    ) -> bytes:
        """A quote over `body`. `alter` changes its fields before the attestation key signs."""
        if self.qe is None:
            raise ValueError("the machine has no Quoting Enclave")
        unsigned = Quote(
            version=version,
            tee_type=TEE_SGX if body_type == 1 else TEE_TDX,
            qe_svn=QE_SVN if version == 3 else 0,
            pce_svn=NEWEST_PCE if version == 3 else 0,
            qe_vendor_id=names.QE_VENDOR,
            user_data=bytes(20),
            body_type=body_type,
            body=body,
            signature=bytes(64),
            attestation_key=self.point,
            qe_report=self.qe.encode(),
            qe_report_signature=self.qe_signature,
            qe_auth=self.auth,
            certification=write_chain(self.chain) + b"\0",
            padding=0,
            signed=b"",
        )
        ready = unsigned if alter is None else alter(unsigned)
        return structs.replace(ready, signature=raw_signature(self.attestation, ready.to_be_signed())).encode()

    def save(self) -> dict[str, bytes]:
        """Files by name: what the machine alone knows."""
        qe = b"" if self.qe is None else self.qe.encode()
        state = {"auth": self.auth.hex(), "tee": self.tee, "qe": qe.hex(), "qe_signature": self.qe_signature.hex()}
        return {
            "pck.key.pem": keys.to_pem(self.key),
            "attestation.key.pem": keys.to_pem(self.attestation),
            **{f"pck-chain-{index}.der": data for index, data in enumerate(self.chain)},
            "machine.json": json.dumps(state, indent=1).encode(),
        }

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read what `save` wrote. Raises MalformedError."""
        state = _state(files, "machine.json")
        try:
            return cls(
                key=keys.from_pem(files["pck.key.pem"], "pck.key.pem"),
                attestation=keys.from_pem(files["attestation.key.pem"], "attestation.key.pem"),
                chain=(files["pck-chain-0.der"], files["pck-chain-1.der"], files["pck-chain-2.der"]),
                auth=bytes.fromhex(state["auth"]),
                tee="TDX" if state["tee"] == "TDX" else "SGX",
                qe=EnclaveReport.parse(bytes.fromhex(state["qe"])),
                qe_signature=bytes.fromhex(state["qe_signature"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError(f"simulated machine: machine.json: {error}") from error


def tcb_level(
    date: datetime,
    components: Sequence[int] = NEWEST,
    pce_svn: int = NEWEST_PCE,
    status: Status = "UpToDate",
    *advisories: str,
    tdx: Sequence[int] | None = None,
) -> Json:
    """One level of a TCB info, as Intel writes it."""
    tcb: dict[str, object] = {
        "sgxtcbcomponents": [
            {"svn": svn, **({"category": "BIOS", "type": KINDS[index]} if index in KINDS else {})}
            for index, svn in enumerate(components)
        ],
        "pcesvn": pce_svn,
    }
    if tdx is not None:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in tdx]
    return {"tcb": tcb, **_level(date, status, advisories)}


def enclave_level(security_version: int, date: datetime, status: Status = "UpToDate", *advisories: str) -> Json:
    """One level of a QE identity or of a TDX module."""
    return {"tcb": {"isvsvn": security_version}, **_level(date, status, advisories)}


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256 as r ‖ s, 32 bytes each and big-endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _level(date: datetime, status: Status, advisories: Sequence[str]) -> Json:
    level: dict[str, object] = {"tcbDate": _moment(date), "tcbStatus": status}
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def _name(common_name: str) -> x509.Name:
    attributes = [
        (NameOID.COMMON_NAME, common_name),
        (NameOID.ORGANIZATION_NAME, "SIMULATED"),
        (NameOID.COUNTRY_NAME, "ZZ"),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _certificate(
    common_name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    at: datetime,
    *,
    ca: bool = False,
    path_length: int | None = None,
    lifetime: timedelta = LIFETIME,
    extension: bytes | None = None,
    signs: bool = True,
) -> bytes:
    begin = at - timedelta(days=1)
    usage = x509.KeyUsage(
        digital_signature=signs and not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca and signs,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(randbits(152) | 1 << 151)
        .not_valid_before(begin)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    if extension is not None:
        identifier = x509.ObjectIdentifier(EXTENSION)
        builder = builder.add_extension(x509.UnrecognizedExtension(identifier, extension), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _authority(files: Mapping[str, bytes], role: Role) -> Authority:
    return Authority(key=keys.from_pem(files[f"{role}.key.pem"], f"{role}.key.pem"), certificate=files[f"{role}.der"])


def _state(files: Mapping[str, bytes], name: str) -> dict[str, Any]:  # Any: checked field by field by the caller
    try:
        state = json.loads(files[name])
    except (KeyError, ValueError) as error:
        raise MalformedError(f"simulator: {name} is missing or not JSON") from error
    if not isinstance(state, dict):
        raise MalformedError(f"simulator: {name}: expected an object")
    return state
