"""`enarx deploy`: run a published package in a Keep that proves what it runs.

This process asks the registry what the slug means and starts an empty Keep; everything else happens in there. Standard
output and the exit code are the program's own; what we have to say goes to standard error, a refusal as
`enarx: refused at GATE: …` with the exit code of its family.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from enarx.cli.cache import DEFAULT as CACHE
from enarx.cli.exits import describe, exit_code
from enarx.cli.progress import Activity
from enarx.cli.run import environment
from enarx.cli.store import Store, read_file, store_options
from enarx.errors import DeniedError, MalformedError, NotFoundError, RejectedError, UnavailableError, UntrustedError

if TYPE_CHECKING:
    from enarx.drawbridge.client import Published, Registry
    from enarx.drawbridge.names import PackageSlug
    from enarx.drawbridge.signing import SigningKey
    from enarx.keep.backends import Backend
    from enarx.keep.channel import Hello, Phase
    from enarx.keep.deployment import Order
    from enarx.keep.overrides import DeployConfig
    from enarx.keep.refusal import RefusalError
    from enarx.web.client import Client

TOKEN_VARIABLE: Final = "ENARX_DEPLOY_TOKEN"  # noqa: S105 - the name of a variable, not a secret
SIMULATED: Final = "simulated"
QEMU: Final = "qemu"
GRAMINE: Final = "gramine"
QEMU_TEES: Final[Mapping[str, str]] = {"none": QEMU, "snp": "qemu-snp", "tdx": "qemu-tdx"}
INSIDE: Final = "inside"
_MACHINES: Final = tuple(QEMU_TEES.values())
_FOR: Final[Mapping[str, Sequence[str]]] = {  # which backends an option means something to
    "--tee": (SIMULATED, *_MACHINES),
    "--machine": (SIMULATED,),
    "--image": (GRAMINE, *_MACHINES),
    "--accel": _MACHINES,
    "--collateral": (INSIDE, GRAMINE, QEMU_TEES["snp"], QEMU_TEES["tdx"]),
    "--svsm": (INSIDE,),
    "--signatures": (QEMU_TEES["snp"], GRAMINE),
    "--unsigned": (QEMU_TEES["snp"],),  # an enclave is always signed, and elsewhere there is nothing to sign
}
_NEEDS: Final[Mapping[str, Mapping[str, str]]] = {  # what a backend has to be told, and how to come by it
    SIMULATED: {"--tee": "", "--machine": "; `enarx platform simulate DIR` makes one"},
    GRAMINE: {"--image": "; `enarx image gramine DIR` makes its manifest"},
    **{name: {"--image": "; `enarx image build DIR` makes one"} for name in _MACHINES},
}

_API: Final = re.compile(r"/api/v[0-9.]+/([^/]+)/([^/]+)/_tag/([^/]+)/?")


def _ports(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, int]:
    found = {}
    for value in values:
        name, equals, port = value.rpartition("=")
        if not equals or not name or not re.fullmatch(r"[0-9]{1,5}", port):
            raise click.BadParameter(f"expected NAME=PORT, found {value!r}")
        found[name] = int(port)
    return found


@click.command()
@click.argument("package", metavar="PACKAGE")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--backend",
    envvar="ENARX_BACKEND",
    show_envvar=True,
    help="Where to run, as `enarx platform info` lists it. Default: the strongest that is ready and protects.",
)
@click.option(
    "--tee",
    metavar="NAME",
    help="Which TEE: snp, sgx or tdx with --backend simulated; none, snp or tdx with --backend qemu.",
)
@click.option(
    "--machine",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ENARX_SIMULATED_MACHINE",
    show_envvar=True,
    help="The simulated machine: a directory that `enarx platform simulate` made.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ENARX_IMAGE",
    show_envvar=True,
    help="The image of the virtual machine, with --backend qemu: a directory that `enarx image build` made.",
)
@click.option("--accel", type=click.Choice(["kvm", "tcg"]), help="How QEMU runs a machine without a TEE. Default: tcg.")
@click.option(
    "--collateral",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ENARX_CACHE",
    show_envvar=True,
    help="Vendors' documents for the evidence of a real TEE, as `enarx update-cache` keeps them. Default: its cache.",
)
@click.option(
    "--svsm",
    type=click.Choice(["all", "vtpm"]),
    envvar="ENARX_SVSM",
    show_envvar=True,
    help="Have the SVSM beneath this guest vouch, for all its services or for its virtual TPM.",
)
@click.option(
    "--signatures",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of `enarx sign`: who answers for this launch, instead of what lies in the image.",
)
@click.option("--unsigned", is_flag=True, default=None, help="Launch a signed image without its signature (SEV-SNP).")
@click.option("--insecure", is_flag=True, help="Accept a backend that protects nothing from this machine.")
@click.option(
    "--steward",
    envvar="ENARX_STEWARD",
    show_envvar=True,
    metavar="URL",
    help="The Steward to ask, instead of the one that the registry names.",
)
@click.option(
    "--steward-ca",
    type=click.Path(path_type=Path),
    envvar="ENARX_STEWARD_CA",
    show_envvar=True,
    help="CA certificates (PEM) of the Stewards that you accept; the Keep refuses a certificate of another.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help=f"A deploy token for a private package (- is standard input). Default: {TOKEN_VARIABLE}.",
)
@click.option(
    "--require-signer",
    "signers",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="KEY",
    help="Refuse a version that was not signed with this key (PEM or JWK; repeatable: one of them is enough).",
)
@click.option(
    "--env",
    multiple=True,
    callback=environment,
    metavar="NAME=VALUE",
    help="Set a variable of the program, if the package allows it (repeatable).",
)
@click.option(
    "--port",
    "ports",
    multiple=True,
    callback=_ports,
    metavar="NAME=PORT",
    help="Move a listener of the program to another port, if the package allows it (repeatable).",
)
@click.option(
    "--allow-incoming", multiple=True, metavar="PORTS", help="Narrow where the program may listen (repeatable)."
)
@click.option(
    "--allow-outgoing", multiple=True, metavar="HOST:PORTS", help="Narrow whom the program may reach (repeatable)."
)
@store_options
def deploy(
    store: Store,
    package: str,
    args: tuple[str, ...],
    *,
    backend: str | None,
    tee: str | None,
    machine: Path | None,
    image: Path | None,
    accel: str | None,
    collateral: Path | None,
    svsm: str | None,
    signatures: Path | None,
    unsigned: bool | None,
    insecure: bool,
    steward: str | None,
    steward_ca: Path | None,
    token_file: Path | None,
    signers: tuple[Path, ...],
    env: list[tuple[str, str]],
    ports: dict[str, int],
    allow_incoming: tuple[str, ...],
    allow_outgoing: tuple[str, ...],
) -> None:
    """Run PACKAGE, published as [HOST/]USER/REPOSITORY:TAG[@DIGEST], in a Keep, with ARGS after `--`.

    An empty Keep is started. It makes its keys, has the TEE vouch for them and for the digest of the package, gets a
    certificate for that from the Steward, and with it the package from the registry, which this machine never sees.
    What is changed here (arguments, variables, ports, network), as far as the package allows it, is bound to the
    certificate, too: its digest is printed, and `enarx verify --config-digest` compares it. The exit code is the
    program's.

    \b
      enarx deploy registry.example/alice/web:1.0.0
      enarx deploy registry.example/alice/web:1.0.0@sha-256:0f3b… -- --verbose
      enarx deploy --insecure --backend nil registry.example/alice/web:1.0.0
    """  # noqa: D301 - \b is for click
    from enarx.keep import launch
    from enarx.keep.backends import Wishes
    from enarx.keep.overrides import DeployConfig
    from enarx.keep.refusal import RefusalError

    slug = parse_package(package)
    host, token = store.host(slug.host), _token(token_file)
    keys = _keys(signers)
    config = DeployConfig.of(
        args=args or None,
        env=dict(env),
        ports=ports,
        incoming=allow_incoming or None,
        outgoing=allow_outgoing or None,
        signers=[key.public_pem().decode() for key in keys],
    )
    with Activity(quiet=store.as_json) as activity:
        teller = Teller(activity, as_json=store.as_json)
        try:
            place = _chosen(_backend(backend, tee), store, host, slug, token, insecure=insecure)
            _require_wishes(
                place.name,
                {
                    "--tee": tee,
                    "--machine": machine,
                    "--image": image,
                    "--accel": accel,
                    "--collateral": collateral,
                    "--svsm": svsm,
                    "--signatures": signatures,
                    "--unsigned": unsigned,
                },
            )
            collateral = collateral or (CACHE if CACHE.is_dir() else None)
            wishes = Wishes(
                technology=tee,
                machine=None if machine is None else str(machine),
                image=None if image is None else str(image),
                accel=accel,
                documents=str(collateral) if collateral is not None and place.name in _FOR["--collateral"] else None,
                svsm=svsm,
                signatures=None if signatures is None else str(signatures),
                unsigned=bool(unsigned),
            )
            teller.launching(place)
            terminal = launch.Terminal(stdin=0, stdout=1, stderr=2)
            watcher = launch.Watcher(hello=teller.hello, phase=teller.phase)
            ask = partial(_order, store, host, slug, config, steward, steward_ca, token, keys, teller)
            code = launch.deploy(ask, place, wishes, terminal, watcher)
        except RefusalError as error:
            teller.refused(error)
        teller.ended(code)
        sys.exit(code)


class Teller:
    """Says on standard error what happens: lines for people, or JSON lines with the milliseconds since the start.

    Between two lines `activity` shows what is waited for, until the program has the terminal.
    """

    def __init__(self, activity: Activity, *, as_json: bool) -> None:
        self._activity = activity
        self._as_json = as_json
        self._began = time.monotonic()

    def ordered(self, order: "Order") -> None:
        config = None if order.config_digest is None else f"sha-256:{order.config_digest.hex()}"
        self._say(
            {"event": "ordered", "slug": order.slug, "workload": str(order.digest), "steward": order.steward}
            | ({"config": config} if config else {}),
            f"{order.slug} is {order.digest}; Steward {order.steward}",
            *([f"deploy configuration {config}"] if config else []),
        )
        self._activity.now("waiting for the Keep to start")

    def launching(self, backend: "Backend") -> None:
        protected = backend.protects is not None
        self._say(
            {"event": "launching", "backend": backend.name, "protected": protected},
            f"a Keep in {backend.title}"
            + ("" if protected else ", NOTHING IS PROTECTED: this machine sees the program, its data and its keys"),
        )
        self._activity.now(f"asking the registry, while a Keep starts in {backend.name}")

    def hello(self, hello: "Hello") -> None:
        self._say(
            {"event": "hello", "technology": hello.technology, "measurement": hello.measurement},
            f"it measures {hello.measurement}" if hello.measurement else "nothing measures it",
        )
        self._activity.now("the Keep has its TEE vouch for it, and the Steward certify it")

    def phase(self, phase: "Phase") -> None:
        facts = {_printable(name): _printable(text) for name, text in phase.facts.items()}
        lines = _LINES[phase.phase](facts) if phase.phase in _LINES else []
        if phase.phase == "running":
            self._activity.end()
        elif phase.phase in _NEXT:
            self._activity.now(_NEXT[phase.phase])
        self._say({"event": "phase", "phase": _printable(phase.phase), "facts": facts}, *lines)

    def refused(self, error: "RefusalError") -> NoReturn:
        """Say at which gate, by whom, and why; exit with the code of the family."""
        cause = error.cause
        reasons = [f"  - {reason}" for reason in cause.reasons] if isinstance(cause, RejectedError) else []
        self._say(
            {"event": "refused", "source": "keep", "gate": error.gate, **describe(cause)},
            f"refused at {error.gate}: {cause}",
            *(reasons if len(reasons) > 1 else []),
        )
        sys.exit(exit_code(cause))

    def ended(self, code: int) -> None:
        self._say({"event": "exit", "source": "program", "code": code})

    def _say(self, event: Mapping[str, object], *lines: str) -> None:
        if self._as_json:
            since = round((time.monotonic() - self._began) * 1000)
            click.echo(json.dumps({**event, "ms": since}, ensure_ascii=False), err=True)
            return
        with self._activity.aside():
            for line in lines:
                click.echo(line if line.startswith(" ") else f"enarx: {line}", err=True)


def _sandboxed(facts: Mapping[str, str]) -> Sequence[str]:
    return [f"warning: {facts['warning']}"] if "warning" in facts else []


def _certified(facts: Mapping[str, str]) -> Sequence[str]:
    kind = " SIMULATED" if facts.get("simulated") == "true" else ""
    what = f"{facts.get('technology', 'nothing')}{kind} ({facts.get('tcb', 'no attestation result')})"
    return [f"certified by {facts.get('issuer', '?')} as {what} until {facts.get('until', '?')}"]


def _running(facts: Mapping[str, str]) -> Sequence[str]:
    lines = ["running"]
    for name, text in facts.items():
        prot, addr, port = [*text.split(" "), "?", "?"][:3]
        lines.append(f"{name} listens on {f'[{addr}]' if ':' in addr else addr}:{port} ({prot})")
    return lines


_LINES: Final[Mapping[str, Callable[[Mapping[str, str]], Sequence[str]]]] = {
    "sandboxed": _sandboxed,
    "certified": _certified,
    "certified again": _certified,
    "renewed": _certified,
    "released": lambda facts: [f"released to this Keep: {facts.get('files')} files, {facts.get('bytes')} bytes"],
    "running": _running,
    "warning": lambda facts: [f"warning: {text}" for text in facts.values()],
}


_NEXT: Final[Mapping[str, str]] = {  # what is waited for after a phase
    "certified": "the Keep fetches the package and checks every hash",
    "certified again": "the program is compiled",
    "released": "the program is compiled",
}


def _order(
    store: Store,
    host: str,
    slug: "PackageSlug",
    config: "DeployConfig",
    steward: str | None,
    steward_ca: Path | None,
    token: str | None,
    keys: "Sequence[SigningKey]",
    teller: Teller,
) -> "Order":
    """What the Keep is told: ask the registry what the slug means. Raises RefusalError."""
    from enarx.keep.deployment import Order
    from enarx.keep.refusal import gate

    with gate("tag"):
        published, token = _published(store, host, slug, token, keys)
        workload = published.entry.sha256
        if workload is None:
            raise MalformedError(f"{host}: {slug}: the tag names no SHA-256, which certificates carry")
        if published.steward is None and steward is None:
            raise MalformedError(f"{host}: names no Steward for {slug}; name one with --steward")
    roots, accepted = store.ca_pem(), None if steward_ca is None else read_file(steward_ca)
    order = Order(
        slug=str(replace(slug, host=host, tag=published.name, digest=None)),
        digest=workload,
        steward=(steward or published.steward or "").rstrip("/"),
        drawbridge=f"https://{host}",
        steward_roots=roots if accepted is None else (roots or _system_roots()) + b"\n" + accepted,
        drawbridge_roots=roots,
        steward_ca=accepted,
        token=token,
        config=config.encode() or None,
    )
    teller.ordered(order)
    return order


def _chosen(
    name: str | None, store: Store, host: str, slug: "PackageSlug", token: str | None, *, insecure: bool
) -> "Backend":
    """The backend. Who asked for what is not there is told that first, rather than what this machine lacks for it."""
    from enarx.drawbridge.client import Registry
    from enarx.keep import launch
    from enarx.keep.refusal import RefusalError, gate

    try:
        return launch.choose(name, insecure=insecure)
    except RefusalError as refusal:
        try:
            with gate("tag"), _client(store, host, token) as http:
                Registry(http).tag(slug)
        except RefusalError as missing:
            if not isinstance(missing.cause, UnavailableError):
                raise missing from missing.cause
        raise refusal from refusal.cause


def _client(store: Store, host: str, token: str | None) -> "Client":
    return store.connect(host) if token is None else store.client(host, token)


def parse_package(text: str) -> "PackageSlug":
    """A slug, or the URL of a tag. Raises MalformedError."""
    from enarx.drawbridge.names import PackageSlug

    parts = urlsplit(text)
    if parts.scheme == "https" and parts.netloc:
        found = _API.fullmatch(parts.path)
        if found is None:
            raise MalformedError(
                f"package: expected https://HOST/api/v0.1.0/USER/REPOSITORY/_tag/TAG, found {text[:200]!r}"
            )
        return PackageSlug.parse(f"{parts.netloc}/{found[1]}/{found[2]}:{found[3]}")
    if parts.scheme in {"http", "file"} and text.startswith(f"{parts.scheme}:/"):
        hint = "; `enarx run` takes local files" if parts.scheme == "file" else ""
        raise MalformedError(
            f"package: expected [HOST/]USER/REPOSITORY:TAG or an https URL, found {text[:200]!r}{hint}"
        )
    try:
        return PackageSlug.parse(text)
    except MalformedError as error:
        if text.startswith((".", "/", "~")) or Path(text).exists():
            raise MalformedError(
                f"package: expected [HOST/]USER/REPOSITORY:TAG, found the path {text[:200]!r}; "
                "`enarx run` takes local files"
            ) from error
        raise


def _published(
    store: Store, host: str, slug: "PackageSlug", token: str | None, keys: "Sequence[SigningKey]"
) -> "tuple[Published, str | None]":
    """What the registry says of the version, signed by one of `keys` if there are any; the deploy token for the Keep.

    We ask as the deploy token that was given; else as whoever is logged in, who gets a token for this workload, ten
    minutes long, where the repository is private: the Keep never sees a user's own token. Else as nobody.
    """
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.tag import subject_of

    with _client(store, host, token) as http:
        registry = Registry(http)
        published = registry.tag(slug)
        if published.yanked is not None:
            raise RejectedError(f"{host}: {slug} was yanked: {published.yanked or 'no reason is given'}")
        if keys:
            published.tag.verify(keys, subject_of(slug.user, slug.repository, published.name))
        if token is None and not http.anonymous:
            token = _made_token(registry, slug, published)
    return published, token


def _keys(files: Sequence[Path]) -> "Sequence[SigningKey]":
    from enarx.drawbridge.signing import SigningKey

    return [SigningKey.parse(str(file), read_file(file)) for file in files]


def _made_token(registry: "Registry", slug: "PackageSlug", published: "Published") -> str | None:
    """A token for this workload. None where none is needed, or where who is logged in may read and not make any."""
    from enarx.drawbridge.management import Management, Place

    workload = published.entry.sha256
    try:
        if workload is None or registry.repository(slug.user, slug.repository):
            return None
        place = Place(user=slug.user, repository=slug.repository)
        return Management(registry).make_token(place, digest=workload, label="enarx deploy").text
    except (DeniedError, UntrustedError, NotFoundError):
        return None  # an older registry has no such thing; a certificate may be enough


def _backend(name: str | None, tee: str | None) -> str | None:
    """Whoever names a TEE without a backend means the simulated one; QEMU has a backend for each."""
    if name in {QEMU, "kvm"} and tee is not None:
        if tee not in QEMU_TEES:
            raise click.UsageError(f"--tee: expected one of {', '.join(QEMU_TEES)} with --backend qemu, found {tee!r}")
        return QEMU_TEES[tee]
    return SIMULATED if name is None and tee is not None else name


def _require_wishes(backend: str, given: Mapping[str, str | Path | bool | None]) -> None:
    """Options that would do nothing are a mistake, variables are not; and what a backend needs has to be named."""
    source = click.get_current_context().get_parameter_source
    said = {name for name in given if source(name.removeprefix("--")) is ParameterSource.COMMANDLINE}
    for option in given:
        if option in said and backend not in _FOR[option]:
            raise click.UsageError(f"{option} is for --backend {', '.join(_FOR[option])}")
    if given["--signatures"] is not None and given["--unsigned"]:
        raise click.UsageError("--signatures FILE or --unsigned, not both")
    collateral = given["--collateral"]
    if "--collateral" in said and isinstance(collateral, Path) and not collateral.is_dir():
        raise NotFoundError(f"--collateral: {collateral}: no such directory; `enarx update-cache` fills one")
    for option, advice in _NEEDS.get(backend, {}).items():
        if given[option] is None:
            raise click.UsageError(f"--backend {backend} needs {option}{advice}")


def _token(file: Path | None) -> str | None:
    text = os.environ.get(TOKEN_VARIABLE) if file is None else read_file(file).decode("ascii", "replace")
    token = (text or "").strip()
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise MalformedError("deploy token: expected one word of printable ASCII")
    return token or None


def _system_roots() -> bytes:
    """What this system trusts, as PEM, to be trusted beside the Steward's own CA."""
    import ssl

    context = ssl.create_default_context()
    return "".join(ssl.DER_cert_to_PEM_cert(item) for item in context.get_ca_certs(binary_form=True)).encode()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:500])
