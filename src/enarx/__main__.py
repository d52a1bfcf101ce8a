"""`python -m enarx` is `enarx`."""

from enarx.cli.main import main

main(prog_name="enarx")
