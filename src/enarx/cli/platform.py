"""`enarx platform`: what this machine can do for Keeps, and machines in software to try everything with."""

import json
import platform as system
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from enarx import __version__
from enarx.cli.lazy import Lazy, LazyGroup

if TYPE_CHECKING:
    from enarx.keep.backends import Datum, Standing


NOTHING_READY: Final = 69


@click.group(
    cls=LazyGroup,
    lazy={
        "snp": Lazy("enarx.cli.cache:snp", "AMD SEV-SNP: the certificate of this chip, and AMD's lists."),
        "sgx": Lazy("enarx.cli.cache:sgx", "Intel SGX: Intel's lists and documents."),
        "tdx": Lazy("enarx.cli.cache:tdx", "Intel TDX: Intel's lists and documents."),
        "setup": Lazy("enarx.cli.cache:setup", "Prepare this machine: registration, and vendors' documents."),
        "link": Lazy("enarx.cli.link:link", "A network for an AWS Nitro enclave, through its instance."),
        "update-cache": Lazy("enarx.cli.cache:update_cache", "Fetch vendors' documents anew."),
    },
)
def platform() -> None:
    """What this machine can do, and simulated machines."""


@platform.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="Print for programs.")
def info(as_json: bool) -> None:
    """Explain every backend on this machine: what it needs, what was found, and from whom it protects.

    The first one that is ready and protects is what `enarx deploy` takes unless it is told otherwise.
    """
    from enarx.keep.backends import BACKENDS, Standing

    standings = _resolved([Standing.of(backend) for backend in BACKENDS])
    if as_json:
        click.echo(json.dumps(_to_json(standings), indent=2))
        return
    click.echo(f"enarx {__version__}\n{_uname()}")
    for standing in standings:
        for line in _lines(standing):
            click.echo(line)


def _resolved(standings: "Sequence[Standing]") -> "Sequence[Standing]":
    """The first generation's names stand as the backends do that launch for them."""
    from enarx.keep.backends.hosts import Host

    ready = {each.backend.name: each.have and each.configured for each in standings}

    def resolve(standing: "Standing") -> "Standing":
        if not isinstance(standing.backend, Host):
            return standing
        *hardware, launcher = standing.data
        return replace(standing, data=(*hardware, replace(launcher, ok=ready[standing.backend.successor])))

    return [resolve(standing) for standing in standings]


@platform.command()
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def doctor(as_json: bool) -> None:
    """Say what would have to change on this machine for each backend, and which one `enarx deploy` would take.

    The first generation's names are no backends of their own; `enarx platform info` tells what they mean here.

    Exits with 69 when none is ready that protects anything.
    """
    from enarx.keep.backends import BACKENDS, Standing
    from enarx.keep.backends.hosts import Host

    standings = [Standing.of(backend) for backend in BACKENDS]
    ready = [each for each in standings if each.have and each.configured and each.backend.protects is not None]
    missing = {each.backend.name: _missing(each.data) for each in standings if not isinstance(each.backend, Host)}
    chosen = ready[0].backend.name if ready else None
    if as_json:
        click.echo(json.dumps({"chosen": chosen, "missing": missing}, indent=2))
    else:
        click.echo(f"`enarx deploy` takes {chosen}." if chosen else "No backend here protects anything.")
        for name, lines in missing.items():
            for line in lines or ["ready"]:
                click.echo(f"{name}: {line}")
    sys.exit(0 if ready else NOTHING_READY)


def _missing(data: "Sequence[Datum]") -> list[str]:
    """What stands between this machine and a Keep, a line each."""
    return [
        f"{datum.name}: {datum.advice or datum.info or 'not here'}"
        for datum in data
        if not datum.ok and (datum.required or datum.advice)
    ]


@platform.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--revoke",
    metavar="TECHNOLOGY.WHAT",
    multiple=True,
    help="Have the vendor take something back, such as snp.ask or sgx.pck (repeatable).",
)
@click.option(
    "--fault",
    type=click.Choice(["none", "flipped-bit", "other-key"]),
    help="Make the machines lie: flip a bit of each report, or vouch for another key; none makes them honest again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def simulate(directory: Path, *, revoke: Sequence[str], fault: str | None, as_json: bool) -> None:
    """Make simulated TEE vendors and machines in DIRECTORY, or have those there publish fresh documents.

    For `enarx deploy --backend simulated --machine DIRECTORY --insecure`. The Steward that is to accept such Keeps gets
    DIRECTORY/steward.toml, which names the vendors' roots and collateral under [unsafe] and lists the measurement of
    this installation; of the keys it gets none. They prove nothing, and certificates for them say so.

    \b
      enarx platform simulate sim
      steward serve --dev --config sim/steward.toml --write-ca ca.pem
      enarx deploy --insecure --backend simulated --tee snp --machine sim --steward-ca ca.pem HOST/USER/REPO:TAG
      enarx platform simulate sim --revoke snp.ask      # from now on it is refused
    """  # noqa: D301 - \b is for click
    from enarx.keep import measurement
    from enarx.keep.backends.simulated import MARK, Directory, as_fault

    at = datetime.now(UTC)
    made = not (directory / MARK).exists()
    if made:
        found = Directory.create(directory, at, measurement.of_agent)
    else:
        found = Directory.open(directory)
        found.publish(at)
        found.write_steward_toml(measurement.of_agent)
    for name in revoke:
        found.revoke(name, at)
    if fault is not None:
        found.set_fault(as_fault(fault))
    facts = found.facts(measurement.of_agent)
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "created": made, **facts}, indent=2))
        return
    click.echo(f"{'Made' if made else 'Published anew in'} {directory}: simulated {', '.join(facts['technologies'])}.")
    click.echo(f"For the Steward:  {directory / 'steward.toml'}")
    for technology, measured in facts["measurements"].items():
        click.echo(f"{technology} measures {measured}")
    if facts["fault"] != "none":
        click.echo(f"FAULT: {facts['fault']}")


def _uname() -> str:
    return " ".join(system.uname())


def _lines(standing: "Standing") -> Iterator[str]:
    backend = standing.backend
    yield ""
    also = "".join(f", also called {alias}" for alias in _aliases(backend.name))
    yield f"{_mark(standing.have and standing.configured)} Backend: {backend.name} ({backend.title}{also})"
    yield f"   protects from: {backend.protects or 'nobody: this machine sees everything'}"
    yield from _tree(standing.data, 3)


def _tree(data: "Sequence[Datum]", depth: int) -> Iterator[str]:
    for datum in data:
        yield f"{' ' * depth}{_mark(datum.ok)} {datum.name}{f': {datum.info}' if datum.info else ''}"
        if datum.advice and not datum.ok:
            yield f"{' ' * depth}  {datum.advice}"
        yield from _tree(datum.below, depth + 2)


def _aliases(name: str) -> list[str]:
    from enarx.keep.launch import ALIASES

    return [alias for alias, meant in ALIASES.items() if meant == name]


def _mark(ok: bool) -> str:
    return click.style("✔", fg="green") if ok else click.style("✗", fg="red")


def _to_json(standings: "Sequence[Standing]") -> dict[str, Any]:  # Any: JSON
    """The originals' members with ours beside them; their absent texts are the word `null`."""
    return {
        "version": __version__,
        "system_info": _uname(),
        "backends": [
            {
                "backend": standing.backend.name,
                "aliases": _aliases(standing.backend.name),
                "title": standing.backend.title,
                "protects": standing.backend.protects,
                "have": standing.have,
                "configured": standing.configured,
                "data": [_node(datum) for datum in standing.data if not datum.configuration],
                "configuration": [_node(datum) for datum in standing.data if datum.configuration],
            }
            for standing in standings
        ],
    }


def _node(datum: "Datum") -> dict[str, Any]:  # Any: JSON
    return {
        "name": datum.name,
        "pass": datum.ok,
        "info": datum.info or "null",
        "mesg": datum.advice or "null",
        "data": [_node(below) for below in datum.below],
    }
