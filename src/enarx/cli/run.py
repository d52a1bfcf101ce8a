"""`enarx run`: run a local module in this process, as a Keep would. Nothing is protected, and it says so.

The process becomes the Keep: no second interpreter is started. A module gets Enarx.toml as a deployed one does.
Where a file speaks TLS the certificate comes from the configured Steward (evidence: none), or is signed by its own
key for `localhost`, as with the originals.
"""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enarx.errors import MalformedError, NotFoundError

if TYPE_CHECKING:
    from enarx.keep.runtime import Listening, TlsIdentity
    from enarx.keep.runtime.cache import Cache
    from enarx.keep.workload import Workload

NOTICE = "nothing is protected: this machine sees the program, its data and its keys"


def environment(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [tuple(value.partition("=")[::2]) for value in values]
    for name, _value in pairs:
        if not name:
            raise click.BadParameter("expected NAME=VALUE")
    return [(name, value) for name, value in pairs]


def _directories(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[tuple[Path, str]]:
    found = []
    for value in values:
        host, _separator, guest = value.partition("::")
        if not Path(host).is_dir():
            raise click.BadParameter(f"{host}: not a directory")
        found.append((Path(host), guest or host))
    return found


@click.command()
@click.argument("module", type=click.Path(path_type=Path))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--wasmcfgfile",
    type=click.Path(path_type=Path),
    envvar="ENARX_WASMCFGFILE",
    help="The Enarx.toml to use. Without one the program has standard input, output and error.",
)
@click.option(
    "--env", multiple=True, callback=environment, metavar="NAME=VALUE", help="Add to the environment (repeatable)."
)
@click.option(
    "--dir",
    "directories",
    multiple=True,
    callback=_directories,
    metavar="HOST[::GUEST]",
    help="Let the program use a directory of this machine (repeatable).",
)
@click.option(
    "--backend",
    type=click.Choice(["process", "nil"]),
    default="process",
    envvar="ENARX_BACKEND",
    show_default=True,
    help="Where to run. A local module runs in this process; `enarx deploy` knows the other backends.",
)
@click.option(
    "--ca-bundle",
    type=click.Path(path_type=Path),
    envvar="ENARX_CA_BUNDLE",
    help="Certificates (PEM) to trust instead of the system's: for the Steward, and for outgoing TLS.",
)
@click.option(
    "--invoke", metavar="NAME", help="Call this exported function with ARGS, which are numbers, and print its result."
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds that a server may take to finish with its clients after SIGTERM.",
)
@click.option("--no-cache", is_flag=True, help="Compile anew, and keep no compiled code.")
@click.option("--no-fd-env", is_flag=True, help="Leave FD_COUNT and FD_NAMES out of the environment.")
@click.option("--json", "as_json", is_flag=True, help="Say what happens as JSON lines on standard error.")
def run(
    module: Path,
    args: tuple[str, ...],
    *,
    wasmcfgfile: Path | None,
    env: list[tuple[str, str]],
    directories: list[tuple[Path, str]],
    backend: str,
    ca_bundle: Path | None,
    invoke: str | None,
    grace: float,
    no_cache: bool,
    no_fd_env: bool,
    as_json: bool,
) -> None:
    """Run MODULE, a .wasm or .wat file or a package directory, with ARGS; those that begin with '-' after `--`.

    The program's exit code is this command's. A directory is taken for a package: its main.wasm runs, its Enarx.toml
    configures, everything else is data under /package. Compiled code is kept for the next time.

    \b
      enarx run hello.wasm -- --verbose
      enarx run --wasmcfgfile Enarx.toml --dir .::/data server.wasm
      enarx run --invoke add sums.wat 2 3
      enarx run examples/hello-keep
    """  # noqa: D301 - \b is for click
    from enarx.keep.runtime import Stdio
    from enarx.keep.runtime import run as run_workload

    workload = load(module, wasmcfgfile)
    roots = _read(ca_bundle) if ca_bundle else None
    identity = _identity(workload, roots) if workload.config.uses_tls else None

    def ready(listening: Sequence["Listening"]) -> None:
        _announce(module, backend, listening, as_json=as_json)

    code = run_workload(
        workload,
        identity=identity,
        stdio=Stdio.inherited(),
        extra_args=args,
        extra_env=env,
        preopens=directories,
        fd_env=not no_fd_env,
        roots_pem=roots,
        on_ready=ready,
        invoke=invoke,
        cache=None if no_cache else _cache(),
        grace=grace,
        workload_digest=_digest(module, workload) if workload.config.identity is not None else None,
    )
    if as_json:
        _say({"event": "exit", "source": "program", "code": code})
    sys.exit(code)


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
    from enarx.keep.workload import CONFIG_NAME, WASM_NAME, Workload

    if module.is_dir():
        files = dict(_package(module))
        if config is not None:
            files[CONFIG_NAME] = _read(config)
        return Workload.from_package(files)
    settings = Config() if config is None else Config.parse(_read(config), source=str(config))
    wasm = _read(module)
    if module.suffix == ".wat":
        wasm = _assemble(wasm, module)
    try:
        return Workload(wasm=wasm, config=settings)
    except MalformedError as error:
        raise MalformedError(str(error).replace(WASM_NAME, str(module), 1)) from error


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
            yield path.relative_to(root).as_posix(), _read(path)


def _assemble(text: bytes, source: Path) -> bytes:
    import wasmtime

    try:
        return bytes(wasmtime.wat2wasm(text))
    except wasmtime.WasmtimeError as error:
        raise MalformedError(f"{source}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from error


def _announce(module: Path, backend: str, listening: Sequence["Listening"], *, as_json: bool) -> None:
    """One line on standard error, before the program's first instruction."""
    if as_json:
        sockets = [{"name": at.name, "prot": at.prot, "addr": at.addr, "port": at.port} for at in listening]
        _say({"event": "running", "module": str(module), "backend": backend, "protected": False, "listening": sockets})
        return
    where = "".join(f"; {at.name} listens on {_join(at.addr, at.port)} ({at.prot})" for at in listening)
    click.echo(f"enarx: running {module} in a plain process, {NOTICE}{where}", err=True)


def _join(addr: str, port: int) -> str:
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


def _say(event: dict[str, object]) -> None:
    import json

    click.echo(json.dumps(event), err=True)


def _identity(workload: "Workload", roots: bytes | None) -> "TlsIdentity":
    steward = workload.config.steward
    return self_signed() if steward is None else _certified(steward, roots)


def _certified(steward: str, roots: bytes | None) -> "TlsIdentity":
    """Ask the Steward of the configuration, with the evidence that this process has: none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from enarx.keep.runtime import TlsIdentity
    from enarx.pki import csr, keys
    from enarx.pki.certificate import Extension
    from enarx.steward.client import attest
    from enarx.tee import nil
    from enarx.web.client import Client

    key = keys.generate("P-256")
    request = csr.build(key, [Extension(oid=nil.OID, critical=False, value=b"")])
    with Client(steward, ca_pem=roots) as client:
        chain = attest(client, request)
    pem = b"".join(x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM) for certificate in chain)
    return TlsIdentity(chain_pem=pem, key=key)


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
