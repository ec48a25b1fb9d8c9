"""``halve web``: pages in the browser, and models behind OpenAI's API in the same process."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halve.cli.parameter import ACTIVATIONS, LOCAL
from halve.errors import UnsupportedError

if TYPE_CHECKING:
    from halve.runtime.packed.kernels import Mode


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option("--api-key", envvar="HALVE_API_KEY", help="Pages and clients must send it.  [env: HALVE_API_KEY]")
@click.option(
    "--act", type=click.Choice(ACTIVATIONS), default="bf16", show_default=True, help="How activations multiply."
)
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Threads that compute.  [default: all cores]")
@click.option("--watch", type=click.Path(path_type=Path), multiple=True, help="The --log of a job; repeatable.")
@click.option("--open/--no-open", "opened", default=None, help="Open a browser.  [default: where there is a screen]")
def command(
    *,
    paths: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    act: "Mode",
    threads: int | None,
    watch: tuple[Path, ...],
    opened: bool | None,
) -> None:
    """Show number formats, plans and reports in the browser; talk to the models PATH... side by side.

    The same process serves the models as OpenAI's API, as `halve serve` does, within its default limits. Without a
    PATH every page but Talk works. The pages come from this machine alone, which alone can reach them, unless --host
    says otherwise; then give it an --api-key. Needs the extra `web`.

    \b
    halve web
    halve web halve-demo/bf16 halve-demo/nvfp4a16
    halve web --watch job.log    how far `halve quantize ... --log job.log` is
    """
    try:
        from halve.serve import http
        from halve.serve.app import Server
        from halve.web.app import add_pages
    except ImportError as error:
        raise UnsupportedError(
            f"the pages need {error.name}, which is not installed", hint="pip install 'halve[web]'"
        ) from None
    from halve.serve.limits import Limits
    from halve.serve.load import load_all

    if host not in LOCAL and api_key is None:
        click.echo(f"warning: {host} may be reached by others, and there is no --api-key", err=True)
    with http.listen(host, port) as listener:
        models = load_all(paths, mode=act, threads=threads)
        for name, model in models.items():
            click.echo(f"{name}: {model.engine}", err=True)
        server = Server(models, api_key=api_key, local=host in LOCAL)
        add_pages(server, watched=watch)
        address = http.address(listener)
        click.echo(f"halve web: {address}  (Ctrl-C ends it)")
        if _screen() if opened is None else opened:
            webbrowser.open(address)
        try:
            http.server(server.app, Limits()).run(sockets=[listener])
        finally:
            server.close()


def _screen() -> bool:
    """Whether somebody sits here who would see a browser open."""
    screen = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return screen and sys.stdout.isatty()
