"""`enarx demo`: the whole story on this machine, told as it happens, attacks included.

stage      a private place, processes that are ended again
world      a Steward, a Drawbridge, simulated machines, a publisher with two packages
story      steps 1 to 5: serve, publish, deploy, and a third party that looks
attacks    step 6: everything that is refused, by whom, at which gate, with which words
liar       the host's own registry, which serves other bytes
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

OPENING: Final = (
    "A Steward, a Drawbridge, a publisher, Keeps and a third party on this machine, each a process of its own.\n"
    "The protocol is the real one. The TEEs are simulated, and a simulated TEE proves nothing to anybody."
)


class Narrator:
    """Tells the story: a line a step for people, a JSON object a step for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._began = time.monotonic()
        self.failures: list[str] = []

    def step(self, number: int, actor: str, text: str, **facts: object) -> None:
        """Something happened as it should."""
        if self._as_json:
            self._say({"step": number, "actor": actor, "text": text, **facts})
        else:
            click.echo(f"{click.style(f'{number} {actor:<11}', fg='cyan')} {text}")

    def shown(self, *lines: str) -> None:
        """What an actor saw; with --json it is among the facts of the step."""
        if not self._as_json:
            for line in lines:
                click.echo(f"              {line}")

    def refused(self, what: str, gate: str, message: str, *, by: str) -> None:
        """Something was refused as it should be."""
        if self._as_json:
            self._say({"step": 6, "attack": what, "refused_by": by, "gate": gate, "message": message})
        else:
            click.echo(f"{click.style('6 refused    ', fg='cyan')} {what}")
            click.echo(f"              by {click.style(f'{by}, {gate}', fg='green')}: {message}")

    def failed(self, text: str) -> None:
        """Something did not happen as it should: the demonstration fails."""
        self.failures.append(text)
        if self._as_json:
            self._say({"failed": text})
        else:
            click.echo(click.style(f"NOT AS IT SHOULD BE: {text}", fg="red"))

    def proven(self, sentences: tuple[str, ...]) -> None:
        seconds = time.monotonic() - self._began
        if self._as_json:
            self._say({"proven": list(sentences), "failures": self.failures, "seconds": round(seconds, 1)})
            return
        click.echo()
        click.echo("Proven" if not self.failures else "NOT proven, for something was not as it should be")
        for sentence in sentences:
            click.echo(f"  - {sentence}")
        click.echo(f"Told in {seconds:.1f} seconds.")

    def _say(self, event: dict[str, object]) -> None:
        click.echo(json.dumps(event, ensure_ascii=False))


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Play in this directory, new or empty, and leave everything there, logs and keys included. Default: a temporary one.",
)
@click.option(
    "--hold", is_flag=True, help="After the story leave everything running, until Ctrl-C, to try it yourself."
)
@click.option("--json", "as_json", is_flag=True, help="Tell it to programs: a JSON object a line.")
def demo(directory: Path | None, *, hold: bool, as_json: bool) -> None:
    """Tell the whole story on this machine: publish, attest, release, run, verify, and every attack refused.

    Nothing is needed beside this program, and nothing outside a temporary directory is touched. The exit code is 0 when
    everything was as it should be, and 70 otherwise.
    """
    from enarx.cli.demo.attacks import attack
    from enarx.cli.demo.stage import Stage
    from enarx.cli.demo.story import PROVEN, tell
    from enarx.cli.demo.world import World
    from enarx.cli.exits import BUG

    narrator = Narrator(as_json=as_json)
    if not as_json:
        click.echo(OPENING)
        click.echo()
    with Stage.set(directory) as stage, World.made(stage, narrator) as world:
        keeps = tell(world, narrator)
        attack(world, keeps, narrator)
        narrator.proven(PROVEN)
        if hold:
            _hold(world.help())
    if narrator.failures:
        raise SystemExit(BUG)


def _hold(lines: Iterator[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
    with _until_interrupted():
        while True:
            time.sleep(3600)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("ended", err=True)
