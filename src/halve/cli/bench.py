"""``halve bench``: tokens per second, beside what the memory could give."""

from typing import TYPE_CHECKING

import click

from halve.cli.parameter import ACTIVATIONS, Counts, json_option

if TYPE_CHECKING:
    from halve.runtime.packed.cache import Kv
    from halve.runtime.packed.kernels import Mode


@click.command()
@click.argument("path")
@click.option(
    "-p", "--prompt", type=click.IntRange(min=0), default=512, show_default=True, help="Prompt tokens; 0: none."
)
@click.option(
    "-n", "--generate", type=click.IntRange(min=0), default=128, show_default=True, help="New tokens; 0: none."
)
@click.option(
    "-t", "--threads", type=Counts(), default=(), help="Numbers of threads, such as 1,2.  [default: all cores]"
)
@click.option("-r", "--repetitions", type=click.IntRange(min=1), default=5, show_default=True, help="Runs a row.")
@click.option(
    "--act", type=click.Choice(ACTIVATIONS), default="bf16", show_default=True, help="How activations multiply."
)
@click.option(
    "--kv", type=click.Choice(["fp16", "fp8"]), default="fp16", show_default=True, help="How keys and values are kept."
)
@json_option
def command(
    *,
    path: str,
    prompt: int,
    generate: int,
    threads: tuple[int, ...],
    repetitions: int,
    act: "Mode",
    kv: "Kv",
    as_json: bool,
) -> None:
    """Time how fast the model PATH reads a prompt (pp) and writes (tg), in llama-bench's table.

    Writing a token reads all weights once, of experts those that it takes, so memory is the limit: the last columns are
    the rate at which weights were read, the rate at which as many threads can read this machine's memory, measured
    beside each row, and their ratio.

    \b
    halve bench halve-demo/nvfp4a16 -p 512 -n 128 -t 1,2
    """
    from halve.cli.render import counted, show
    from halve.evaluate.bench import bench

    with counted("rows") as watch:
        result = bench(
            path,
            prompt=prompt,
            generate=generate,
            threads=threads,
            mode=act,
            kv=kv,
            repetitions=repetitions,
            watch=watch,
        )
    show(result, as_json=as_json)
