"""What a program can learn and ask about the identity of its Keep: files in one directory, /enarx unless it is moved.

    certificate.pem    the chain, leaf first, as it is at this moment: renewal changes it
    attestation.json   what the Steward found, from the certificate; absent when it carries no attestation result
    workload           the digest of what runs, `sha-256:<hex>`; absent when nobody knows it
    sign               write a message, then read an ECDSA signature (DER) by the certificate's key
    keys/<label>       read 32 bytes: a key that belongs to this label, and to nobody outside

A signature is over `SIGN_PREFIX ‖ message` with SHA-256 (P-256) or SHA-384 (P-384): the prefix keeps what a program
may have signed apart from what TLS signs with the same key. Keys are HKDF-SHA256 over a secret of the Keep, which
the program never sees, nor the private key. Where no TEE gave that secret, keys end with the run: the environment says
so to the program, and a line of the log to whoever reads it, when the first key is asked for.
"""

import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.attested.result import AttestationResult
from enarx.errors import EnarxError
from enarx.keep.runtime.abi import O_CREAT, O_DIRECTORY, O_EXCL, Errno, FileType, Refused, Right
from enarx.keep.runtime.descriptors import Descriptor, Stat
from enarx.keep.runtime.package import File, OpenFile
from enarx.keep.runtime.paths import parts
from enarx.pki.certificate import Certificate

if TYPE_CHECKING:
    from enarx.keep.runtime.log import Log
    from enarx.keep.runtime.runner import Settings
    from enarx.keep.runtime.tls import LiveIdentity

SIGN_PREFIX: Final = b"enarx-keep-sign-v1\0"
KEY_INFO: Final = b"enarx-keep-seal-v1\0"
MAX_MESSAGE: Final = 1 << 20  # bytes of a message to sign; larger ones are hashed first, by whoever signs them
MAX_LABEL: Final = 255
KEYS: Final = "keys"

_DEVICE: Final = 0x656E61727A


def directory(path: str, settings: "Settings") -> Descriptor:
    """The directory, preopened as `path`."""
    return Directory(Facts(settings), path)


def environment(path: str, settings: "Settings") -> Mapping[str, str]:
    """What the environment says: where the files are, and the short facts themselves."""
    facts = Facts(settings)
    told = {"ENARX_IDENTITY": path, "ENARX_CERTIFICATE": f"{path}/certificate.pem"}
    told["ENARX_KEYS"] = "temporary" if settings.sealing_root is None else "lasting"
    if (workload := facts.workload()) is not None:
        told["ENARX_WORKLOAD"] = workload
    if (result := facts.result()) is not None:
        told["ENARX_TECHNOLOGY"] = result.technology
        told["ENARX_SIMULATED"] = "true" if result.simulated else "false"
    return told


class Facts:
    """What there is to say, from the identity of this moment."""

    def __init__(self, settings: "Settings") -> None:
        if settings.identity is None:
            raise RuntimeError("identity: asked of a Keep that has none")
        self._identity: LiveIdentity = settings.identity
        self._digest, self._root = settings.workload_digest, settings.sealing_root
        self._log = settings.log

    def files(self) -> Mapping[str, Callable[[], bytes | None]]:
        return {"attestation.json": self.attestation, "certificate.pem": self.chain, "workload": self._workload_line}

    def chain(self) -> bytes:
        return self._identity.current.chain_pem

    def result(self) -> AttestationResult | None:
        """What the certificate of this moment says was attested."""
        leaf = x509.load_pem_x509_certificates(self.chain())[0]
        try:
            return AttestationResult.from_certificate(Certificate.parse(leaf.public_bytes(Encoding.DER)))
        except EnarxError:
            return None  # a certificate of somebody else, who may write what he likes

    def attestation(self) -> bytes | None:
        result = self.result()
        if result is None:
            return None
        members = {
            "technology": result.technology,
            "simulated": result.simulated,
            "debug": result.debug,
            "measurement": result.measurement.hex(),
            "signer": result.signer.hex() if result.signer else None,
            "tcb_status": result.tcb_status,
            "advisories": list(result.advisories),
            "appraised_at": f"{result.appraised_at:%Y-%m-%dT%H:%M:%SZ}",
            "policy": result.policy.hex(),
            "workload": self.workload(),
            "config_digest": result.claims.config.hex() if result.claims and result.claims.config else None,
        }
        return json.dumps(members, indent=2).encode() + b"\n"

    def workload(self) -> str | None:
        result = self.result()
        if result is not None and result.claims is not None and result.claims.workload is not None:
            return str(result.claims.workload)
        return self._digest

    def _workload_line(self) -> bytes | None:
        digest = self.workload()
        return None if digest is None else digest.encode() + b"\n"

    def sign(self, message: bytes) -> bytes:
        key = self._identity.current.key
        return key.sign(SIGN_PREFIX + message, ECDSA(SHA384() if key.key_size == 384 else SHA256()))

    def key(self, label: str) -> bytes:
        root = _temporary(self._log) if self._root is None else self._root
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=KEY_INFO + label.encode()).derive(root)


_roots: "WeakKeyDictionary[Log, bytes]" = WeakKeyDictionary()  # of this moment's runs: each has one log
_turn = threading.Lock()


def _temporary(log: "Log") -> bytes:
    """The secret of a run that was given none: one for all its threads, and told of once."""
    with _turn:
        found = _roots.get(log)
        if found is None:
            found = _roots[log] = secrets.token_bytes(32)
            log.say(
                "warn",
                "keys",
                "the program asked for a key; no TEE gave this Keep a secret for keys, so they end with it, "
                "and nobody can open again what they sealed",
            )
        return found


class Directory(Descriptor):
    """The directory, or `keys` in it."""

    __slots__ = ("_facts", "_keys", "_name")
    filetype = FileType.DIRECTORY
    rights = Right.PATH_OPEN | Right.FD_READDIR | Right.PATH_FILESTAT_GET | Right.FD_FILESTAT_GET
    inheriting = Right.ALL

    def __init__(self, facts: Facts, name: str | None, *, keys: bool = False) -> None:
        super().__init__()
        self._facts, self._name, self._keys = facts, name, keys

    def preopened_as(self) -> str | None:
        return self._name

    def open(self, path: str, oflags: int, rights: int, flags: int) -> Descriptor:
        found = self._find(path)
        if oflags & O_CREAT and oflags & O_EXCL:
            raise Refused(Errno.EXIST)
        if isinstance(found, Directory):
            return found
        if oflags & O_DIRECTORY:
            raise Refused(Errno.NOTDIR)
        if isinstance(found, bytes):
            if rights & Right.FD_WRITE:
                raise Refused(Errno.ROFS)
            return OpenFile(File(found, 1), flags)
        return found

    def _find(self, path: str) -> "Directory | Signer | bytes":
        names = [name for name in parts(path) if name not in {"", "."}]
        if ".." in names:
            raise Refused(Errno.PERM)
        if not names:
            return self
        if self._keys or names[0] == KEYS:
            label = names if self._keys else names[1:]
            return self._key(label) if label else Directory(self._facts, None, keys=True)
        if len(names) > 1:
            raise Refused(Errno.NOTDIR if names[0] in self._names() else Errno.NOENT)
        if names[0] == "sign":
            return Signer(self._facts)
        content = self._facts.files().get(names[0], lambda: None)()
        if content is None:
            raise Refused(Errno.NOENT)
        return content

    def _key(self, label: Sequence[str]) -> bytes:
        if len(label) > 1:
            raise Refused(Errno.NOENT)
        if len(label[0].encode()) > MAX_LABEL:
            raise Refused(Errno.NAMETOOLONG)
        return self._facts.key(label[0])

    def _names(self) -> Sequence[str]:
        if self._keys:
            return ()
        return [*(name for name, give in self._facts.files().items() if give() is not None), "sign"]

    def entries(self) -> Sequence[tuple[str, int, FileType]]:
        listed = [(".", 1, FileType.DIRECTORY), ("..", 1, FileType.DIRECTORY)]
        listed += [(name, 1, FileType.REGULAR_FILE) for name in self._names()]
        return listed if self._keys else [*listed, (KEYS, 1, FileType.DIRECTORY)]

    def read(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.BADF)

    def stat(self) -> Stat:
        return (_DEVICE, 1, self.filetype, 1, 0, 0, 0, 0)

    def stat_path(self, path: str) -> Stat:
        found = self._find(path)
        if isinstance(found, bytes):
            return (_DEVICE, 1, FileType.REGULAR_FILE, 1, len(found), 0, 0, 0)
        return found.stat()

    def readlink(self, path: str) -> bytes:
        self._find(path)
        raise Refused(Errno.INVAL)

    def change_path(self, path: str) -> None:  # type: ignore[override]  # as everywhere, it only refuses
        del path
        raise Refused(Errno.ROFS)


class Signer(Descriptor):
    """`sign`: takes a message, gives its signature; what is written after that is the next message."""

    __slots__ = ("_answer", "_facts", "_message")
    filetype = FileType.REGULAR_FILE
    rights = Right.FD_READ | Right.FD_WRITE | Right.FD_FILESTAT_GET | Right.POLL_FD_READWRITE | Right.FD_SEEK
    settable = 0x1F

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self._facts, self._message = facts, bytearray()
        self._answer: bytes | None = None

    def write(self, buffer: memoryview) -> int:
        if self._answer is not None:
            self._message, self._answer = bytearray(), None
        if len(self._message) + len(buffer) > MAX_MESSAGE:
            raise Refused(Errno.NOSPC)
        self._message += buffer
        return len(buffer)

    def writev(self, buffers: Sequence[memoryview]) -> int:
        return sum(self.write(buffer) for buffer in buffers)

    def read(self, buffer: memoryview) -> int:
        if self._answer is None:
            self._answer = self._facts.sign(bytes(self._message))
        count = min(len(buffer), len(self._answer))
        buffer[:count] = self._answer[:count]
        self._answer = self._answer[count:]
        return count

    def seek(self, offset: int, whence: int) -> int:
        """A C library seeks between writing and reading; here it means nothing."""
        if offset or whence not in {0, 1, 2}:
            raise Refused(Errno.INVAL)
        return 0

    def stat(self) -> Stat:
        return (_DEVICE, 1, self.filetype, 1, 0, 0, 0, 0)
