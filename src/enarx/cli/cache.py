"""`enarx platform snp|sgx|tdx …` and `update-cache`: vendors' documents, kept on the machine where Keeps run.

One directory holds them all, as `steward collateral` keeps them: a document whose number is lower than one seen before
is refused, one whose signature is wrong is not taken. `enarx deploy` sends what fits along with the evidence.
"""

import json
import platform as system
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from enarx.cli.registration import EFIVARS, Firmware, Registrar, register
from enarx.errors import EnarxError, MalformedError, NotFoundError

if TYPE_CHECKING:
    from enarx.steward.stock import Stock, Wanted
    from enarx.steward.vendors import Kds, Pcs

DEFAULT: Final = Path("/var/cache/enarx")
VARIABLE: Final = "ENARX_CACHE"
FILE: Final = click.Path(path_type=Path)
PRODUCTS: Final = ("Milan", "Genoa", "Turin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Where documents are kept, and whom to ask for them."""

    directory: Path
    kds: str | None
    pcs: str | None
    ca: Path | None
    anchors: tuple[Path, ...]
    as_json: bool

    def stock(self) -> "Stock":
        from enarx.steward.config import read_anchor
        from enarx.steward.highest import FILE as HIGHEST
        from enarx.steward.highest import Highest
        from enarx.steward.policy import argument_anchors
        from enarx.steward.stock import Stock
        from enarx.tee import TECHNOLOGIES

        known = [each for technology in TECHNOLOGIES for each in technology.anchors()]
        known += [each for path in self.anchors for each in argument_anchors(read_anchor(path))]
        return Stock(self.directory, known, Highest(self.directory / HIGHEST))

    @contextmanager
    def services(self) -> "Iterator[tuple[Kds, Pcs]]":
        """AMD's and Intel's, or whoever speaks as they do."""
        from enarx.steward.vendors import KDS, PCS, ROOT_CRLS, Kds, Origin, Pcs
        from enarx.web.client import Client
        from enarx.web.files import read_file

        trusted = None if self.ca is None else read_file(self.ca)
        with ExitStack() as stack:

            def origin(url: str) -> Origin:
                return Origin(client=stack.enter_context(Client(url, ca_pem=trusted)))

            roots = origin(ROOT_CRLS) if self.pcs is None else None
            yield Kds(origin(self.kds or KDS)), Pcs(origin(self.pcs or PCS), roots)

    def refresh(self, wanted: "Wanted", beside: Mapping[str, Path] = MappingProxyType({})) -> None:
        """Fetch what is wanted, and say where it is now, and what is `beside` it."""
        self.prepare()
        kept = []
        with self.services() as (kds, pcs):
            for item in self.stock().refresh(wanted, kds, pcs):
                if isinstance(item, str):
                    click.echo(f"enarx: {item}", err=True)
                else:
                    kept.append(item)
        found = [(source, file, "") for source, file in beside.items()]
        found += [(each.source, each.target, each.note) for each in kept]
        if self.as_json:
            listed = [{"source": source, "file": str(file), "note": note} for source, file, note in found]
            click.echo(json.dumps({"documents": listed}, indent=2))
            return
        for source, file, note in found:
            click.echo(f"{source} → {file}{f'  ({note})' if note else ''}")

    def chip_certificate(self) -> Path:
        """The file with the certificate of this machine's chip, fetched if need be."""
        from enarx.keep.backends import chip, guest, sevhost
        from enarx.keep.backends.hosts import Roots

        self.prepare()
        roots = Roots()
        host = (lambda: sevhost.chip(roots)) if sevhost.present(roots) else None
        with self.services() as (kds, _):
            return guest.chip_certificate(self.directory, lambda which: chip.from_amd(which, kds), host=host)

    def prepare(self) -> None:
        """The directory, made and writable. Raises NotFoundError before anybody is asked for anything."""
        from enarx.web.files import require_folder

        try:
            require_folder(self.directory)
        except NotFoundError as error:
            raise NotFoundError(f"{error}; name another with --directory") from None  # it says all


def cache_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the cache; it gets them as `cache`."""

    @click.option(
        "-d",
        "--directory",
        type=FILE,
        default=DEFAULT,
        envvar=VARIABLE,
        show_envvar=True,
        show_default=True,
        help="Where documents are kept.",
    )
    @click.option("--kds", metavar="URL", help="AMD's service, or one that speaks as it does.")
    @click.option("--pcs", metavar="URL", help="Intel's service, or a PCCS.")
    @click.option("--ca", type=FILE, help="CAs (PEM) of these servers, if the system does not know them.")
    @click.option("--anchor", "anchors", type=FILE, multiple=True, help="A root to know beside the vendors'.")
    @click.option("--json", "as_json", is_flag=True, help="Print for programs.")
    def wrapper(**named: Any) -> None:  # Any: click's
        cache = Cache(**{name: named.pop(name) for name in Cache.__dataclass_fields__})
        command(cache, **named)

    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    wrapper.__click_params__ = [  # type: ignore[attr-defined]  # click's own: the order of decorators, kept
        *getattr(wrapper, "__click_params__", []),
        *getattr(command, "__click_params__", []),
    ]
    return wrapper


@click.group()
def snp() -> None:
    """AMD SEV-SNP: the certificate of this machine's chip, and AMD's lists."""


@snp.command("cache-crl")
@click.option(
    "--product", "products", multiple=True, type=click.Choice(PRODUCTS, case_sensitive=False), help="Default: all."
)
@cache_options
def snp_cache_crl(cache: Cache, *, products: Sequence[str]) -> None:
    """Fetch chains and CRLs of AMD's products into the cache."""
    from enarx.steward.stock import Wanted

    cache.refresh(Wanted(products=tuple(products) or PRODUCTS))


@snp.command()
@cache_options
def update(cache: Cache) -> None:
    """Fetch the VCEK of this machine's chip into the cache, unless it is there.

    In an SEV-SNP guest it is the chip that the guest runs on, in Azure too, whose own service gives it; on a host of such
    guests, the chip in its first socket.
    """
    found = cache.chip_certificate()
    click.echo(json.dumps({"file": str(found)}) if cache.as_json else str(found))


@snp.command()
@click.option("--file", "path_only", is_flag=True, help="Print where it is instead.")
@cache_options
def vcek(cache: Cache, *, path_only: bool) -> None:
    """Print the cached VCEK (PEM)."""
    from enarx.pki.certificate import Certificate

    found = _vcek(cache.directory)
    if found is None and path_only:
        click.echo("No cache file found.", err=True)
        return
    if found is None:
        raise NotFoundError(f"{cache.directory}: no VCEK; `enarx platform snp update` fetches it")
    pem = Certificate.parse(found.read_bytes(), str(found)).to_pem().decode()
    if cache.as_json:
        click.echo(json.dumps({"file": str(found), "certificate": pem}))
        return
    click.echo(str(found) if path_only else pem, nl=path_only)


@click.group()
def sgx() -> None:
    """Intel SGX: Intel's lists and documents."""


@click.group()
def tdx() -> None:
    """Intel TDX: Intel's lists and documents."""


def _intel(group: click.Group, tee: Literal["sgx", "tdx"]) -> None:
    @group.command("cache-crl", help="Fetch the CRLs of Intel's root and PCK CAs, and the QE identity, into the cache.")
    @cache_options
    def cache_crl(cache: Cache) -> None:
        from enarx.steward.stock import Wanted

        cache.refresh(Wanted(tees=(tee,)))

    @group.command("cache-tcb", help="Fetch the TCB info of platform families, and what belongs to it, into the cache.")
    @click.option(
        "--fmspc",
        "fmspcs",
        multiple=True,
        callback=_fmspcs,
        help="6 bytes in hexadecimal (repeatable). Default: those held.",
    )
    @cache_options
    def cache_tcb(cache: Cache, *, fmspcs: tuple[bytes, ...]) -> None:
        from enarx.steward.stock import Wanted

        wanted = fmspcs or cache.stock().wanted().fmspcs
        if not wanted:
            raise click.UsageError("which platform family? The cache holds none: name it with --fmspc")
        cache.refresh(Wanted(tees=(tee,), fmspcs=wanted))


@sgx.command("cache-pck")
@click.option("--ids", type=FILE, help="What PCKIDRetrievalTool wrote, instead of calling it here.")
@click.option("--subscription-key", type=FILE, help="A file with the key that Intel's service may want.")
@cache_options
def cache_pck(cache: Cache, *, ids: Path | None, subscription_key: Path | None) -> None:
    """Fetch the certificate of this platform's key into the cache, and print its family (FMSPC).

    `cache-tcb` and `update-cache` then know which family to fetch for.
    """
    from enarx.cli import pck

    cache.prepare()
    key = None if subscription_key is None else pck.read_key(subscription_key)
    with cache.services() as (_, pcs):
        kept, fmspc = pck.fetch(cache.stock(), pcs, ids, key)
    if cache.as_json:
        files = [{"source": each.source, "file": str(each.target), "note": each.note} for each in kept]
        click.echo(json.dumps({"fmspc": fmspc.hex().upper(), "documents": files}, indent=2))
        return
    for each in kept:
        click.echo(f"{each.source} → {each.target}")
    click.echo(f"FMSPC {fmspc.hex().upper()}")


def _fmspcs(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[bytes, ...]:
    for value in values:
        if not re.fullmatch(r"[0-9a-fA-F]{12}", value):
            raise click.BadParameter(f"expected 6 bytes in hexadecimal, found {value!r}")
    return tuple(bytes.fromhex(value) for value in values)


_intel(sgx, "sgx")
_intel(tdx, "tdx")


@click.command("update-cache")
@click.option("--vendor", type=click.Choice(["amd", "intel"]), help="Default: that of this machine's processor.")
@cache_options
def update_cache(cache: Cache, *, vendor: str | None) -> None:
    """Fetch anew what the cache holds, and what every machine of this vendor needs.

    With AMD that is also the certificate of this machine's chip, where it is of SEV-SNP: a new one after each update of
    the firmware. A processor of anybody else's needs nothing but what the cache holds.
    """
    maker = vendor or _maker()
    if maker is None:
        what = f"this processor ({system.machine()}) is neither AMD's nor Intel's"
        click.echo(f"enarx: {what}: only what the cache holds is fetched anew", err=True)
    _update(cache, maker)


def _update(cache: Cache, maker: str | None) -> None:
    """What cannot be had of the chip keeps nothing else from being fetched, and is raised at the end."""
    from enarx.keep.backends.chip import NoChipError
    from enarx.steward.stock import Wanted

    beside: dict[str, Path] = {}
    failure: EnarxError | None = None
    if maker == "amd":
        try:
            beside["certificate of this chip"] = cache.chip_certificate()
        except NoChipError as error:
            click.echo(f"enarx: no certificate of a chip: {error}", err=True)
        except EnarxError as error:
            failure = error
    held = cache.stock().wanted()
    products = (*held.products, *(PRODUCTS if maker == "amd" else ()))
    tees = (*held.tees, *(("sgx", "tdx") if maker == "intel" else ()))
    wanted = Wanted(products=tuple(dict.fromkeys(products)), tees=tuple(dict.fromkeys(tees)), fmspcs=held.fmspcs)
    try:
        cache.refresh(wanted, beside)
    except EnarxError as error:
        if failure is not None and str(failure) != str(error):
            click.echo(f"enarx: {failure}", err=True)
        raise
    if failure is not None:
        raise failure


sgx.add_command(register)


@click.command()
@click.option("--vendor", type=click.Choice(["amd", "intel"]), help="Default: that of this machine's processor.")
@click.option("--efivars", type=FILE, default=EFIVARS, show_default=True, help="Where the firmware's variables are.")
@click.option("--registration", metavar="URL", help="Intel's registration service, or one that speaks as it does.")
@cache_options
def initialize(cache: Cache, *, vendor: str | None, efivars: Path, registration: str | None) -> None:
    """Have the vendor know this machine: fetch the certificate of its chip (AMD), or register it (Intel).

    It is the first step of `enarx platform setup`, alone.
    """
    if (vendor or _vendor()) == "amd":
        done = [str(cache.chip_certificate())]
    else:
        done = list(Firmware(efivars=efivars).register(Registrar(service=registration, ca=cache.ca)))
    click.echo(json.dumps({"done": done}) if cache.as_json else "\n".join(done))


@click.command()
@click.option("--vendor", type=click.Choice(["amd", "intel"]), help="Default: that of this machine's processor.")
@click.option("--efivars", type=FILE, default=EFIVARS, show_default=True, help="Where the firmware's variables are.")
@click.option("--registration", metavar="URL", help="Intel's registration service, or one that speaks as it does.")
@cache_options
def setup(cache: Cache, *, vendor: str | None, efivars: Path, registration: str | None) -> None:
    """Prepare this machine: fetch its chip's certificate or register it with its vendor, and fetch vendors' documents.

    An Intel platform is registered if its firmware asks for that. It says each step. Nothing is changed but the cache,
    which has to be writable, and what the firmware is told of its registration.
    """
    maker = vendor or _vendor()
    if maker == "intel":
        try:
            done = list(Firmware(efivars=efivars).register(Registrar(service=registration, ca=cache.ca)))
        except NotFoundError as error:
            done = [f"not registered: {error}"]
        for line in done:
            click.echo(line, err=True)
    click.echo(f"documents of {maker} go to {cache.directory}", err=True)
    _update(cache, maker)


def _vendor() -> str:
    found = _maker()
    if found is None:
        raise MalformedError(f"this processor ({system.machine()}) is neither AMD's nor Intel's; say --vendor")
    return found


def _maker() -> str | None:
    """Who made this machine's processor, if it is one whose documents there are."""
    from enarx.keep.backends import hosts

    return {"AuthenticAMD": "amd", "GenuineIntel": "intel"}.get(hosts.cpu_vendor(hosts.Roots()))


def _vcek(directory: Path) -> Path | None:
    """The newest file of the cache that is a VCEK."""
    from enarx.pki.certificate import Certificate

    for file in sorted(directory.glob("*.der"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            if Certificate.parse(file.read_bytes()).common_name == "SEV-VCEK":
                return file
        except MalformedError:
            continue
    return None
