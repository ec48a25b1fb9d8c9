"""``halve verify``: prove a checkpoint whole and in range."""

import click

from halve.cli.parameter import Size, json_option


@click.command()
@click.argument("path", type=click.Path())
@click.option("--against", metavar="SRC", help="The checkpoint it was made from: compare every tensor with it.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads. Default: one a processor.")
@click.option("--memory", type=Size(), metavar="SIZE", help="Most memory of the whole process, such as 1GiB.")
@json_option
def command(*, path: str, against: str | None, threads: int | None, memory: int | None, as_json: bool) -> None:
    """Check the checkpoint in PATH, a folder or its URL; exit 1 with a list where something is wrong.

    Sizes, hashes and index are true, config and tensors agree, scales are finite and representable, codes are numbers;
    with --against, kept tensors are equal bit for bit and the loss of each layer is what its scheme promises.
    """
    from halve.cli.render import progress, show, show_table, size
    from halve.pipeline.verify import verify

    with progress("verify:") as callback:
        result = verify(path, against=against, threads=threads, memory=memory, progress=callback)
    if as_json:
        show(result, as_json=True)
    else:
        verdict = "whole and in range" if result.ok else f"{len(result.problems)} problem(s)"
        show(
            result,
            as_json=False,
            title=f"{path}: {verdict}",
            note=f"{result.tensors} tensors, {size(result.bytes)}, {result.summary}",
        )
        show_table(("where", "what is wrong"), ((p.where, p.what) for p in result.problems))
    if not result.ok:
        raise SystemExit(1)
