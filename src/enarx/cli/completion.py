"""`enarx completion`: the script that lets a shell complete commands and options of the three programs."""

from typing import Final

import click

PROGRAMS: Final = ("enarx", "steward", "drawbridge")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option(
    "--program", type=click.Choice(PROGRAMS), multiple=True, help="Only this one (repeatable); else all three."
)
def completion(shell: str, program: tuple[str, ...]) -> None:
    """Print the completion script for SHELL.

    \b
      bash   eval "$(enarx completion bash)"     in ~/.bashrc
      zsh    eval "$(enarx completion zsh)"      in ~/.zshrc, after compinit
      fish   enarx completion fish | source      in ~/.config/fish/config.fish
    """  # noqa: D301 - \b is for click
    from click.shell_completion import get_completion_class

    writer = get_completion_class(shell)
    if writer is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    for name in program or PROGRAMS:
        made = writer(click.Group(name), {}, name, f"_{name}_COMPLETE".upper())
        click.echo(made.source_template % made.source_vars())
