"""``halve quantize``: write a quantized copy of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import click

from halve.cli.parameter import ALGORITHM, LAYOUT, MACHINE, SCHEME, TOOL, TRANSFORM, Override, Size, json_option


@click.command()
@click.argument("src")
@click.argument("out", type=click.Path())
@click.option("--scheme", type=SCHEME, help="What weights become; `halve schemes` lists them.")
@click.option("--recipe", type=click.Path(path_type=Path), help="A YAML file, or a halve.json, that says all of this.")
@click.option("--layout", type=LAYOUT, help="How they are stored. Default: the first layout that holds the scheme.")
@click.option("--rule", help="How block scales follow from the weights. Default: the best measured for the scheme.")
@click.option("--algorithm", type=ALGORITHM, help="How codes are chosen. Default: rtn, or auto with statistics.")
@click.option("--stats", metavar="FILE", help="Statistics of activations: of `halve calibrate`, or an imatrix.gguf.")
@click.option("--calibrate", multiple=True, metavar="FILE|builtin", help="Gather them from this text, for this job.")
@click.option(
    "--transform",
    "transforms",
    multiple=True,
    type=TRANSFORM,
    help="Rewrite the model exactly, beforehand. Default: with --algorithm auto what usually pays, or none.",
)
@click.option("--conform", type=TOOL, help="Follow another tool's arithmetic, code for code.")
@click.option("--kv", type=click.Choice(["fp8"]), help="Store calibrated scales for a cache of keys and values in FP8.")
@click.option("--ignore", multiple=True, metavar="NAME", help="Leave this tensor or module alone; re:REGEX for many.")
@click.option("--include", multiple=True, metavar="NAME", help="Quantize this matrix too, such as lm_head.")
@click.option(
    "--override",
    "overrides",
    multiple=True,
    type=Override(),
    metavar="NAME=SCHEME",
    help="Another scheme for this tensor or module: re:.*down_proj=mxfp8",
)
@click.option("--budget", metavar="SIZE", help="Mix schemes by layer within 5.0bpw (of quantized weights) or 6GiB.")
@click.option("--allow", multiple=True, type=SCHEME, help="Another scheme that the budget may be spent on.")
@click.option("--hardware", type=MACHINE, help="Only what this machine runs; `halve hardware` lists them.")
@click.option(
    "--on-nonfinite",
    type=click.Choice(["error", "keep"]),
    help="What to do with a tensor that holds NaN or Inf: stop (default), or leave it in its source type.",
)
@click.option("--shard-size", type=Size(), default="5GB", show_default=True, help="Largest weight file.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads. Default: one a processor.")
@click.option(
    "--memory", type=Size(), metavar="SIZE", help="Most memory of the whole process: 1GiB. Default: what pays."
)
@click.option("--cluster", metavar="auto|ADDRESS", help="Let a Ray cluster do it; with --dry-run a number of machines.")
@click.option("--resume", is_flag=True, help="Go on with a job that was interrupted, or start it.")
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE", help="Append stages and progress, as JSON.")
@click.option("--dry-run", is_flag=True, help="Print what would happen to each tensor, and the size; write nothing.")
@json_option
def command(
    *,
    src: str,
    out: str,
    scheme: str | None,
    recipe: Path | None,
    layout: str | None,
    rule: str | None,
    algorithm: str | None,
    stats: str | None,
    calibrate: tuple[str, ...],
    transforms: tuple[str, ...],
    kv: str | None,
    conform: str | None,
    ignore: tuple[str, ...],
    include: tuple[str, ...],
    overrides: tuple[tuple[str, str], ...],
    budget: str | None,
    allow: tuple[str, ...],
    hardware: str | None,
    on_nonfinite: str | None,
    shard_size: int,
    threads: int | None,
    memory: int | None,
    cluster: str | None,
    resume: bool,
    log: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a quantized copy of the checkpoint SRC into the new folder OUT.

    SRC is a folder of safetensors, a GGUF file, the URL of one (s3://, gs://, hf://), or org/name[@revision] on the
    Hugging Face hub. Linear layers are quantized; embeddings, the output head, norms and routers keep their type.
    Memory does not grow with the model.

    \b
    halve quantize model out --scheme nvfp4a16
    halve quantize model out --scheme nvfp4 --calibrate builtin
    halve quantize model.gguf out --scheme w4a16 --ignore 're:.*down_proj'
    """
    from halve.cli.render import progress, show, show_json, show_table, size
    from halve.pipeline.budget import Budget
    from halve.pipeline.expected import expected
    from halve.pipeline.quantize import planned, quantize
    from halve.schemes.recipe import read as read_recipe

    said: dict[str, Any] = {
        "scheme": scheme,
        "layout": layout,
        "rule": rule,
        "algorithm": algorithm,
        "transforms": None if not transforms else tuple(name for name in transforms if name != "none"),
        "kv": kv,
        "conform": conform,
        "ignore": ignore,
        "include": include,
        "overrides": overrides,
        "on_nonfinite": on_nonfinite,
    }
    if recipe is not None:
        written = read_recipe(recipe)
        said = {name: value or getattr(written, name) for name, value in said.items()}
    if said["scheme"] is None:
        raise click.UsageError("say --scheme NAME, or --recipe FILE")
    scheme = said.pop("scheme")
    within = None if budget is None else Budget.parse(budget, lambda text: Size().convert(text, None, None))
    if dry_run:
        said |= {"stats": stats, "budget": within, "allow": allow, "hardware": hardware, "memory": memory}
        plan = planned(src, scheme, threads=threads, out=out, **said)
        total = f"{size(plan.file_bytes(shard_size))} in {len(plan.shards(shard_size))} weight file(s)"
        if cluster is not None:
            if not cluster.isdecimal() or not int(cluster):
                raise click.UsageError("with --dry-run, --cluster is a number of machines like this one")
            found = expected(src, plan, out, int(cluster), stats=stats, shard_bytes=shard_size, threads=threads)
            click.echo(json.dumps(plan.to_json() | {"cluster": found.to_json()}, indent=1) if as_json else found)
            return
        show(plan, as_json=as_json, title=f"{scheme}, {plan.recipe.layout}: {total}", note=plan.summary)
        return
    with progress(f"{scheme}:") as callback:
        result = quantize(
            src,
            out,
            scheme,
            stats=stats,
            calibrate=calibrate,
            budget=within,
            allow=allow,
            hardware=hardware,
            **said,
            shard_bytes=shard_size,
            threads=threads,
            memory=memory,
            cluster=cluster,
            resume=resume,
            log=log,
            progress=callback,
        )
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        show_json(result)
        return
    show_table(("", ""), result.facts(), heads=False, note=f"prove it: halve verify {out} --against {src}")
