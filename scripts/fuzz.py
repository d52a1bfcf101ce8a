"""Feed every parser with what a coverage-guided fuzzer makes of its seeds, for a bounded time each.

    python scripts/fuzz.py [--seconds N] [--only PATTERN]      needs the dependency group `fuzz` (atheris)
    python scripts/fuzz.py --seeds                              makes the seeds in tests/corpus anew

A parser answers any bytes with a value or with MalformedError. Anything else, and also a parse that takes seconds or
gigabytes, ends the run with the bytes that did it in .cache/fuzz/.
"""

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOUND: Final = ROOT / ".cache" / "fuzz"
LONGEST_INPUT: Final = 20_000  # bytes; larger than any seed
SLOWEST: Final = 5  # seconds for one input
MEMORY: Final = 2048  # MiB

sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz every parser of outside bytes.")
    parser.add_argument("--seconds", type=int, default=10, help="for each parser")
    parser.add_argument("--only", default="", help="parsers whose name matches this regular expression")
    parser.add_argument("--seeds", action="store_true", help="make the seeds anew and fuzz nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        fuzz(options.one, options.seconds)
        return 0
    if options.seeds:
        return write_seeds()
    from tests.properties.parsers import PARSERS

    chosen = [name for name in PARSERS if re.search(options.only, name)]
    failed = [name for name in chosen if run(name, options.seconds)]
    print(
        f"{len(chosen)} parsers, {options.seconds} seconds each: {', '.join(failed) + ' failed' if failed else 'nothing found'}"
    )
    return int(bool(failed))


def run(name: str, seconds: int) -> int:
    """One parser in a process of its own, for libFuzzer ends the one it runs in."""
    command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = next((line for line in reversed(done.stderr.splitlines()) if "cov:" in line), "")
    print(f"{name:<18} {'ok' if done.returncode == 0 else 'FAILED'}  {last.strip()}", flush=True)
    if done.returncode:
        print(done.stderr[-4000:] + done.stdout[-2000:])
    return done.returncode


def fuzz(name: str, seconds: int) -> None:
    """Does not return: libFuzzer exits."""
    atheris = importlib.import_module("atheris")  # a dependency of this alone
    with atheris.instrument_imports(include=["enarx"]):
        from enarx.errors import MalformedError
        from tests.properties.parsers import CORPUS, PARSERS

    parse = PARSERS[name]

    def once(data: bytes) -> None:
        try:
            parse(data)
        except MalformedError:
            return

    work = FOUND / name
    work.mkdir(parents=True, exist_ok=True)
    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEMORY}",
    ]
    places = [f"-artifact_prefix={FOUND}/{name}-", str(work), str(CORPUS / name)]  # what is new goes to the first
    atheris.Setup([sys.argv[0], *limits, "-seed=1", *places], once)
    atheris.Fuzz()


def write_seeds() -> int:
    """Replace what is kept. A parser without a seed is a mistake."""
    from tests.properties.parsers import CORPUS, PARSERS, seeds

    made: dict[str, list[tuple[str, bytes]]] = {name: [] for name in PARSERS}
    for parser, name, data in seeds():
        PARSERS[parser](data)  # a value, or it is no seed
        made[parser].append((name, data))
    without = [parser for parser, kept in made.items() if not kept]
    if without:
        print(f"no seed for {', '.join(without)}")
        return 1
    for parser, kept in made.items():
        folder = CORPUS / parser
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, data in kept:
            (folder / name).write_bytes(data)
    print(f"{sum(map(len, made.values()))} seeds for {len(made)} parsers")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
