"""How the process of a Keep's agent begins: `python -I -m enarx.keep.start CHANNEL ATTESTER…`.

Importing makes a hundred thousand objects that all live on. Looking among them for garbage, again and again, takes a
tenth of the time until a Keep says hello; so that waits until the agent hands the process over to its program.
"""

import gc
import sys


def main(arguments: list[str]) -> None:
    """Be the agent."""
    gc.disable()
    from enarx.keep import agent  # noqa: PLC0415 - after the line above

    agent.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
