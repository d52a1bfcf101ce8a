"""AMD in software: a root, its ASK and ASVK, a CRL, and machines whose firmware signs reports.

It writes with the encoders that the parsers invert and uses AMD's names, so the verifier needs no branch for it: only
the trust anchor differs, and that says `simulated`. It proves nothing to anybody; it is the demo's machine, the tests'
fixture and the source of their negative vectors. `Vendor` holds the keys of the vendor, `SnpMachine` those of one
machine: who judges gets neither, only `Vendor.anchor` and the documents. Time is an argument everywhere. Both are
written and read as files by name (`save`, `load`); who puts them on a disk sets the mode of `*.key.pem` to 0600.
Its certificates are written by hand, for a library refuses what AMD issues: serial number 0.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from secrets import token_bytes
from typing import Any, Final, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from msgspec import structs

from enarx import der
from enarx.errors import MalformedError
from enarx.pki import keys
from enarx.pki.certificate import BASIC_CONSTRAINTS, KEY_USAGE, SUBJECT_KEY_ID, Certificate, Extension
from enarx.tee.model import Endorsements, Evidence, TrustAnchor
from enarx.tee.snp import vek
from enarx.tee.snp.report import OID_WITH_CHAIN, VCEK, VLEK, Report, Version, encode
from enarx.tee.snp.tcb import LAYOUTS, Tcb
from enarx.tee.snp.vek import Kind

Role = Literal["ark", "ask", "asvk"]
Alter = Callable[[Report], Report]
AlterExtensions = Callable[[tuple[Extension, ...]], tuple[Extension, ...]]

LIFETIME: Final = timedelta(days=3650)
DOCUMENT_LIFETIME: Final = timedelta(days=365)  # as AMD's own CRLs
RSA_BITS: Final = 2048  # AMD's have 4096; making three of those would take longer than a whole demonstration

ROLES: Final[tuple[Role, ...]] = ("ark", "ask", "asvk")
CPUID: Final = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1), "Venice": (0x1A, 0x50, 0)}
SERIALS: Final[Mapping[Role, int]] = {"ark": 0x990000, "ask": 0x990001, "asvk": 0x990101}
VERSION: Final = Version(major=1, minor=58, build=1)
POLICY: Final = 0x30000  # SMT allowed, and the bit that must be one
PLATFORM_INFO: Final = 0x25  # SMT, ECC, and the check for aliased memory is complete

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
# rsassaPss with SHA-384, MGF1 with SHA-384, salt 48, and the trailer spelled out, as AMD writes it
_ALGORITHM: Final = bytes.fromhex(
    "304606092a864886f70d01010a3039a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130a303020101"
)


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A key and its certificate (DER)."""

    key: rsa.RSAPrivateKey
    certificate: bytes

    def issue(
        self,
        common_name: str,
        spki: bytes,
        at: datetime,
        *,
        serial: int = 0,
        extensions: Sequence[Extension] = (),
        lifetime: timedelta = LIFETIME,
        algorithm: bytes = _ALGORITHM,
    ) -> bytes:
        """A certificate from one day before `at`."""
        issuer = Certificate.parse(self.certificate).subject
        return _certificate(
            common_name, spki, issuer, self.key, at, serial=serial, extensions=extensions, lifetime=lifetime,
            algorithm=algorithm,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """The vendor of one product: its authorities, and the serials that it took back."""

    ark: Authority
    ask: Authority
    asvk: Authority
    product: str = "Milan"
    revoked: frozenset[int] = frozenset()
    crl_number: int = 1

    @classmethod
    def create(cls, at: datetime, *, product: str = "Milan") -> Self:
        """A new vendor with new keys, whose certificates begin a day before `at`."""
        key = rsa.generate_private_key(65537, RSA_BITS)
        name = f"ARK-{product}"
        root = _certificate(
            name, _spki(key), _name(name), key, at, serial=SERIALS["ark"], extensions=ca_extensions(None)
        )
        ark = Authority(key=key, certificate=root)

        def below(role: Role, common_name: str) -> Authority:
            made = rsa.generate_private_key(65537, RSA_BITS)
            certificate = ark.issue(
                common_name, _spki(made), at, serial=SERIALS[role], extensions=ca_extensions(0, crl=False)
            )
            return Authority(key=made, certificate=certificate)

        return cls(
            ark=ark, ask=below("ask", f"SEV-{product}"), asvk=below("asvk", f"SEV-VLEK-{product}"), product=product
        )

    @property
    def root(self) -> Authority:
        return self.ark

    def anchor(self) -> TrustAnchor:
        """What a judge that accepts this simulator is given."""
        certificate = self.ark.certificate
        return TrustAnchor(
            family="amd",
            sha256=sha256(certificate).digest(),
            certificate=certificate,
            simulated=True,
            origin="simulator",
        )

    def revoke(self, certificate: bytes) -> Self:
        """The vendor after `certificate` (DER, an ASK or ASVK) was revoked: a newer CRL names it."""
        serial = Certificate.parse(certificate).serial
        return replace(self, revoked=self.revoked | {serial}, crl_number=self.crl_number + 1)

    def crl(
        self,
        at: datetime,
        *,
        number: int | None = None,
        lifetime: timedelta = DOCUMENT_LIFETIME,
        signer: Authority | None = None,
    ) -> bytes:
        """The ARK's CRL (DER) as published at `at`, or one in its name by another signer."""
        issuer = x509.load_der_x509_certificate(self.ark.certificate)
        key = self.ark.key if signer is None else signer.key
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(at)
            .next_update(at + lifetime)
            .add_extension(x509.CRLNumber(self.crl_number if number is None else number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for serial in sorted(self.revoked):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(key, hashes.SHA384(), rsa_padding=_PSS).public_bytes(serialization.Encoding.DER)

    def crls(self, at: datetime) -> tuple[bytes, ...]:
        return (self.crl(at),)

    def endorsements(self, at: datetime) -> Endorsements:
        """Everything that a judge needs beside a report and its key's certificate, published at `at`."""
        authorities = (self.ask, self.asvk, self.ark)
        return Endorsements(certificates=tuple(each.certificate for each in authorities), crls=self.crls(at))

    def publish(self, at: datetime) -> dict[str, bytes]:
        """The vendor's public documents as files for a judge's collateral directory; the root is not among them."""
        product = self.product.lower()
        return {
            f"ask-{product}.der": self.ask.certificate,
            f"asvk-{product}.der": self.asvk.certificate,
            f"ark-{product}.crl": self.crl(at),
        }

    def certify(
        self,
        key: ec.EllipticCurvePublicKey,
        at: datetime,
        *,
        tcb: Tcb,
        chip_id: bytes,
        kind: Kind = "VCEK",
        lifetime: timedelta = LIFETIME,
        issuer: Authority | None = None,
        common_name: str | None = None,
        alter: AlterExtensions = lambda extensions: extensions,
    ) -> bytes:
        """The certificate (DER) of a machine's key; `alter` changes what it says before it is signed."""
        authority = issuer or (self.ask if kind == "VCEK" else self.asvk)
        extensions = alter(_vek_extensions(self.product, tcb, chip_id, kind))
        return authority.issue(
            common_name or f"SEV-{kind}", keys.spki(key), at, extensions=extensions, lifetime=lifetime
        )

    def save(self) -> dict[str, bytes]:
        """Files by name; the keys among them are the vendor's and belong to nobody who judges."""
        files: dict[str, bytes] = {}
        for role in ROLES:
            authority: Authority = getattr(self, role)
            files[f"{role}.der"] = authority.certificate
            files[f"{role}.key.pem"] = authority.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        state = {"product": self.product, "revoked": sorted(map(hex, self.revoked)), "crl_number": self.crl_number}
        return {**files, "vendor.json": json.dumps(state, indent=1).encode()}

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read what `save` wrote. Raises MalformedError."""
        state = _state(files, "vendor.json")
        try:
            ark, ask, asvk = (_authority(files, role) for role in ROLES)
            return cls(
                ark=ark,
                ask=ask,
                asvk=asvk,
                product=str(state["product"]),
                revoked=frozenset(int(serial, 16) for serial in state["revoked"]),
                crl_number=int(state["crl_number"]),
            )
        except (KeyError, TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise MalformedError(f"simulated vendor: {error}") from error


@dataclass(frozen=True, kw_only=True)
class SnpMachine:
    """A guest on a simulated machine: the key of its chip, and the endorsements that the machine has at hand."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes  # of the key: VCEK or VLEK
    template: Report  # what its firmware says of the guest, but for the report data
    endorsements: Endorsements = field(default_factory=Endorsements)

    @classmethod
    def create(
        cls,
        vendor: Vendor,
        at: datetime,
        *,
        measurement: bytes,
        kind: Kind = "VCEK",
        version: int = 5,
        tcb: Tcb | None = None,
        chip_id: bytes | None = None,
        host_data: bytes = bytes(32),
    ) -> Self:
        """A new machine of `vendor` that runs a guest of this measurement, with the vendor's endorsements of `at`."""
        layout = LAYOUTS[vendor.product]
        level = tcb or Tcb(bootloader=9, tee=0, snp=27, microcode=80, fmc=1 if layout else None)
        chip = token_bytes(vek.HWID_SIZE[layout]) if chip_id is None else chip_id
        key = keys.generate("P-384")
        template = Report(
            version=version,
            guest_svn=0,
            policy=POLICY,
            family_id=bytes(16),
            image_id=bytes(16),
            vmpl=0,
            current_tcb=level.encode(),
            platform_info=PLATFORM_INFO,
            author_key_en=False,
            mask_chip_key=False,
            signing_key=VCEK if kind == "VCEK" else VLEK,
            report_data=bytes(64),
            measurement=measurement,
            host_data=host_data,
            id_key_digest=bytes(48),
            author_key_digest=bytes(48),
            report_id=token_bytes(32),
            report_id_ma=b"\xff" * 32,
            reported_tcb=level.encode(),
            cpuid=CPUID[vendor.product] if version > 2 else None,
            chip_id=chip.ljust(64, b"\0"),
            committed_tcb=level.encode(),
            current_version=VERSION,
            committed_version=VERSION,
            launch_tcb=level.encode(),
            launch_mit_vector=0 if version == 5 else None,
            current_mit_vector=0 if version == 5 else None,
            unpublished=bytes(16) if version == 4 else b"",
            signature=bytes(96),
            signed=b"",
        )
        certificate = vendor.certify(key.public_key(), at, tcb=level, chip_id=chip, kind=kind)
        return cls(key=key, certificate=certificate, template=template, endorsements=vendor.endorsements(at))

    @property
    def measurement(self) -> bytes:
        return self.template.measurement

    @property
    def chip_id(self) -> bytes:
        return self.template.chip_id

    def report(self, report_data: bytes, alter: Alter = lambda report: report) -> bytes:
        """A signed report; `report_data` is 64 bytes. `alter` changes its fields before the key signs."""
        ready = alter(structs.replace(self.template, report_data=report_data))
        return ready.with_signature(self.sign(ready.to_be_signed())).encode()

    def sign(self, signed: bytes) -> bytes:
        """R ‖ s over any bytes, as reports have it: 48 bytes each and little-endian."""
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        return r.to_bytes(48, "little") + s.to_bytes(48, "little")

    def evidence(self, report_data: bytes, oid: str = OID_WITH_CHAIN) -> Evidence:
        """What a Keep puts into its request: by default our form, which brings the chain."""
        return encode(self.report(report_data), self.with_chain(), oid)

    def with_chain(self) -> Endorsements:
        """The certificate of the machine's key first, then what the machine has at hand."""
        return Endorsements(certificates=(self.certificate,)) | self.endorsements

    def with_endorsements(self, endorsements: Endorsements) -> Self:
        """The machine after it fetched other endorsements."""
        return replace(self, endorsements=endorsements)

    def save(self) -> dict[str, bytes]:
        """Files by name: the machine's key, and the guest and its endorsements as evidence over no report data."""
        return {"vek.key.pem": keys.to_pem(self.key), "evidence.der": self.evidence(bytes(64)).body}

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read what `save` wrote. Raises MalformedError."""
        from enarx.tee.snp.report import parse  # noqa: PLC0415 - only here, a simulator reads evidence

        parsed = parse(Evidence(oid=OID_WITH_CHAIN, body=files.get("evidence.der", b"")))
        certificate, *others = parsed.endorsements.certificates or (b"",)
        return cls(
            key=keys.from_pem(files.get("vek.key.pem", b""), "vek.key.pem"),
            certificate=certificate,
            template=parsed.report,
            endorsements=structs.replace(parsed.endorsements, certificates=tuple(others)),
        )


def ca_extensions(path_length: int | None, *, crl: bool = True, ca: bool = True) -> tuple[Extension, ...]:
    """What a certificate of an authority carries: basicConstraints and keyUsage, both critical."""
    length = b"" if path_length is None else vek.integer(path_length)
    flag = b"\x01\x01\xff" if ca else b""
    usage = b"\x03\x02\x01\x06" if crl else b"\x03\x02\x02\x04"  # keyCertSign, with cRLSign where it signs a CRL
    return (
        Extension(oid=BASIC_CONSTRAINTS, critical=True, value=der.wrap(0x30, flag + length)),
        Extension(oid=KEY_USAGE, critical=True, value=usage),
    )


def _vek_extensions(product: str, tcb: Tcb, chip_id: bytes, kind: Kind) -> tuple[Extension, ...]:
    layout = LAYOUTS[product]
    name = "Milan-B0" if product == "Milan" and kind == "VCEK" else product
    values = [
        (vek.STRUCT_VERSION, vek.integer(layout)),
        (vek.PRODUCT_NAME, vek.text(name)),
        (vek.BOOTLOADER, vek.integer(tcb.bootloader)),
        (vek.TEE, vek.integer(tcb.tee)),
        *((oid, vek.integer(0)) for oid in vek.RESERVED[layout:]),  # SPL_4 is gone from Turin on
        (vek.SNP, vek.integer(tcb.snp)),
        (vek.MICROCODE, vek.integer(tcb.microcode)),
        *([(vek.FMC, vek.integer(tcb.fmc or 0))] if layout else []),
        (vek.HWID, chip_id) if kind == "VCEK" else (vek.CSP_ID, vek.text("CN=cc.simulated.invalid")),
    ]
    return tuple(Extension(oid=oid, critical=False, value=value) for oid, value in values)


def _certificate(
    common_name: str,
    spki: bytes,
    issuer: bytes,
    issuer_key: rsa.RSAPrivateKey,
    at: datetime,
    *,
    serial: int,
    extensions: Sequence[Extension],
    lifetime: timedelta = LIFETIME,
    algorithm: bytes = _ALGORITHM,
) -> bytes:
    """A certificate in DER (RFC 5280, 4.1), with whatever serial number and extensions are asked for."""
    begin = at - timedelta(days=1)
    identifier = Extension(oid=SUBJECT_KEY_ID, critical=False, value=der.wrap(0x04, sha256(spki).digest()[:20]))
    tbs = der.wrap(
        0x30,
        der.wrap(0xA0, vek.integer(2))
        + vek.integer(serial)
        + algorithm
        + issuer
        + der.wrap(0x30, _time(begin) + _time(begin + lifetime))
        + _name(common_name)
        + spki
        + der.wrap(0xA3, der.wrap(0x30, b"".join(map(_extension, (*extensions, identifier))))),
    )
    signature = issuer_key.sign(tbs, _PSS, hashes.SHA384())
    return der.wrap(0x30, tbs + algorithm + der.wrap(0x03, b"\0" + signature))


def _extension(extension: Extension) -> bytes:
    critical = b"\x01\x01\xff" if extension.critical else b""
    return der.wrap(0x30, der.oid(extension.oid) + critical + der.wrap(0x04, extension.value))


def _time(at: datetime) -> bytes:
    """UTCTime up to 2049, GeneralizedTime after it (RFC 5280, 4.1.2.5)."""
    text = at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode()
    return der.wrap(0x17, text[2:]) if at.year < 2050 else der.wrap(0x18, text)


def _name(common_name: str) -> bytes:
    attributes = [
        (NameOID.ORGANIZATION_NAME, "SIMULATED"),
        (NameOID.COUNTRY_NAME, "ZZ"),
        (NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes]).public_bytes()


def _spki(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _authority(files: Mapping[str, bytes], role: Role) -> Authority:
    key = serialization.load_pem_private_key(files[f"{role}.key.pem"], None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise MalformedError(f"{role}.key.pem: expected an RSA key")
    return Authority(key=key, certificate=files[f"{role}.der"])


def _state(files: Mapping[str, bytes], name: str) -> dict[str, Any]:  # Any: checked field by field by the caller
    try:
        state = json.loads(files[name])
    except (KeyError, ValueError) as error:
        raise MalformedError(f"simulator: {name} is missing or not JSON") from error
    if not isinstance(state, dict):
        raise MalformedError(f"simulator: {name}: expected an object")
    return state
