"""``halve serve``: models behind OpenAI's API."""

from typing import TYPE_CHECKING

import click

from halve.cli.parameter import ACTIVATIONS, LOCAL

if TYPE_CHECKING:
    from halve.runtime.packed.kernels import Mode


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option("--api-key", envvar="HALVE_API_KEY", help="Clients must send it.  [env: HALVE_API_KEY]")
@click.option(
    "--act", type=click.Choice(ACTIVATIONS), default="bf16", show_default=True, help="How activations multiply."
)
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Threads that compute.  [default: all cores]")
@click.option(
    "--running", type=click.IntRange(min=1), default=64, show_default=True, help="Sequences computed together."
)
@click.option("--queued", type=click.IntRange(min=1), default=256, show_default=True, help="Sequences that may wait.")
@click.option(
    "--kv-tokens", type=click.IntRange(min=1), default=65536, show_default=True, help="Tokens in all caches together."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=2048, show_default=True, help="Longest answer.")
def command(
    *,
    paths: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    act: "Mode",
    threads: int | None,
    running: int,
    queued: int,
    kv_tokens: int,
    max_tokens: int,
) -> None:
    """Serve the models PATH... over HTTP, as OpenAI's API: clients of it work unchanged.

    A model is called by the name of its folder or file. Requests share every step (continuous batching). The server
    listens on this machine only, unless --host says otherwise; then give it an --api-key. Needs the extra `serve`.

    \b
    halve serve halve-demo/nvfp4a16
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "nvfp4a16", "messages": [{"role": "user", "content": "Hi"}]}'
    """
    from halve.errors import UnsupportedError

    try:
        from halve.serve import http
        from halve.serve.app import Server
    except ImportError as error:
        raise UnsupportedError(
            f"serving needs {error.name}, which is not installed", hint="pip install 'halve[serve]'"
        ) from None
    from halve.serve.limits import Limits
    from halve.serve.load import load_all

    if host not in LOCAL and api_key is None:
        click.echo(f"warning: {host} may be reached by others, and there is no --api-key", err=True)
    limits = Limits(running=running, queued=queued, kv_tokens=kv_tokens, max_tokens=max_tokens)
    with http.listen(host, port) as listener:
        models = load_all(paths, mode=act, threads=threads)
        server = Server(models, limits=limits, api_key=api_key, local=host in LOCAL)
        for name, model in models.items():
            click.echo(f"{name}: {model.engine}", err=True)
        click.echo(f"halve serve: {http.address(listener)}v1  (Ctrl-C ends it)", err=True)
        try:
            http.server(server.app, limits).run(sockets=[listener])
        finally:
            server.close()
