"""Where vendors publish their documents: AMD's Key Distribution Service, Intel's PCS v4, and a PCCS that speaks as it.

    AMD KDS (57230, 4)      /vcek/v1/{product}/cert_chain   /vlek/v1/{product}/cert_chain   PEM: ASK or ASVK, then ARK
                            /vcek/v1/{product}/crl                                          DER, by the ARK
                            /vcek/v1/{product}/{hwid}?blSPL=..&teeSPL=..&snpSPL=..&ucodeSPL=..   DER (Turin: fmcSPL= first)
    Intel PCS v4 and PCCS   /{sgx,tdx}/certification/v4/tcb?fmspc=..        JSON, TCB-Info-Issuer-Chain
                            /{sgx,tdx}/certification/v4/qe/identity         JSON, SGX-Enclave-Identity-Issuer-Chain
                            /sgx/certification/v4/pckcrl?ca=..&encoding=der DER, SGX-PCK-CRL-Issuer-Chain
                            /sgx/certification/v4/pckcert?encrypted_ppid=.. PEM, SGX-PCK-Certificate-Issuer-Chain
    root CRL                Intel: /IntelSGXRootCA.der of another host;     PCCS: /sgx/certification/v4/rootcacrl, hexadecimal

Chains come in headers, PEM in percent-encoding. 404 means that there is none. 429 and 503 are waited for as long as they
say (Retry-After, RFC 9110, 10.2.3) and the caller's patience lasts. What comes back is believed by nobody for having come.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final, Literal, Self
from urllib.parse import quote, unquote_to_bytes

from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.pki.certificate import pem_blocks
from enarx.web.client import Client, Response

KDS: Final = "https://kdsintf.amd.com"
PCS: Final = "https://api.trustedservices.intel.com"
ROOT_CRLS: Final = "https://certificates.trustedservices.intel.com"

MAX_ANSWER: Final = 4 * 1024 * 1024  # bytes
MAX_CHAIN: Final = 4  # certificates in a header; vendors send two
PATIENCE: Final = 60.0  # seconds that refusals may ask us to wait, all together
DEFAULT_WAIT: Final = 5.0  # seconds, when a refusal does not say how long

Tee = Literal["sgx", "tdx"]
PckCa = Literal["processor", "platform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One document as it came. `chain` (DER, issuer first) stood in a header."""

    source: str
    data: bytes
    suffix: Literal[".pem", ".der", ".crl", ".json"]
    chain: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformId:
    """What Intel knows a platform by, each field as its PCKIDRetrievalTool writes it and its service wants it."""

    encrypted_ppid: bytes = field(repr=False)  # 384
    pce_id: bytes  # 2
    cpu_svn: bytes  # 16
    pce_svn: bytes  # 2

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """The tool's line: hexadecimal fields between commas, in this order; what follows them is of no use here."""
        fields = data.decode("ascii", "replace").strip().partition("\n")[0].split(",")
        found = []
        for (name, size), text in zip(_ID_FIELDS.items(), [*fields, *[""] * len(_ID_FIELDS)], strict=False):
            if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text.strip()):
                raise MalformedError(f"{source}: {name}: expected {size} bytes in hexadecimal")
            found.append(bytes.fromhex(text.strip()))
        encrypted_ppid, pce_id, cpu_svn, pce_svn = found
        return cls(encrypted_ppid=encrypted_ppid, pce_id=pce_id, cpu_svn=cpu_svn, pce_svn=pce_svn)

    def query(self) -> str:
        names = {
            "encrypted_ppid": self.encrypted_ppid,
            "cpusvn": self.cpu_svn,
            "pcesvn": self.pce_svn,
            "pceid": self.pce_id,
        }
        return "&".join(f"{name}={value.hex().upper()}" for name, value in names.items())


_ID_FIELDS: Final = {"encrypted PPID": 384, "PCE id": 2, "CPU SVN": 16, "PCE SVN": 2}


@dataclass(slots=True, kw_only=True)
class Origin:
    """One server and how patient we are with it."""

    client: Client
    patience: float = PATIENCE
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def get(self, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
        """Raises NotFoundError for what is not there, UnavailableError when patience is at its end."""
        while True:
            answer = self.client.get(path, headers=headers, allow=(404, 429, 503), limit=MAX_ANSWER)
            where = f"{self.client.base_url}{path}"
            if answer.status == 404:
                raise NotFoundError(f"{where}: there is no such document")
            if answer.status < 300:
                return answer
            wait = _wait(answer.headers.get("retry-after"), self.now())
            if wait > self.patience:
                raise UnavailableError(
                    f"{where}: answered {answer.status} and asks to wait {wait:g} seconds, more than {self.patience:g}"
                )
            self.patience -= wait
            self.sleep(wait)


class Kds:
    """AMD's service."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def chain(self, product: str, key: Literal["vcek", "vlek"] = "vcek") -> Fetched:
        return self._fetch(f"/{key}/v1/{quote(product, safe='')}/cert_chain", ".pem")

    def crl(self, product: str) -> Fetched:
        return self._fetch(f"/vcek/v1/{quote(product, safe='')}/crl", ".crl")

    def vcek(self, product: str, hwid: bytes, tcb: Mapping[str, int]) -> Fetched:
        """The certificate of one chip; `tcb` maps the names of the query (blSPL, …) to security patch levels."""
        query = "&".join(f"{name}={level:02d}" for name, level in tcb.items())
        return self._fetch(f"/vcek/v1/{quote(product, safe='')}/{hwid.hex()}?{query}", ".der")

    def _fetch(self, path: str, suffix: Literal[".pem", ".crl", ".der"]) -> Fetched:
        return Fetched(source=self._origin.client.base_url + path, data=self._origin.get(path).body, suffix=suffix)


class Pcs:
    """Intel's service or a PCCS; `root_crls` is where Intel keeps its root's CRL, None for a PCCS, which has it itself."""

    def __init__(self, origin: Origin, root_crls: Origin | None) -> None:
        self._origin = origin
        self._root_crls = root_crls

    def tcb_info(self, tee: Tee, fmspc: bytes) -> Fetched:
        path = f"/{tee}/certification/v4/tcb?fmspc={fmspc.hex().upper()}"
        return self._document(path, "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")

    def qe_identity(self, tee: Tee) -> Fetched:
        return self._document(f"/{tee}/certification/v4/qe/identity", "sgx-enclave-identity-issuer-chain")

    def pck_crl(self, ca: PckCa) -> Fetched:
        path = f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"
        answer = self._origin.get(path)
        chain = _chain(answer.headers, path, "sgx-pck-crl-issuer-chain")
        return Fetched(source=self._source(path), data=_unhex(answer.body), suffix=".crl", chain=chain)

    def pck_certificate(self, platform: PlatformId, key: str | None = None) -> Fetched:
        """The certificate of a platform's key. `key` is a subscription to Intel's service, where it wants one."""
        path = "/sgx/certification/v4/pckcert"
        headers = {} if key is None else {"Ocp-Apim-Subscription-Key": key}
        answer = self._origin.get(f"{path}?{platform.query()}", headers)
        chain = _chain(answer.headers, path, "sgx-pck-certificate-issuer-chain")
        return Fetched(source=self._source(path), data=answer.body, suffix=".pem", chain=chain)

    def root_crl(self) -> Fetched:
        origin = self._root_crls or self._origin
        path = "/sgx/certification/v4/rootcacrl" if self._root_crls is None else "/IntelSGXRootCA.der"
        return Fetched(source=origin.client.base_url + path, data=_unhex(origin.get(path).body), suffix=".crl")

    def _document(self, path: str, *headers: str) -> Fetched:
        answer = self._origin.get(path)
        chain = _chain(answer.headers, path, *headers)
        return Fetched(source=self._source(path), data=answer.body, suffix=".json", chain=chain)

    def _source(self, path: str) -> str:
        return self._origin.client.base_url + path


def _chain(headers: Mapping[str, str], path: str, *names: str) -> tuple[bytes, ...]:
    """The chain in the first of these headers; servers of older versions call one by another name."""
    text = next((headers[name] for name in names if name in headers), None)
    if text is None:
        raise MalformedError(f"{path}: the answer has no {names[0]}")
    return pem_blocks(unquote_to_bytes(text), "CERTIFICATE", f"{path}: {names[0]}", limit=MAX_CHAIN)


def _unhex(body: bytes) -> bytes:
    """A PCCS writes CRLs in hexadecimal where Intel sends DER."""
    return bytes.fromhex(body.decode()) if re.fullmatch(rb"\s*(?:[0-9a-fA-F]{2})+\s*", body) else body


def _wait(retry_after: str | None, now: datetime) -> float:
    """Seconds to wait: a number, or a date."""
    if retry_after is None:
        return DEFAULT_WAIT
    if re.fullmatch(r"[0-9]+", retry_after.strip()):
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return DEFAULT_WAIT
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())
