"""`enarx repo policy`: which Keeps the packages of a repository are released to."""

from pathlib import Path
from typing import Any

import click

from enarx.cli.managing import REPOSITORY, clean, done, managing, place_of
from enarx.cli.store import Store, complete_slug, read_file, show_json, store_options
from enarx.errors import RejectedError


@click.group()
def policy() -> None:
    """Which Keeps the packages of a repository are released to."""


@policy.command(name="show")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def show_policy(store: Store, *, spec: str) -> None:
    """Print the policy in words, the server's own settings included; with --json as it was set."""
    host, place = place_of(spec, repository=True)
    with managing(store, host, "Failed to read the release policy") as management:
        found = management.policy(place)
    if store.as_json:
        show_json({"policy": found.values, "sentences": list(found.sentences)})
        return
    if found.values is None:
        click.echo("No policy was set; the server decides:")
    for sentence in found.sentences:
        click.echo(clean(sentence))


@policy.command(name="set")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@store_options
def set_policy(store: Store, *, spec: str, file: Path) -> None:
    """Set the policy to what FILE says, TOML or JSON, and print it in words.

    \b
      technologies = ["snp", "tdx"]            which TEEs
      measurements = ["<hex>"]                 which Keeps; signers = [...] for who signed them
      tcb_statuses = ["UpToDate"]              which standing of the firmware
      max_age_seconds = 3600                   since the hardware was judged
      require_token = true                     a deploy token, too
      steward = "https://steward.example"      the Steward that its Keeps use
    """  # noqa: D301 - \b is for click
    host, place = place_of(spec, repository=True)
    values = read_policy_file(file)
    with managing(store, host, "Failed to set the release policy") as management:
        management.set_policy(place, values)
        found = management.policy(place)
    if store.as_json:
        show_json({"policy": found.values, "sentences": list(found.sentences)})
        return
    for sentence in found.sentences:
        click.echo(clean(sentence))


@policy.command(name="remove")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def remove_policy(store: Store, *, spec: str) -> None:
    """Go back to what the server decides for repositories that say nothing."""
    host, place = place_of(spec, repository=True)
    with managing(store, host, "Failed to remove the release policy") as management:
        management.remove_policy(place)
    done(store, {"policy": None})


@policy.command(name="test")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("certificates", type=click.Path(path_type=Path, allow_dash=True))
@store_options
def test_policy(store: Store, *, spec: str, certificates: Path) -> None:
    """Say whether the packages would be released to the Keep whose certificate chain (PEM) is in CERTIFICATES.

    Every reason against it is told. Exit codes: 0 it would be, 77 it would not.
    """
    host, place = place_of(spec, repository=True)
    with managing(store, host, "Failed to test the release policy") as management:
        verdict = management.test_policy(place, read_file(certificates))
    if store.as_json:
        show_json({"accepted": verdict.accepted, "reasons": list(verdict.reasons), "keep": verdict.keep})
    elif verdict.accepted:
        click.echo("This Keep would be given the packages.")
    if not verdict.accepted:
        raise RejectedError(
            f"this Keep would not be given the packages: {'; '.join(verdict.reasons)}", reasons=verdict.reasons
        )


def read_policy_file(file: Path) -> dict[str, Any]:  # Any: TOML or JSON, checked here as the server does
    """A release policy that means something. Raises MalformedError with the line, or the key."""
    from enarx import toml
    from enarx.drawbridge import canonical
    from enarx.drawbridge.access import ReleasePolicy

    data = read_file(file)
    if data.lstrip().startswith(b"{"):
        values = canonical.members(canonical.parse(data, str(file)), str(file))
        table = toml.Table(source=str(file), text="", path="", values=values)
    else:
        table = toml.parse(data, source=str(file))
    ReleasePolicy.from_table(table)
    table.end()
    return dict(table.values)
