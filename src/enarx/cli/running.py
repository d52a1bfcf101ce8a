"""What `enarx run` does once its command line has been read: load, certify where TLS is spoken, run.

Nothing here needs the command-line library, and nothing is imported that this program does not need: a program that
says hello spends its time on that, not on us.
"""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from enarx.errors import MalformedError, NotFoundError

if TYPE_CHECKING:
    from enarx.keep.runtime import Listening, LiveIdentity, TlsIdentity
    from enarx.keep.runtime.cache import Cache
    from enarx.keep.workload import Workload

_TEXT: Final = (b"(module", b"(component", b";;", b"(;")  # how WebAssembly begins when it is written by hand
NOTICE: Final = "nothing is protected: this machine sees the program, its data and its keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The command line, read."""

    module: str
    args: tuple[str, ...] = ()
    wasmcfgfile: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    directories: tuple[tuple[str, str], ...] = ()
    backend: str = "process"
    ca_bundle: str | None = None
    invoke: str | None = None
    grace: float = 10.0
    cached: bool = True
    fd_env: bool = True
    as_json: bool = False


def perform(plan: Plan) -> int:
    """Run it. Returns the program's exit code; raises an error of ours when it could not run."""
    from enarx.keep.runtime import Stdio, run

    module = Path(plan.module)
    workload = load(module, None if plan.wasmcfgfile is None else Path(plan.wasmcfgfile))
    roots = read(Path(plan.ca_bundle)) if plan.ca_bundle else None
    identity = _identity(plan, workload, roots) if workload.config.uses_tls else None

    def ready(listening: Sequence["Listening"]) -> None:
        _announce(plan, listening)

    with _named(module):
        code = run(
            workload,
            identity=identity,
            stdio=Stdio.inherited(),
            extra_args=plan.args,
            extra_env=plan.env,
            preopens=[(Path(host), guest) for host, guest in plan.directories],
            fd_env=plan.fd_env,
            roots_pem=roots,
            on_ready=ready,
            invoke=plan.invoke,
            cache=_cache() if plan.cached else None,
            grace=plan.grace,
            interruptible=False,  # this process ends with it
            workload_digest=_digest(module, workload) if workload.config.identity is not None else None,
        )
    if plan.as_json:
        _say({"event": "exit", "source": "program", "code": code})
    return code


def _cache() -> "Cache | None":
    """Compiled code of this user, where the XDG directories say."""
    from enarx.keep.runtime.cache import Cache

    home = os.path.expanduser("~")  # noqa: PTH111 - a string is all that is needed
    kept = os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    state = os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    return Cache.of_user(Path(kept, "enarx", "code"), Path(state, "enarx", "code.key"))


def _digest(module: Path, workload: "Workload") -> str | None:
    """The digest under which a registry would know a lone file; that of a directory is for whoever publishes it."""
    from enarx.digest import Digest

    return None if module.is_dir() else str(Digest.of(workload.wasm))


def load(module: Path, config: Path | None) -> "Workload":
    """The workload in a file or a package directory. Raises NotFoundError and MalformedError."""
    from enarx.keep.config import Config
    from enarx.keep.workload import CONFIG_NAME, Workload

    if module.is_dir():
        files = dict(_package(module))
        if config is not None:
            files[CONFIG_NAME] = read(config)
        return Workload.from_package(files)
    settings = Config() if config is None else Config.parse(read(config), source=str(config))
    wasm = read(module)
    if module.suffix == ".wat" or wasm.lstrip().startswith(_TEXT):
        wasm = _assemble(wasm, module)
    with _named(module):
        return Workload(wasm=wasm, config=settings)


@contextmanager
def _named(module: Path) -> Iterator[None]:
    """A lone file is called main.wasm by everybody but whoever named it."""
    from enarx.keep.workload import WASM_NAME

    try:
        yield
    except MalformedError as error:
        if module.is_dir() or not str(error).startswith(WASM_NAME):
            raise
        raise MalformedError(f"{module}{str(error).removeprefix(WASM_NAME)}") from error.__cause__


def _package(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file of a directory by its path; nothing hidden, nothing behind a link, nothing beyond the limits."""
    from enarx.keep.workload import MAX_DATA, MAX_DATA_FILES, MAX_WASM

    left, count = MAX_DATA + MAX_WASM, 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            status = path.lstat()
            if name.startswith(".") or not stat.S_ISREG(status.st_mode):
                continue
            left, count = left - status.st_size, count + 1
            if left < 0 or count > MAX_DATA_FILES + 2:
                raise MalformedError(f"{root}: too large for a package, at {path.relative_to(root)}")
            yield path.relative_to(root).as_posix(), read(path)


def _assemble(text: bytes, source: Path) -> bytes:
    import wasmtime

    try:
        return bytes(wasmtime.wat2wasm(text))
    except wasmtime.WasmtimeError as error:
        raise MalformedError(f"{source}: {error}") from error


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from error


def _announce(plan: Plan, listening: Sequence["Listening"]) -> None:
    """One line on standard error, before the program's first instruction."""
    if plan.as_json:
        sockets = [{"name": at.name, "prot": at.prot, "addr": at.addr, "port": at.port} for at in listening]
        event: dict[str, object] = {"event": "running", "module": plan.module, "backend": plan.backend}
        _say(event | {"protected": False, "listening": sockets})
        return
    where = "".join(f"; {at.name} listens on {_join(at.addr, at.port)} ({at.prot})" for at in listening)
    _write(f"enarx: running {plan.module} in a plain process, {NOTICE}{where}")


def _join(addr: str, port: int) -> str:
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


def _say(event: dict[str, object]) -> None:
    import json

    _write(json.dumps(event))


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _identity(plan: Plan, workload: "Workload", roots: bytes | None) -> "TlsIdentity | LiveIdentity":
    steward = workload.config.steward
    return self_signed() if steward is None else _certified(plan, steward, roots)


def _certified(plan: Plan, steward: str, roots: bytes | None) -> "LiveIdentity":
    """Ask the Steward of the configuration, with the evidence that this process has: none. Again before it ends."""
    from datetime import UTC, datetime
    from random import SystemRandom
    from threading import Event

    from enarx.keep.identity import Identity, Secrets
    from enarx.keep.refusal import RefusalError, gate
    from enarx.keep.renewal import Renewal, in_background
    from enarx.keep.runtime import LiveIdentity, TlsIdentity
    from enarx.pki import csr
    from enarx.pki.certificate import Extension
    from enarx.steward.client import attest
    from enarx.tee import nil
    from enarx.web.client import Client

    own = Secrets.generate("P-256")
    request = csr.build(own.tls, [Extension(oid=nil.OID, critical=False, value=b"")])

    def enrol() -> Identity:
        with Client(steward, ca_pem=roots) as client:
            return Identity(secrets=own, chain=attest(client, request))

    def enrol_again() -> Identity:
        with gate("steward"):
            return enrol()

    def use(identity: Identity) -> None:
        live.replace(TlsIdentity(chain_pem=identity.chain_pem, key=own.tls))
        if plan.as_json:
            _say({"event": "renewed", "until": f"{identity.ends:%Y-%m-%dT%H:%M:%SZ}"})

    def failed(error: RefusalError, ends: datetime) -> None:
        text = f"renewal {error}; the certificate ends at {ends:%Y-%m-%dT%H:%M:%SZ}"
        if plan.as_json:
            _say({"event": "warning", "renewal": text})
        else:
            _write(f"enarx: warn: {text}")

    first = enrol()
    live = LiveIdentity(TlsIdentity(chain_pem=first.chain_pem, key=own.tls))
    renewal = Renewal(
        renew=enrol_again,
        use=use,
        failed=failed,
        now=lambda: datetime.now(UTC),
        sleep=Event().wait,  # until this process ends
        random=SystemRandom().random,
    )
    in_background(renewal, first)
    return live


def self_signed() -> "TlsIdentity":
    """A key, and a certificate that says `localhost` and is vouched for by nobody."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    from enarx.keep.runtime import TlsIdentity
    from enarx.pki import keys

    key = keys.generate("P-256")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"), False
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_encipherment=True, encipher_only=False, decipher_only=False, **usage
            ),
            critical=True,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, SHA256())
    )
    return TlsIdentity(chain_pem=certificate.public_bytes(Encoding.PEM), key=key)
