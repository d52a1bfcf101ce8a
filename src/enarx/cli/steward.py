"""`steward`: serve certificates for evidence, judge evidence offline, and look after the CA.

Options are the originals' (protocol.md, 1.6): without a command they mean `serve`, and `@file.toml` stands for a
table of option names. Commands parse, call one function, print and exit; what is heavy is imported inside.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from enarx.cli.exits import USAGE
from enarx.cli.options import ServesByDefault
from enarx.cli.serving import Serving

if TYPE_CHECKING:
    from enarx.steward.collateral import Reading
    from enarx.steward.offline import Judgement
    from enarx.steward.stock import Chip, Kept, Stock
    from enarx.steward.vendors import Tee
    from enarx.tee.model import Binding, TrustAnchor
    from enarx.web.workers import Worker

EXIT: Final = {"accepted": 0, "malformed": 65, "untrusted": 77, "rejected": 77}
FILE: Final = click.Path(path_type=Path)
RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Steward(ServesByDefault):
    """The originals' environment starts it, too."""

    starts = ("STEWARD_KEY", "RENDER_EXTERNAL_HOSTNAME")


@click.group(cls=Steward, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="enarx", prog_name="steward")
def main() -> None:
    """Turn hardware evidence into ordinary certificates.

    Without a command, options mean `serve`, as they did in the original.
    """


@main.command()
@click.option(
    "-k", "--key", envvar="STEWARD_KEY", help="CA key: PEM PKCS#8, not readable by everybody, or a PKCS#11 URI."
)
@click.option("-c", "--crt", type=FILE, envvar="STEWARD_CRT", help="CA certificate, PEM, then what is above it.")
@click.option("-p", "--port", type=click.IntRange(0, 65535), envvar="ROCKET_PORT", help="Port; 0 takes a free one.")
@click.option("-a", "--addr", envvar="ROCKET_ADDRESS", help="Address to listen on.")
@click.option("--host", envvar="RENDER_EXTERNAL_HOSTNAME", help="Generate a CA of this name; --config stays in force.")
@click.option("--san", envvar="STEWARD_SAN", help="One more DNS name in every certificate.")
@click.option("--config", type=FILE, help="steward.toml: what is accepted.")
@click.option("--origin", help="https://HOST[:PORT] as clients know it.")
@click.option(
    "--dev", is_flag=True, help="Generate a CA, and serve TLS with it; what is accepted is still for --config."
)
@click.option("--dev-dir", type=FILE, help="As --dev, but keep the CA in this directory.")
@click.option("--behind-proxy", is_flag=True, help="Plain HTTP is fine: a proxy in front ends TLS.")
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Processes that serve.  [default: workers of --config, or 1]"
)
@click.option("--write-ca", type=FILE, help="Write the CA's certificate chain (PEM) here before listening.")
@click.option("--ready-fd", type=click.IntRange(0), metavar="FD", help="Write the port here once listening.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--grace-seconds", type=click.FloatRange(min=0.1), default=30.0, show_default=True)
def serve(
    config: Path | None,
    write_ca: Path | None,
    ready_fd: int | None,
    log_format: Literal["text", "json"],
    grace_seconds: float,
    **flags: Any,  # Any: the options that are `Flags`
) -> None:
    """Serve certificates for evidence."""
    from enarx.steward.config import Flags
    from enarx.steward.metrics import Metrics
    from enarx.steward.reload import Reloading, load
    from enarx.steward.runner import Running
    from enarx.web.workers import Upkeep, Worker

    Serving.hold_hangup()
    given = Flags(**flags)
    loaded = load(config, given, datetime.now(UTC))
    read, metrics = loaded.config, Metrics(loaded.config.workers)
    running = Running(loaded, metrics)
    if write_ca is not None:
        from enarx.web.files import write_file

        write_file(write_ca, b"".join(certificate.to_pem() for certificate in loaded.issuer.chain))
    serving = Serving(
        host=read.listen(),
        port=read.port,
        ready_fd=ready_fd,
        log_format=log_format,
        grace_seconds=grace_seconds,
        behind_proxy=read.behind_proxy,
    )
    if read.workers == 1:
        reloading = Reloading(config, given, loaded, running.exchange)
        reloading.start()
        serving.run(running.app, running.served, on_ready=running.ready, on_hangup=reloading.ask)
        return
    for_others = Reloading(
        config, given, loaded, partial(Running, metrics=metrics)
    )  # what a process begins with that takes another's place

    def make(number: int) -> "Worker":
        metrics.worker = number
        mine = Running(for_others.loaded, metrics)
        reloading = Reloading(config, given, for_others.loaded, mine.exchange)
        reloading.start()
        return Worker(app=mine.app, on_ready=mine.ready, tls=mine.served, on_hangup=reloading.ask)

    upkeep = Upkeep(tick=for_others.tick, hangup=for_others.reload)
    serving.run_workers(make, read.workers, tls=read.tls, upkeep=upkeep)


@main.command()
@click.argument("file", type=FILE)
@click.option("--endorsements", type=FILE, multiple=True, help="Vendors' documents: a file or a directory.")
@click.option("--config", type=FILE, help="Judge by the policy of this steward.toml.")
@click.option("--at", help="The moment that counts, as 2026-01-31T12:00:00Z; default: now.")
@click.option("--report-data", help="The 64 bytes of report data to expect, in hexadecimal.")
@click.option("--key", type=FILE, help="The public key (PEM or DER) that the report has to speak for.")
@click.option(
    "--manifest",
    type=FILE,
    help="The services manifest that an SVSM gave with the report; --report-data is the nonce.",
)
@click.option("--anchor", type=FILE, multiple=True, help="A root to believe beside the vendors'.")
@click.option("--without-crl", is_flag=True, help="Accept that nobody said what is revoked.")
@click.option("--format", "form", help="What FILE is, if not told by its content: csr, snp, sgx, ….")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    file: Path,
    endorsements: Sequence[Path],
    config: Path | None,
    at: str | None,
    report_data: str | None,
    key: Path | None,
    manifest: Path | None,
    anchor: Sequence[Path],
    without_crl: bool,
    form: str | None,
    as_json: bool,
) -> None:
    """Judge a certification request, report or quote in FILE.

    Exits with 0 when it is accepted, 65 when it is malformed, 77 when it is untrusted or rejected.
    """
    from enarx.steward import collateral, offline
    from enarx.steward.config import Config, Flags, read_anchor
    from enarx.steward.policy import Judging, argument_anchors, default_policy
    from enarx.tee.svsm.manifest import MAX_MANIFEST
    from enarx.toml import ConfigError

    if form is not None and form not in offline.FORMATS:
        raise click.BadParameter(f"expected one of {', '.join(offline.FORMATS)}", param_hint="--format")
    data = _bytes(file, offline.MAX_FILE)
    moment = _moment(at)
    anchors: list[TrustAnchor] = []
    for path in anchor:
        with _usage("--anchor"):
            anchors += argument_anchors(read_anchor(path))
    judging = Judging(refuse_legacy=False, anchors=tuple(anchors), without_crl=without_crl)
    read: Config | None = None
    if config is not None:
        try:
            read = Config.read(config, Flags(), judging)
        except ConfigError as error:  # not FILE is malformed, but what we were told to judge it by
            click.echo(f"Error: {error}", err=True)
            ctx.exit(USAGE)
    with _usage("--report-data" if key is None else "--key"):
        binding = _binding(report_data, key)
    detected = form or _form(data)
    if detected == offline.CSR and (report_data or key):
        raise click.UsageError(
            "a certification request binds its own key: --report-data and --key are for bare reports"
        )
    if manifest is not None and report_data is None and key is None:
        raise click.UsageError("--manifest: an SVSM's report is over a nonce too: say it with --report-data or --key")
    paths = [*endorsements, *([read.collateral] if read is not None and read.collateral is not None else [])]
    with _usage("--endorsements"):
        reading = collateral.read(paths)
    judgement = offline.judge_file(
        data,
        policy=default_policy(judging) if read is None else read.policy,
        compared=read is not None,
        binding=binding,
        collateral=reading.endorsements,
        at=moment,
        form=form,
        manifest=None if manifest is None else _bytes(manifest, MAX_MANIFEST),
    )
    asked = ["revocation was left out: --without-crl"] if without_crl else []
    asked += [
        f"--anchor named a root to believe: SHA-256 {pin.hex()}" for pin in dict.fromkeys(a.sha256 for a in anchors)
    ]
    judgement = replace(judgement, notes=(*judgement.notes, *asked))
    if as_json:
        click.echo(
            json.dumps({**judgement.to_json(), **_inputs(file, config, reading, without_crl=without_crl)}, indent=2)
        )
    else:
        _print(judgement, reading)
    ctx.exit(EXIT[judgement.verdict.value])


@main.command("check-config")
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of sentences.")
def check_config(file: Path, as_json: bool) -> None:
    """Read FILE as `serve` would, and explain the policy in sentences."""
    from enarx.steward.config import Config, Flags
    from enarx.steward.explain import explain

    said = explain(Config.read(file, Flags()))
    click.echo(json.dumps(said, indent=2) if as_json else "\n".join(said))


@main.group()
def ca() -> None:
    """Make and renew the CA: an offline root, a short-lived online intermediate."""


_ca_options: Final = [
    click.argument("directory", type=FILE),
    click.option("--name", default="Steward", show_default=True, help="What the names of its certificates begin with."),
    click.option("--curve", type=click.Choice(["P-256", "P-384"]), default="P-256", show_default=True),
    click.option(
        "--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Life of the intermediate."
    ),
    click.option("--passphrase-file", type=FILE, help="File with the passphrase of the keys."),
]


def _with_ca_options(command: Any) -> Any:  # Any: click's decorators are typed by what they decorate
    for option in reversed(_ca_options):
        command = option(command)
    return command


@ca.command("init")
@_with_ca_options
def ca_init(directory: Path, name: str, curve: str, days: int, passphrase_file: Path | None) -> None:
    """Make a root and an intermediate in DIRECTORY.

    Keys are encrypted with the passphrase in --passphrase-file or STEWARD_KEY_PASSPHRASE; without one, and with mode
    0600, only the system guards them.
    """
    from enarx.steward import setup
    from enarx.steward.config import passphrase

    root, made = setup.init(
        directory,
        name,
        datetime.now(UTC),
        curve=_curve(curve),
        lifetime=timedelta(days=days),
        passphrase=passphrase(passphrase_file),
    )
    click.echo(
        f"{directory}/root.pem  {root.common_name}, until {root.not_after:%Y-%m-%d}; give it to who shall trust Keeps"
    )
    click.echo(f"{directory}/root.key  keep it offline; only `steward ca rotate` needs it")
    click.echo(f"{directory}/ca.pem    {made.common_name}, until {made.not_after:%Y-%m-%d}; crt of steward.toml")
    click.echo(f"{directory}/ca.key    key of steward.toml")
    if passphrase(passphrase_file) is None:
        click.echo(
            "The keys are not encrypted: with --passphrase-file or STEWARD_KEY_PASSPHRASE they would be.", err=True
        )


@ca.command("rotate")
@_with_ca_options
@click.option("--root-key", help="The root's key, a file or PKCS#11 URI.  [default: root.key in DIRECTORY]")
def ca_rotate(
    directory: Path, name: str, curve: str, days: int, passphrase_file: Path | None, root_key: str | None
) -> None:
    """Replace the intermediate in DIRECTORY by a fresh one under the same root; a running Steward takes it up by itself."""
    from enarx.steward import setup
    from enarx.steward.config import passphrase

    made = setup.rotate(
        directory,
        name,
        datetime.now(UTC),
        curve=_curve(curve),
        lifetime=timedelta(days=days),
        passphrase=passphrase(passphrase_file),
        root_key=root_key,
    )
    click.echo(f"{directory}/ca.pem    {made.common_name}, until {made.not_after:%Y-%m-%d}")


@main.command()
@click.option("--config", type=FILE, required=True, help="steward.toml, whose state directory is changed.")
@click.option("--measurement", help="Everything of this measurement, in hexadecimal.")
@click.option("--chip", help="Everything of this chip: its id, or the SHA-256 of it as certificates have it.")
@click.option("--workload", help="Everything of this workload digest.")
@click.option("--serial", help="One certificate.")
@click.option("--json", "as_json", is_flag=True)
def revoke(config: Path, as_json: bool, **rules: str | None) -> None:
    """Take back what matches, now and in future. A running Steward sees it at once, and the audit log tells of it."""
    from enarx.steward.config import Config, Flags
    from enarx.steward.ledger import Ledger
    from enarx.steward.revocation import KINDS, rule_value
    from enarx.web.audit import AuditLog

    read = Config.read(config, Flags())
    ledger = Ledger(read.state)
    given = [(kind, value) for kind in KINDS if (value := rules[kind]) is not None]
    if not given:
        raise click.UsageError("say what: --measurement, --chip, --workload or --serial")
    taken: set[str] = set()
    for kind, value in ((kind, rule_value(kind, text)) for kind, text in given):
        at = datetime.now(UTC)
        serials = sorted(item.serial for item in ledger.revoke(kind, value, at))
        if read.audit is not None:
            AuditLog.open(read.audit).write("revoke", at, kind=kind, value=value, revoked=serials)
        taken |= set(serials)
    told = f"{_counted(len(taken), 'certificate')} revoked"
    click.echo(json.dumps({"revoked": sorted(taken)}) if as_json else told)


@main.group("collateral")
def collateral_group() -> None:
    """Vendors' documents that serve what evidence lacks: a directory that is named by --directory, or by --config."""


_where: Final = [
    click.option("-d", "--directory", type=FILE, envvar="STEWARD_COLLATERAL", show_envvar=True, help="The directory."),
    click.option("--config", type=FILE, help="steward.toml, whose `collateral` is the directory."),
    click.option("--json", "as_json", is_flag=True),
]
_anchor: Final = click.option("--anchor", type=FILE, multiple=True, help="A root to know beside the vendors'.")


def _with_where(command: Any) -> Any:  # Any: as above
    for option in reversed(_where):
        command = option(command)
    return command


@collateral_group.command("show")
@click.argument("paths", type=FILE, nargs=-1)
@_with_where
def collateral_show(paths: Sequence[Path], directory: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Say what the directory, or PATHS, hold, until when it is valid, and the highest numbers that were seen."""
    from enarx.errors import NotFoundError
    from enarx.steward import collateral
    from enarx.steward.highest import FILE as HIGHEST
    from enarx.steward.highest import Highest

    if not paths:
        paths = (_directory(directory, config),)
        if not paths[0].is_dir():
            raise NotFoundError(f"{paths[0]}: no such directory")
    reading = collateral.read(paths)
    floors = {str(path): Highest(path / HIGHEST).floors() for path in paths if path.is_dir()}
    if as_json:
        click.echo(json.dumps({**_documents(reading), "highest": floors}, indent=2))
        return
    now = datetime.now(UTC)
    for document in reading.documents:
        until = "" if document.end is None else f"  until {document.end:%Y-%m-%dT%H:%M:%SZ}"
        ended = "  ENDED" if document.end is not None and document.end <= now else ""
        click.echo(f"{document.kind:<12} {document.title}{until}{ended}  ({document.source})")
    for source, why in reading.passed_over:
        click.echo(f"passed over  {source}: {why}")
    for series, numbers in ((s, n) for known in floors.values() for s, n in known.items()):
        click.echo(f"highest      {series}: {', '.join(str(number) for number in numbers.values())}")
    ends = [document.end for document in reading.documents if document.end is not None]
    first = f"; the first to end does so at {min(ends):%Y-%m-%dT%H:%M:%SZ}" if ends else ""
    click.echo(f"{_counted(len(reading.documents), 'document')}{first}")


@collateral_group.command("add")
@click.argument("files", type=FILE, nargs=-1, required=True)
@_with_where
@_anchor
def collateral_add(
    files: Sequence[Path], directory: Path | None, config: Path | None, anchor: Sequence[Path], *, as_json: bool
) -> None:
    """Copy FILES that are vendors' documents into the directory, under names that say what they are.

    A file may be a directory or a .tar archive of them. A document with a number below one that was seen is refused.
    """
    _tell_kept(_stock(directory, config, anchor).add(files), as_json=as_json)


@collateral_group.command("refresh")
@_with_where
@_anchor
@click.option(
    "--product",
    "products",
    type=click.Choice(["Milan", "Genoa", "Turin", "Venice"], case_sensitive=False),
    multiple=True,
    help="A product of AMD's (repeatable).",
)
@click.option(
    "--snp-report", "reports", type=FILE, multiple=True, help="Also the VCEK of the chip that made this raw report."
)
@click.option("--fmspc", "fmspcs", multiple=True, help="An Intel platform family, 6 bytes in hexadecimal (repeatable).")
@click.option("--tee", "tees", type=click.Choice(["sgx", "tdx"]), multiple=True, help="For which of Intel's TEEs.")
@click.option("--kds", help="Base URL of AMD's service.  [default: AMD's own]")
@click.option("--pcs", help="Base URL of Intel's service or a PCCS.  [default: Intel's own]")
@click.option("--ca", type=FILE, help="CAs (PEM) of these servers, if the system does not know them.")
@click.option(
    "--patience", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds to wait when told to."
)
def collateral_refresh(
    directory: Path | None,
    config: Path | None,
    anchor: Sequence[Path],
    products: Sequence[str],
    reports: Sequence[Path],
    fmspcs: Sequence[str],
    tees: Sequence["Tee"],
    kds: str | None,
    pcs: str | None,
    ca: Path | None,
    *,
    patience: float,
    as_json: bool,
) -> None:
    """Fetch from the vendors, anew, what the directory holds, and what the options name.

    AMD: chains and the CRL of each product, and chips' certificates (a report of version 2 needs one --product).
    Intel: CRLs of root and PCK CAs, QE identities, TCB info of each FMSPC.
    """
    from enarx.steward.stock import Wanted
    from enarx.steward.vendors import KDS, PCS, ROOT_CRLS, Kds, Origin, Pcs
    from enarx.web.client import Client

    stock = _stock(directory, config, anchor)
    held = stock.wanted()
    chips = tuple(_chip(path, products[0] if len(products) == 1 else None) for path in reports)
    wanted = Wanted(
        products=tuple(dict.fromkeys((*held.products, *products, *(chip.product for chip in chips)))),
        chips=chips,
        fmspcs=tuple(dict.fromkeys((*held.fmspcs, *(_fmspc(text) for text in fmspcs)))),
        tees=tuple(dict.fromkeys((*held.tees, *(tees or (("sgx", "tdx") if fmspcs else ()))))),
    )
    if not wanted.products and not wanted.tees:
        raise click.UsageError("the directory holds nothing to fetch anew: name --product, --fmspc or --tee")
    trusted = None if ca is None else _bytes(ca, 1024 * 1024)

    kept = []
    with ExitStack() as stack:

        def origin(url: str) -> Origin:
            return Origin(client=stack.enter_context(Client(url, ca_pem=trusted)), patience=patience)

        services = Kds(origin(kds or KDS)), Pcs(origin(pcs or PCS), origin(ROOT_CRLS) if pcs is None else None)
        for item in stock.refresh(wanted, *services):
            if isinstance(item, str):
                click.echo(item, err=True)
            else:
                kept.append(item)
    _tell_kept(kept, as_json=as_json)


@collateral_group.command("export")
@click.argument("target", type=FILE, metavar="FILE.tar")
@_with_where
def collateral_export(target: Path, directory: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Write every document into a tar archive, for a machine without a network: `collateral add FILE.tar` there."""
    count = _stock(directory, config, ()).export(target)
    click.echo(
        json.dumps({"documents": count, "file": str(target)}) if as_json else f"{_counted(count, 'file')} in {target}"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _directory(directory: Path | None, config: Path | None) -> Path:
    from enarx.steward.config import Config, Flags

    found = directory
    if found is None and config is not None:
        found = Config.read(config, Flags()).collateral
    if found is None:
        raise click.UsageError("which directory? Name it with --directory, or a steward.toml that does with --config")
    return found


def _stock(directory: Path | None, config: Path | None, anchor: Sequence[Path]) -> "Stock":
    from enarx.steward.config import Config, Flags, read_anchor
    from enarx.steward.highest import FILE as HIGHEST
    from enarx.steward.highest import Highest
    from enarx.steward.policy import argument_anchors
    from enarx.steward.stock import Stock
    from enarx.tee import TECHNOLOGIES

    where = _directory(directory, config)
    anchors = [each for technology in TECHNOLOGIES for each in technology.anchors()]
    anchors += Config.read(config, Flags()).policy.anchors if config is not None else ()
    anchors += [each for path in anchor for each in argument_anchors(read_anchor(path))]
    return Stock(where, anchors, Highest(where / HIGHEST))


def _tell_kept(kept: Sequence["Kept"], *, as_json: bool) -> None:
    if as_json:
        members = [{"source": each.source, "file": str(each.target), "note": each.note} for each in kept]
        click.echo(json.dumps({"documents": members}, indent=2))
        return
    for each in kept:
        click.echo(f"{each.source} → {each.target}" + (f"  ({each.note})" if each.note else ""))


def _chip(path: Path, product: str | None) -> "Chip":
    from enarx.steward.stock import Chip
    from enarx.tee.snp.report import SIZE, Report

    return Chip.of(Report.parse(_bytes(path, SIZE)), product)


def _fmspc(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 6:
        raise click.BadParameter(f"expected 6 bytes in hexadecimal, found {text[:40]!r}", param_hint="--fmspc")
    return value


def _print(judgement: "Judgement", reading: "Reading") -> None:
    """Every check that was made, what has to be known beside them, why, and the verdict in one line."""
    colours = {"passed": "green", "failed": "red", "skipped": "yellow", "not applicable": "bright_black"}
    made = [check for check in judgement.checks if check.found != "not reached"]
    width = max((len(check.name) for check in made), default=0)
    for check in made:
        failed = check.outcome.value == "failed"
        told = (
            f"{check.found}; expected {check.expected}" if failed and check.expected else check.found or check.expected
        )
        line = f"{check.name:<{width}}  {told}"
        click.echo(
            click.style(f"{check.outcome.value:<14}  ", fg=colours[check.outcome.value]) + line[: _columns() - 16]
        )
    if len(made) < len(judgement.checks):
        click.echo(f"{len(judgement.checks) - len(made)} further checks were not reached.")
    for note in [*judgement.notes, *(f"passed over {path}: {why}" for path, why in reading.passed_over)]:
        click.echo(f"note: {note}")
    accepted = judgement.verdict.value == "accepted"
    technology = "" if judgement.appraisal is None else f" ({judgement.appraisal.technology})"
    click.secho(
        f"{judgement.verdict.value.upper()}{technology}", fg="green" if accepted else "red", bold=True, nl=False
    )
    click.echo("".join(f"{': ' if not index else '; '}{reason}" for index, reason in enumerate(judgement.reasons)))


def _columns() -> int:
    import shutil

    return max(60, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000


def _inputs(file: Path, config: Path | None, reading: "Reading", *, without_crl: bool) -> dict[str, object]:
    return {
        "file": str(file),
        "config": None if config is None else str(config),
        "without_crl": without_crl,
        "endorsements": _documents(reading),
    }


def _documents(reading: "Reading") -> dict[str, object]:
    def moment(value: datetime | None) -> str | None:
        return None if value is None else value.strftime("%Y-%m-%dT%H:%M:%SZ")

    return {
        "documents": [
            {"source": d.source, "kind": d.kind, "title": d.title, "begin": moment(d.begin), "end": moment(d.end)}
            for d in reading.documents
        ],
        "passed_over": [{"source": path, "why": why} for path, why in reading.passed_over],
    }


def _form(data: bytes) -> str | None:
    from enarx.errors import MalformedError
    from enarx.steward.offline import detect

    try:
        return detect(data)[0]
    except MalformedError:
        return None  # judged malformed in a moment


def _binding(report_data: str | None, key: Path | None) -> "Binding":
    from enarx.pki import keys
    from enarx.pki.certificate import pem_blocks
    from enarx.tee.model import Binding

    if report_data is not None and key is not None:
        raise click.UsageError("--report-data and --key say the same in two ways: give one")
    if report_data is not None:
        try:
            return Binding.of_report_data(bytes.fromhex(report_data))
        except ValueError as error:
            raise click.BadParameter("expected hexadecimal", param_hint="--report-data") from error
    if key is None:
        return Binding.none()
    data = _bytes(key, 64 * 1024)
    begin = data.find(b"-----BEGIN PUBLIC KEY-----")
    if begin >= 0:  # whatever stands before it, as tools write it
        (data,) = pem_blocks(data[begin:], "PUBLIC KEY", str(key), limit=1)
    keys.public_from_spki(data, str(key))
    return Binding.of_key(data)


@contextmanager
def _usage(option: str) -> Iterator[None]:
    """Exit code 65 is for FILE: what is wrong with an option's value is wrong usage."""
    from enarx.errors import MalformedError

    try:
        yield
    except MalformedError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    if RFC3339.fullmatch(text):
        with suppress(ValueError, OverflowError):  # a 30th of February; a moment before the year 1 or after 9999
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    raise click.BadParameter(
        f"expected a moment with its offset, like 2026-01-31T12:00:00Z, found {text[:60]!r}", param_hint="--at"
    )


def _bytes(path: Path, limit: int) -> bytes:
    from enarx.errors import NotFoundError

    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror or 'cannot be read'}") from error


def _curve(name: str) -> Any:  # Any: click has checked that it is one of the two
    return name
