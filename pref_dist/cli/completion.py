"""`pref-dist completion`."""

import click

PROGRAM = "pref-dist"
VARIABLE = "_PREF_DIST_COMPLETE"  # what click derives from the program's name


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete verbs, options and paths after `pref-dist`.

    \b
    Examples:
      eval "$(pref-dist completion bash)"       in ~/.bashrc
      eval "$(pref-dist completion zsh)"        in ~/.zshrc
      pref-dist completion fish > ~/.config/fish/completions/pref-dist.fish
    """
    from click.shell_completion import get_completion_class

    from pref_dist.cli.program import program

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(program, {}, PROGRAM, VARIABLE).source())
