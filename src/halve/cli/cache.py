"""``halve cache``: what halve has downloaded, and deleting it."""

import click

from halve.cli.parameter import json_option


@click.command()
@click.option("--clear", is_flag=True, help="Delete everything in the cache.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting.")
@json_option
def command(*, clear: bool, yes: bool, as_json: bool) -> None:
    """List what halve has downloaded: HALVE_CACHE, else halve in the user's cache folder.

    With --clear, delete it (only ever a folder that halve itself created); --json then lists what was deleted.
    """
    from halve.cli.render import show, size
    from halve.pipeline import cache

    found = cache.listing()
    if clear and found.entries:
        if not yes:
            click.confirm(f"Delete {size(found.bytes)} in {found.path}?", abort=True, err=True)
        cache.clear()
        click.echo(f"deleted {size(found.bytes)} in {found.path}", err=True)
    if as_json or not clear:
        total = f"{size(found.bytes)} in {found.path}"
        show(found, as_json=as_json, title=total if found.entries else f"nothing in {found.path}")
