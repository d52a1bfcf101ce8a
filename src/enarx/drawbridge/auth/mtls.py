"""Client certificates to Keeps: which Stewards are trusted, and what they took back (flow.md, 4 and 5).

TLS has checked that the peer holds the key; `enarx.attested.relying` judges the rest. A certificate without an
attestation result is nobody in particular, whoever issued it: it opens nothing private, and is no error.

Revocation lists come from the URL that the configuration names for each Steward, never from a certificate. They are
fetched again every `REFRESH` seconds, kept until their nextUpdate when that fails, and counted only while they are
current: a certificate whose issuer publishes lists, of which none is, is answered "unavailable".
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Final

from enarx.attested.relying import Expectation, Peer, judge_peer
from enarx.attested.result import AttestationResult
from enarx.drawbridge.auth.fetch import Fetch
from enarx.errors import MalformedError, UnavailableError
from enarx.pki.certificate import Certificate, pem_blocks
from enarx.pki.crl import MAX_CRL, Crl

REFRESH: Final = 60.0  # seconds: how late a revocation may be known where a Steward answers
RETRY: Final = 5.0  # seconds between two attempts while none is current
MAX_KEPT: Final = 8  # lists of one Steward beside the latest: it may have several intermediates for a while
MAX_LISTS: Final = 4 * MAX_CRL  # bytes of all lists together, in PEM

# What a Keep is, is the release policy's business; here only that a trusted Steward vouches for it.
ANY_KEEP: Final = Expectation(accept_simulated=True, accept_nil=True, accept_debug=True)


class CrlSource:
    """The revocation list of one Steward. `fetch` gets it as DER; None: it publishes none that we know of."""

    def __init__(
        self, name: str, fetch: Callable[[], bytes] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._fetch = fetch
        self._clock = clock
        self._lock = Lock()
        self._tried: float | None = None
        self._kept: tuple[Crl, ...] = ()

    @property
    def publishes(self) -> bool:
        """Whether this Steward publishes a list that we know of."""
        return self._fetch is not None

    def is_current(self, at: datetime) -> bool:
        """Whether a list is at hand that has not ended; nothing is fetched for this."""
        return any(crl.next_update is not None and at < crl.next_update for crl in self._kept)

    def lists(self, at: datetime) -> Sequence[Crl]:
        """What is known, fetched anew where that is due. Never raises: a missing list is noticed by who needs it."""
        with self._lock:
            wait = REFRESH if self.is_current(at) else RETRY
            if self._fetch is not None and (self._tried is None or self._clock() - self._tried >= wait):
                self._tried = self._clock()
                self._renew(self._fetch)
            return self._kept

    def _renew(self, fetch: Callable[[], bytes]) -> None:
        """The former lists stay beside a new one: which of them counts is judged by signature, number and date.

        Nothing is verified here, for the issuer's certificate comes with the chain that is judged. So a list must push
        no list of another key out: of each authority key identifier the latest is kept.
        """
        try:
            fresh = _lists(fetch(), f"CRL of {self.name}")
        except (UnavailableError, MalformedError):
            return
        for found in reversed(fresh):  # the list of the issuer in force comes first, and is the last to be pushed out
            kept = [crl for crl in self._kept if _signer(crl) != _signer(found)]
            self._kept = (*kept[-MAX_KEPT:], found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeps:
    """Judges certificates. `anchors` are the CAs of the Stewards that are trusted."""

    anchors: Sequence[Certificate]
    sources: Sequence[CrlSource] = ()

    def judge(self, chain: Sequence[bytes], at: datetime) -> Peer | None:
        """Who showed this chain: a Keep, or None for a certificate without an attestation result.

        Raises MalformedError, UntrustedError, and UnavailableError when revocation can not be judged now.
        """
        if not chain:
            return None
        leaf = Certificate.parse(chain[0], "client certificate")
        if AttestationResult.from_certificate(leaf) is None:
            return None
        crls = [crl for source in self.sources for crl in source.lists(at)]
        return judge_peer(chain, self.anchors, ANY_KEEP, at, side="client", crls=crls)

    def refresh(self, at: datetime) -> None:
        """Fetch what is due, so that no request has to wait for it."""
        for source in self.sources:
            source.lists(at)


def crl_fetch(url: str, fetch: Fetch) -> Callable[[], bytes]:
    """From a Steward's `GET /crl`: of all its issuers in PEM where it can say that, else of one in DER."""

    def get() -> bytes:
        accept = "application/x-pem-file, application/pkix-crl;q=0.9"
        return fetch(url, headers={"Accept": accept}, limit=MAX_LISTS).body

    return get


def _lists(data: bytes, what: str) -> list[Crl]:
    """Raises MalformedError."""
    parts = pem_blocks(data, "X509 CRL", what, limit=MAX_KEPT) if data.startswith(b"-----BEGIN") else (data,)
    return [Crl.parse(part, what) for part in parts]


def _signer(crl: Crl) -> tuple[bytes, bytes | None]:
    return crl.issuer, crl.authority_key_id
