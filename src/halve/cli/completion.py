"""``halve completion``: the script that completes halve commands in a shell."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes halve commands, options and names in SHELL.

    \b
    bash   eval "$(halve completion bash)"                            in ~/.bashrc
    zsh    eval "$(halve completion zsh)"                             in ~/.zshrc
    fish   halve completion fish > ~/.config/fish/completions/halve.fish
    """
    from click.shell_completion import get_completion_class

    from halve.cli.main import cli

    completer = get_completion_class(shell)
    assert completer is not None  # noqa: S101 - click has all three
    click.echo(completer(cli, {}, "halve", "_HALVE_COMPLETE").source())
