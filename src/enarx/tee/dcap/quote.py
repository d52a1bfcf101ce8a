"""Intel's ECDSA quotes, bytes to fields and back: version 3 for SGX, versions 4 and 5 for TDX.

Layouts: Intel SGX ECDSA Quote Library Reference, appendix A.4 (version 3), and Intel TDX DCAP
Quoting Library API, appendix A.3 (versions 4 and 5). A quote is what was signed (header and body),
and the signature data: the quote's signature, the attestation key, the Quoting Enclave's report
over that key, and which PCK certificate signed this report: the certification data (of types 1 to
5, `certification` reads it; wrapped in type 6 from version 4). Exactly one attestation key type
(ECDSA P-256) is read. What follows the signature data may only be zeros, for some platforms pad
their buffers.
Nothing is judged here: `verify` does, over `signed`, which holds the bytes as they came.
"""

import struct
from functools import lru_cache
from typing import Final, Self

from msgspec import Struct

from enarx.binary import Reader, Writer
from enarx.errors import MalformedError
from enarx.tee.dcap import enclave

MAX_QUOTE: Final = 64 * 1024  # bytes with padding; real ones have about 5,000, their buffers up to 16 KiB

VERSIONS: Final = frozenset({3, 4, 5})
HEADER_SIZE: Final = 48
SIGNATURE_SIZE: Final = 64
_HEADER: Final = struct.Struct("<HHIHH16s20s")  # version, key type, TEE type, QE SVN, PCE SVN, QE vendor, user data
ECDSA_P256: Final = 2  # attestation key type
TEE_SGX: Final = 0x00
TEE_TDX: Final = 0x81

BODY_SIZES: Final = {1: 384, 2: 584, 3: 648, 4: 885}  # SGX, TD 1.0, TD 1.5, TD 1.5 with its migration history
BODY_NAMES: Final = {1: "SGX enclave report", 2: "TD report 1.0", 3: "TD report 1.5", 4: "TD report 1.5ex"}

PPID: Final = 1  # certification data: in the clear, with the TCB
PPID_RSA_2048: Final = 2  # encrypted for Intel
PPID_RSA_3072: Final = 3  # likewise, what quoting libraries write that know no certificate
PCK_LEAF: Final = 4  # certification data: PEM
PCK_CHAIN: Final = 5  # certification data: PEM, leaf first
QE_REPORT: Final = 6  # certification data: the Quoting Enclave's report and its own certification data


class Quote(Struct, frozen=True, kw_only=True):
    """A parsed quote, not believed. `signed` are the bytes that the quote's signature covers, as they came."""

    version: int
    tee_type: int
    qe_svn: int  # bytes 8 to 9 of the header; written by the QE itself, so only informative
    pce_svn: int  # bytes 10 to 11, likewise
    qe_vendor_id: bytes  # 16
    user_data: bytes  # 20
    body_type: int  # 1 to 4, as version 5 numbers them
    body: bytes
    signature: bytes  # r ‖ s, big-endian, 64
    attestation_key: bytes  # x ‖ y, big-endian, 64
    qe_report: bytes  # 384
    qe_report_signature: bytes  # r ‖ s, 64
    qe_auth: bytes
    certification_type: int = PCK_CHAIN  # 1 to 5
    certification: bytes  # which PCK certificate signed the QE's report
    padding: int  # zero bytes after the quote
    signed: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one quote and nothing after it but zeros. Raises MalformedError."""
        if len(data) > MAX_QUOTE:
            raise MalformedError(f"quote: expected at most {MAX_QUOTE} bytes, found {len(data)}")
        reader = Reader(data, what="quote")
        header = reader.take(HEADER_SIZE, "header")
        version, key_type, tee_type, qe_svn, pce_svn, qe_vendor_id, user_data = _HEADER.unpack(header)
        if version not in VERSIONS:
            raise MalformedError(f"quote: version at 0x0: expected 3, 4 or 5, found {version}")
        if key_type != ECDSA_P256:
            raise MalformedError(f"quote: attestation key type at 0x2: expected 2 (ECDSA P-256), found {key_type}")
        body_type, body = _read_body(reader, version, tee_type)
        signed = data[: reader.position]
        whole = reader.take(reader.uint(4, "signature data length"), "signature data")
        if len(whole) < SIGNATURE_SIZE:
            raise MalformedError(f"quote signature data: signature at 0x0 needs 64 bytes, {len(whole)} left")
        certified = _read_certified(whole[SIGNATURE_SIZE:], version)
        padding = reader.left
        if padding:
            reader.zeros(padding, "after the signature data")
        return cls(
            version=version,
            tee_type=tee_type,
            qe_svn=qe_svn,
            pce_svn=pce_svn,
            qe_vendor_id=qe_vendor_id,
            user_data=user_data,
            body_type=body_type,
            body=body,
            signature=whole[:SIGNATURE_SIZE],
            attestation_key=certified.attestation_key,
            qe_report=certified.qe_report,
            qe_report_signature=certified.qe_report_signature,
            qe_auth=certified.qe_auth,
            certification_type=certified.certification_type,
            certification=certified.certification,
            padding=padding,
            signed=signed,
        )

    def encode(self) -> bytes:
        """The bytes that `parse` reads, padding included."""
        certified = _Certified(
            attestation_key=self.attestation_key,
            qe_report=self.qe_report,
            qe_report_signature=self.qe_report_signature,
            qe_auth=self.qe_auth,
            certification_type=self.certification_type,
            certification=self.certification,
        ).encode(self.version)
        writer = Writer().put(self.to_be_signed()).uint(64 + len(certified), 4).put(self.signature, 64).put(certified)
        return writer.zeros(self.padding).getvalue()

    def to_be_signed(self) -> bytes:
        """Header and body, encoded from the fields: what a Quoting Enclave signs."""
        writer = Writer().uint(self.version, 2).uint(ECDSA_P256, 2).uint(self.tee_type, 4)
        writer.uint(self.qe_svn, 2).uint(self.pce_svn, 2).put(self.qe_vendor_id, 16).put(self.user_data, 20)
        if self.version == 5:
            writer.uint(self.body_type, 2).uint(len(self.body), 4)
        return writer.put(self.body, BODY_SIZES[self.body_type]).getvalue()


class _Certified(Struct, frozen=True, kw_only=True):
    """What stands behind the quote's signature: the attestation key, and who vouches for it."""

    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth: bytes
    certification_type: int
    certification: bytes

    @classmethod
    def parse(cls, data: bytes, version: int) -> Self:
        reader = Reader(data, what="quote signature data")
        attestation_key = reader.take(64, "attestation key")
        if version > 3:  # version 3 has the same fields without the wrapping
            _, wrapped = _certification(reader, range(QE_REPORT, QE_REPORT + 1))
            reader = Reader(wrapped, what="quote QE report certification data")
        qe_report = reader.take(enclave.SIZE, "QE report")
        qe_report_signature = reader.take(64, "QE report signature")
        qe_auth = reader.take(reader.uint(2, "QE authentication data length"), "QE authentication data")
        certification_type, certification = _certification(reader, range(PPID, PCK_CHAIN + 1))
        return cls(
            attestation_key=attestation_key,
            qe_report=qe_report,
            qe_report_signature=qe_report_signature,
            qe_auth=qe_auth,
            certification_type=certification_type,
            certification=certification,
        )

    def encode(self, version: int) -> bytes:
        inner = Writer().put(self.qe_report, enclave.SIZE).put(self.qe_report_signature, 64)
        inner.uint(len(self.qe_auth), 2).put(self.qe_auth)
        inner.uint(self.certification_type, 2).uint(len(self.certification), 4).put(self.certification)
        body = inner.getvalue()
        writer = Writer().put(self.attestation_key, 64)
        if version > 3:
            writer.uint(QE_REPORT, 2).uint(len(body), 4)
        return writer.put(body).getvalue()


@lru_cache(maxsize=256)
def _read_certified(data: bytes, version: int) -> _Certified:
    """As `_Certified.parse`, remembered: it is the same in every quote of a machine."""
    return _Certified.parse(data, version)


def _read_body(reader: Reader, version: int, tee_type: int) -> tuple[int, bytes]:
    """The body's type as version 5 numbers it, and its bytes. Versions 3 and 4 have one type each."""
    if version == 5:
        body_type = reader.uint(2, "body type")
        if body_type not in BODY_SIZES:
            raise MalformedError(f"quote: body type at 0x30: expected 1 to 4, found {body_type}")
        size = reader.uint(4, "body size")
        expected = BODY_SIZES[body_type]
        if size != expected:
            raise MalformedError(f"quote: body size at 0x32: expected {expected} for type {body_type}, found {size}")
    else:
        body_type = 1 if version == 3 else 2
    wanted = TEE_SGX if body_type == 1 else TEE_TDX
    if tee_type != wanted:
        raise MalformedError(
            f"quote: TEE type at 0x4: expected 0x{wanted:x} in version {version} with a "
            f"{BODY_NAMES[body_type]}, found 0x{tee_type:x}"
        )
    return body_type, reader.take(BODY_SIZES[body_type], BODY_NAMES[body_type])


def _certification(reader: Reader, expected: range) -> tuple[int, bytes]:
    """Certification data of a type that may stand here, which has to be the last field."""
    kind = reader.uint(2, "certification data type")
    if kind not in expected:
        known = " to ".join(map(str, dict.fromkeys((expected[0], expected[-1]))))
        raise MalformedError(f"quote: certification data type: expected {known}, found {kind}")
    data = reader.take(reader.uint(4, "certification data length"), "certification data")
    reader.end()
    return kind, data
