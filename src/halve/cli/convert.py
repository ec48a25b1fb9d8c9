"""``halve convert``: change the layout of a quantized checkpoint."""

import click

from halve.cli.parameter import LAYOUT, SCHEME, Size, json_option


@click.command()
@click.argument("src")
@click.argument("out", type=click.Path())
@click.option("--layout", type=LAYOUT, required=True, help="How weights are to be stored; `halve schemes` lists them.")
@click.option("--scheme", type=SCHEME, help="Quantize again, to this scheme. Default: keep the codes.")
@click.option("--shard-size", type=Size(), default="5GB", show_default=True, help="Largest weight file.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads. Default: one a processor.")
@click.option("--memory", type=Size(), metavar="SIZE", help="Most memory of the whole process, such as 1GiB.")
@click.option("--resume", is_flag=True, help="Go on with a job that was interrupted, or start it.")
@json_option
def command(
    *,
    src: str,
    out: str,
    layout: str,
    scheme: str | None,
    shard_size: int,
    threads: int | None,
    memory: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Write the quantized checkpoint SRC into the new folder OUT in another layout.

    Codes are kept wherever the layout can hold them, and what anything else costs is said. The layout dense
    dequantizes.

    \b
    halve convert nvfp4-model out --layout gguf
    halve convert quantized out --layout dense --scheme bf16
    """
    from halve.cli.render import progress, show_json, show_table
    from halve.pipeline.convert import convert

    with progress(f"{layout}:") as callback:
        result = convert(
            src,
            out,
            layout,
            scheme=scheme,
            shard_bytes=shard_size,
            threads=threads,
            memory=memory,
            resume=resume,
            progress=callback,
        )
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        show_json(result)
        return
    show_table(("", ""), result.facts(), heads=False, note=f"prove it: halve verify {out}")
