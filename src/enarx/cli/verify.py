"""`enarx verify`: say what is at the other end of a TLS connection."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enarx.errors import EnarxError, MalformedError, NotFoundError, RejectedError, UntrustedError

if TYPE_CHECKING:
    from enarx.attested.relying import Expectation


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option(
    "--steward-ca",
    type=click.Path(path_type=Path),
    required=True,
    envvar="ENARX_STEWARD_CA",
    help="Certificates (PEM) of the Stewards you trust.",
)
@click.option("--workload", metavar="DIGEST", help="Refuse every workload but this: sha-256:<hex>.")
@click.option(
    "--technology", multiple=True, metavar="NAME", help="Refuse every TEE but this: snp, sgx, … (repeatable)."
)
@click.option("--config-digest", metavar="HEX", help="Refuse every deploy configuration but this (SHA-256).")
@click.option("--policy", type=click.Path(path_type=Path), help="A TOML file with all that you expect.")
@click.option(
    "--allow-simulated",
    is_flag=True,
    help="Accept a simulated TEE, which proves nothing, beside --technology or --policy.",
)
@click.option("--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def verify(
    address: str,
    *,
    steward_ca: Path,
    workload: str | None,
    technology: tuple[str, ...],
    config_digest: str | None,
    policy: Path | None,
    allow_simulated: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Connect to HOST:PORT by TLS and print what is there: TEE, workload, measurement, TCB, certificate.

    The certificate must come from a Steward that you trust and carry its attestation result. Without further options
    a peer that proves nothing (simulated, or no TEE at all) is shown as such in capitals; with --technology or --policy
    it is refused. Exit codes: 0 as expected, 77 refused, 65 malformed, 69 nobody answers.
    """
    from enarx.pki.certificate import certificates_from_pem
    from enarx.web.attested import connect

    host, port = split_address(address)
    anchors = certificates_from_pem(_read(steward_ca), str(steward_ca))
    expectation = expected(workload, technology, config_digest, policy, allow_simulated=allow_simulated)
    at = datetime.now(UTC)
    try:
        with connect(host, port, anchors=anchors, expectation=expectation, at=at, timeout=timeout) as (_, peer):
            pass
    except (MalformedError, UntrustedError, RejectedError) as error:
        if as_json:
            click.echo(json.dumps(refusal(error), indent=2))
        raise named(error) from error
    if as_json:
        click.echo(json.dumps({"verdict": "accepted", "reasons": [], "peer": peer.to_json()}, indent=2))
        return
    for line in peer.describe(at):
        click.echo(line)


def split_address(text: str) -> tuple[str, int]:
    """`host:port` or `[address]:port`. Raises a usage error."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise click.UsageError(f"expected HOST:PORT, found {text[:300]!r}")
    return host, int(port)


def expected(
    workload: str | None,
    technology: tuple[str, ...],
    config_digest: str | None,
    policy: Path | None,
    *,
    allow_simulated: bool,
) -> "Expectation":
    """What the options ask for. Whoever asks for no proof is shown what there is; who asks for proof gets nothing less."""
    from enarx import toml
    from enarx.attested.relying import TITLES, Expectation
    from enarx.digest import Digest

    made = Expectation()
    if policy is not None:
        made = Expectation.from_table(toml.parse(_read(policy), source=str(policy)))
    elif not technology:
        made = Expectation(accept_simulated=True, accept_nil=True, accept_debug=True)
    if workload is not None:
        made = replace(made, workloads=frozenset({Digest.parse(workload)}))
    for name in technology:
        if name not in TITLES:
            raise click.UsageError(f"--technology: expected one of {', '.join(TITLES)}, found {name!r}")
    if technology:
        made = replace(made, technologies=frozenset(technology), accept_nil="nil" in technology)
    if config_digest is not None:
        made = replace(made, config_digests=frozenset({Digest.parse(config_digest).value}))
    return replace(made, accept_simulated=made.accept_simulated or allow_simulated)


def gate(error: EnarxError) -> str:
    """The gate that refused."""
    if isinstance(error, MalformedError):
        return "malformed"
    return "rejected" if isinstance(error, RejectedError) else "untrusted"


def refusal(error: EnarxError) -> dict[str, object]:
    """A refusal for programs, in the words of the verdicts."""
    reasons = error.reasons if isinstance(error, RejectedError) else (str(error),)
    return {"verdict": gate(error), "reasons": list(reasons), "peer": None}


def named(error: MalformedError | UntrustedError | RejectedError) -> EnarxError:
    """The same error, saying which gate refused."""
    text = f"refused at {gate(error)}: {error}"
    return RejectedError(text, reasons=error.reasons) if isinstance(error, RejectedError) else type(error)(text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from error
