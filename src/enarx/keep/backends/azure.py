"""Who vouches in a confidential VM of Azure's: the paravisor, through its virtual TPM (`enarx.tee.azure`).

The paravisor's report is read once, at the start: it holds the hardware's report over the TPM's attestation key, and
neither changes while the VM lives. What a Keep binds is the extra data of a fresh quote by that key. Beside it goes

  snp  the VCEK: from the directory of documents, else from Azure's metadata service, else from AMD
  tdx  the quote over the TDREPORT, from Azure's metadata service

The metadata service is the host's, spoken to without TLS as Azure has it: what it says is verified by the Steward.
"""

import base64
import binascii
import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends.documents import Shelf
from enarx.keep.backends.vtpm import HCL_INDEX, Vtpm
from enarx.pki.certificate import certificates_from_pem
from enarx.tee import azure
from enarx.tee.azure.hcl import HclReport
from enarx.tee.azure.report import encode
from enarx.tee.model import Endorsements, Evidence, Technology

METADATA: Final = "169.254.169.254"
TDX_QUOTE: Final = "/acc/tdquote"
VCEK: Final = "/metadata/THIM/amd/certification"
MAX_ANSWER: Final = 128 * 1024  # bytes
TIMEOUT: Final = 10.0  # seconds of a connect and of every wait


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureAttester:
    """The paravisor of this VM. `hardware` gives the body of the hardware's own evidence, with what is on the shelf."""

    vtpm: Vtpm
    hcl: HclReport
    raw: bytes
    hardware: Callable[[], bytes]
    shelf: Shelf
    measured: bytes
    writable: tuple[Path, ...] = ()
    sealing_secret: bytes | None = field(default=None, repr=False)

    @property
    def technology(self) -> Technology[Any, Any]:  # Any: as in Attester
        return azure.SNP if self.hcl.kind == "snp" else azure.TDX

    def measurement(self) -> bytes:
        return self.measured

    def learn(self, documents: Endorsements) -> None:
        self.shelf.offer(documents)

    def evidence(self, report_data: bytes) -> Evidence:
        message, signature, registers = self.vtpm.quote(report_data.rstrip(b"\0"))  # see enarx.tee.azure.verify
        return encode(self.hcl.kind, self.raw, message, signature, registers, self.hardware())


def paravisor(vtpm: Vtpm) -> tuple[HclReport, bytes]:
    """Its report, parsed and as it stands. Raises UnavailableError where there is none, MalformedError."""
    raw = vtpm.nv_read(HCL_INDEX)
    return HclReport.parse(raw), raw


def fetch_quote(tdreport: bytes, host: str = METADATA) -> bytes:
    """The TDX quote over a TDREPORT. Raises UnavailableError, MalformedError."""
    asked = json.dumps({"report": base64.urlsafe_b64encode(tdreport).rstrip(b"=").decode()}).encode()
    text = _text(_ask(host, "POST", TDX_QUOTE, asked), "quote", TDX_QUOTE)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise MalformedError(f"{host}{TDX_QUOTE}: quote: expected base64") from error


def fetch_vcek(host: str = METADATA) -> bytes:
    """The certificate of the chip's key (DER). Raises UnavailableError, MalformedError."""
    found = certificates_from_pem(_text(_ask(host, "GET", VCEK, None), "vcekCert", VCEK).encode())
    if len(found) != 1:
        raise MalformedError(f"{host}{VCEK}: vcekCert: expected one certificate in PEM, found {len(found)}")
    return found[0].der


def _ask(host: str, method: str, path: str, body: bytes | None) -> Mapping[str, Any]:  # Any: JSON
    where = f"{host}{path}"
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
    try:
        connection.request(method, path, body, {"Metadata": "true", "Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{where}: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise UnavailableError(f"{where}: answered {answer.status}")
    if len(data) > MAX_ANSWER:
        raise MalformedError(f"{where}: expected at most {MAX_ANSWER} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{where}: expected JSON") from error
    if not isinstance(found, dict):
        raise MalformedError(f"{where}: expected a JSON object")
    return found


def _text(found: Mapping[str, Any], name: str, path: str) -> str:  # Any: JSON
    text = found.get(name)
    if not isinstance(text, str) or not text.isascii():
        raise MalformedError(f"{path}: {name}: expected a string")
    return text
