"""``halve plan``: which machine serves or trains a model, how fast, and at what cost."""

from pathlib import Path

import click

from halve.cli.parameter import DURATION, SCHEME, TOKENS, json_option


@click.command()
@click.argument("model")
@click.option("--hardware", multiple=True, metavar="NAME", help="A machine, `this`, or `all` (default); repeatable.")
@click.option("--scheme", "schemes", type=SCHEME, multiple=True, help="Only these. Default: the best of 16, 8, 4 bits.")
@click.option("--ttft", type=DURATION, help="Most time to the first token: 2s, 500ms.")
@click.option("--tpot", type=DURATION, help="Most time between two tokens: 50ms.")
@click.option("--context", type=TOKENS, default="9k", show_default=True, help="Tokens of a request, written ones too.")
@click.option("--output", type=TOKENS, default="1k", show_default=True, help="Tokens that are written.")
@click.option("--batch", type=click.IntRange(1, 65536), help="Requests at once, all groups.  [default: what pays]")
@click.option("--train", "training", is_flag=True, help="Plan training instead: memory and time in four precisions.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page that opens offline.")
@json_option
def command(
    *,
    model: str,
    hardware: tuple[str, ...],
    schemes: tuple[str, ...],
    ttft: float | None,
    tpot: float | None,
    context: int,
    output: int,
    batch: int | None,
    training: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Rank machines, precisions, cuts and batches for MODEL by what a million tokens cost.

    MODEL is a folder, a GGUF file, a config.json, the URL of one, org/name, or the name of a published model. Nothing
    is downloaded; of a URL, headers are read.

    \b
    halve plan Llama-3.1-8B --ttft 2s --tpot 50ms --context 32k
    halve plan Qwen3-0.6B --hardware rk3588
    halve plan Llama-3.1-8B --train --hardware B200
    """
    from halve.cli.render import show
    from halve.plan.factors import fitted
    from halve.plan.serving import serve
    from halve.plan.train import train

    if training:
        if html or ttft or tpot or schemes or batch:
            raise click.UsageError("--train has no --html, --ttft, --tpot, --batch and --scheme")
        trained = train(model, hardware=hardware or ("B200", "VR200-NVL72"))
        show(trained, as_json=as_json, note=trained.summary)
        return
    if html is not None:
        from halve.evaluate import page, plan_page

        page.check(html)
    found = serve(
        model,
        hardware=hardware or ("all",),
        scheme=schemes,
        ttft=ttft,
        tpot=tpot,
        context=context,
        output=output,
        batch=batch,
    )
    if html is not None:
        plan_page.write(html, found)
        click.echo(f"page: {html}", err=True)
    low, high = fitted().intervals["first"]
    note = "TPOT with p10-p90 of models that the fit did not see. $: on demand, 60 % of the hours used.\n"
    note += f"TTFT of servers with as many users as the batch; p10-p90 {low:.2g} to {high:.2g} times what is shown.\n"
    note += f"To get the first: {found.command}" if found.command else "The first serves the weights as they are."
    show(found, as_json=as_json, title=found.summary, note=note)
