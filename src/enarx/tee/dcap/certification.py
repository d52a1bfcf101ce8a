"""Which machine certified a quote: the certification data of types 1 to 5, and how the certificate is found.

Intel SGX ECDSA Quote Library Reference, appendix A.4, table 9:
  1 to 3  PPID ‖ CPUSVN 16 ‖ PCESVN u16 ‖ PCEID u16, where the PPID stands in the clear (16 bytes), or encrypted for
          Intel with RSA-2048 (256) or RSA-3072 (384): the name of a certificate, at the TCB whose key signed
  4       the PCK certificate, PEM
  5       the PCK certificate, its CA and the root, PEM
What a quote of types 1 to 4 does not bring has to be among the endorsements, as an issuer's certificate has to be
anywhere else. None of these bytes is signed, so nothing is believed for them: the chain that was found is verified to
an anchor, and its key has to have signed the Quoting Enclave's report, by whomever it was brought.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self

from msgspec import Struct

from enarx.binary import Reader, Writer
from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate, describe_name
from enarx.pki.chain import verify_issued
from enarx.tee.dcap.pck import EXTENSION, Pck, read_chain, read_leaf, read_pck
from enarx.tee.dcap.quote import PCK_CHAIN, PPID, PPID_RSA_2048, PPID_RSA_3072
from enarx.tee.documents import readable_certificates
from enarx.tee.model import Endorsements

MAX_FITTING: Final = 256  # certificates of machines of one TCB, each of which costs a signature to be told apart
_PPID_SIZES: Final = {PPID: 16, PPID_RSA_2048: 256, PPID_RSA_3072: 384}


class Machine(Struct, frozen=True, kw_only=True):
    """A machine's chain and what its certificate says of it. Not believed."""

    chain: tuple[Certificate, Certificate, Certificate]  # PCK, PCK CA, root
    pck: Pck


class Named(Struct, frozen=True, kw_only=True):
    """A PCK certificate by its name. `ppid` as it came, encrypted in all types but the first."""

    kind: int
    ppid: bytes
    cpu_svn: bytes  # 16, of the TCB whose key signed
    pce_svn: int
    pce_id: bytes  # 2

    @classmethod
    def parse(cls, kind: int, data: bytes) -> Self:
        """Read certification data of types 1 to 3. Raises MalformedError."""
        reader = Reader(data, what=f"quote certification data of type {kind}")
        parsed = cls(
            kind=kind,
            ppid=reader.take(_PPID_SIZES[kind], "PPID"),
            cpu_svn=reader.take(16, "CPUSVN"),
            pce_svn=reader.uint(2, "PCESVN"),
            pce_id=reader.take(2, "PCEID"),
        )
        reader.end()
        return parsed

    def encode(self) -> bytes:
        writer = Writer().put(self.ppid, _PPID_SIZES[self.kind]).put(self.cpu_svn, 16)
        return writer.uint(self.pce_svn, 2).put(self.pce_id, 2).getvalue()

    def fits(self, pck: Pck) -> bool:
        """Whether that is the certificate. An encrypted PPID is read by nobody but Intel, and so not compared."""
        if self.kind == PPID and self.ppid != pck.ppid:
            return False
        return (self.cpu_svn, self.pce_svn, self.pce_id) == (pck.cpu_svn, pck.pce_svn, pck.pce_id)

    def __str__(self) -> str:
        ppid = self.ppid.hex() if self.kind == PPID else "encrypted"
        where = f"PCESVN {self.pce_svn}, PCEID {self.pce_id.hex().upper()}"
        return f"PPID {ppid}, CPUSVN {self.cpu_svn.hex()}, {where}"


def read(kind: int, data: bytes) -> Machine | Certificate | Named:
    """What certification data of any type says. Raises MalformedError."""
    if kind in _PPID_SIZES:
        return Named.parse(kind, data)
    chain = read_chain(data) if kind == PCK_CHAIN else (read_leaf(data),)
    pck = _pck_of(chain[0])
    if pck is None:
        raise MalformedError(f"PCK certificate: extension {EXTENSION} is missing")
    return Machine(chain=chain, pck=pck) if len(chain) == 3 else chain[0]


def find(
    certified: Machine | Certificate | Named,
    endorsements: Endorsements,
    roots: Iterable[Certificate],
    verify_report: Callable[[Certificate], object],
) -> Machine:
    """The machine, completed from the endorsements. Raises UntrustedError that says what is not there.

    `verify_report` raises UntrustedError where the certificate's key did not sign the Quoting Enclave's report.
    """
    if isinstance(certified, Machine):
        return certified
    offered = endorsements.certificates
    leaf = certified if isinstance(certified, Certificate) else _named(certified, offered, verify_report)
    pool = readable_certificates(data for data in offered if leaf.issuer in data)
    issuer = _issuer(leaf, pool)
    root = _issuer(issuer, [*roots, *readable_certificates(data for data in offered if issuer.issuer in data)])
    return Machine(chain=(leaf, issuer, root), pck=Pck.of(leaf))


def _named(named: Named, offered: Sequence[bytes], verify_report: Callable[[Certificate], object]) -> Certificate:
    """The certificate of that name; an encrypted PPID may leave several, and the one whose key signed is meant.

    Whoever sends a quote chooses the name, so those that cannot fit are left out before they are read.
    """
    likely = readable_certificates(data for data in offered if named.cpu_svn in data)
    fitting = [leaf for leaf in likely if _fits(named, leaf)]
    if len(fitting) > MAX_FITTING:
        raise UntrustedError(
            f"PCK chain: expected at most {MAX_FITTING} certificates of the name that the quote gives ({named}), "
            f"found {len(fitting)}"
        )
    for leaf in fitting:
        try:
            verify_report(leaf)
        except UntrustedError:
            continue
        return leaf
    if fitting:
        return fitting[0]  # whose signature is asked for again, where everything else about it is
    raise UntrustedError(
        f"PCK chain: the quote names its PCK certificate (certification data of type {named.kind}: {named}) "
        "and no such certificate is among the endorsements"
    )


def _fits(named: Named, certificate: Certificate) -> bool:
    try:
        pck = _pck_of(certificate)
    except MalformedError:
        return False  # a pool may hold others' rubbish
    return pck is not None and named.fits(pck)


def _issuer(subject: Certificate, pool: Iterable[Certificate]) -> Certificate:
    """Who issued it, of those that are there. Raises UntrustedError."""
    for issuer in pool:
        try:
            verify_issued(subject, issuer, "PCK chain")
        except UntrustedError:
            continue
        return issuer
    raise UntrustedError(
        f"PCK chain: the quote does not carry who issued {subject.common_name}, "
        f"and {describe_name(subject.issuer)} is not among the endorsements"
    )


def _pck_of(certificate: Certificate) -> Pck | None:
    """What a PCK certificate says, None for another. Raises MalformedError where it cannot be read."""
    extension = certificate.extensions.get(EXTENSION)
    return None if extension is None else read_pck(extension.value)
