"""``halve calibrate``: gather the statistics of a model's activations."""

from pathlib import Path

import click

from halve.cli.parameter import Size, json_option


@click.command()
@click.argument("src")
@click.argument("stats", type=click.Path(path_type=Path))
@click.option(
    "--text",
    "texts",
    multiple=True,
    default=("builtin",),
    show_default=True,
    metavar="FILE|builtin",
    help="Text to read; builtin is reference, code and prose. Several kinds calibrate better than one.",
)
@click.option("--windows", type=click.IntRange(min=1), default=8, show_default=True, help="Windows of each text.")
@click.option("--window", type=click.IntRange(min=8), default=512, show_default=True, help="Tokens of a window.")
@click.option(
    "--hessians/--no-hessians", default=True, show_default=True, help="Gather what gptq needs, too: a larger file."
)
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads that load. Default: one a processor.")
@click.option("--memory", type=Size(), metavar="SIZE", help="Most memory of the whole process, such as 8GiB.")
@json_option
def command(
    *,
    src: str,
    stats: Path,
    texts: tuple[str, ...],
    windows: int,
    window: int,
    hessians: bool,
    threads: int | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Run the model SRC over some text and write what its linear layers are fed into the file STATS.

    One decoder layer is in memory at a time. `halve quantize --stats STATS` uses the file for any scheme.

    \b
    halve calibrate model stats.safetensors
    halve quantize model out --scheme nvfp4a16 --stats stats.safetensors
    """
    from halve.cli.render import counted, show_json, show_table
    from halve.pipeline.calibrate import calibrate

    with counted("layers") as callback:
        result = calibrate(
            src,
            stats,
            texts=texts,
            windows=windows,
            window=window,
            hessians=hessians,
            threads=threads,
            memory=memory,
            progress=callback,
        )
    if as_json:
        show_json(result)
        return
    show_table(("", ""), result.facts_told(), heads=False, note=f"use it: halve quantize {src} OUT --stats {stats}")
