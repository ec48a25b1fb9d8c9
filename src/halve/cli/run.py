"""``halve run``: talk to a model in the terminal."""

from typing import TYPE_CHECKING, Any

import click

from halve.cli.parameter import ACTIVATIONS, json_option

if TYPE_CHECKING:
    from halve.runtime.generate import Generated, Stream
    from halve.runtime.language_model import LanguageModel
    from halve.runtime.packed.cache import Kv
    from halve.runtime.packed.kernels import Mode


@click.command()
@click.argument("path")
@click.argument("prompt", required=False)
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: the likeliest.")
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens that together have this probability.",
)
@click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="Draw from so many; 0: all.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same draws.")
@click.option(
    "--act", type=click.Choice(ACTIVATIONS), default="bf16", show_default=True, help="How activations multiply."
)
@click.option(
    "--kv", type=click.Choice(["fp16", "fp8"]), default="fp16", show_default=True, help="How keys and values are kept."
)
@click.option("-t", "--threads", type=click.IntRange(min=1), help="Threads that compute.  [default: all cores]")
@click.option("--reference", is_flag=True, help="Float32 in numpy: right, not fast.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it stands, without the chat template.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    path: str,
    prompt: str | None,
    act: "Mode",
    kv: "Kv",
    threads: int | None,
    reference: bool,
    as_json: bool,
    raw: bool,
    **options: Any,
) -> None:
    """Talk to the model PATH: a folder, a GGUF file, or org/name; dense or quantized.

    With PROMPT, print the answer and exit. Without, chat: Ctrl-C stops an answer, Ctrl-D leaves. Weights stay in the
    precision in which they are stored, and multiply activations in bf16 (--act bf16), int8 or float32 (exact). Where
    native code does not know the model, and with --reference, weights are dequantized to float32 and run in numpy.

    \b
    halve run halve-demo/nvfp4a16 "Why is the sky blue?"
    """
    if prompt is None and as_json:
        raise click.UsageError("--json needs PROMPT", ctx)
    from halve.runtime.load import load
    from halve.runtime.packed.load import load_quickest

    options["chat"] = not raw
    model = load(path, threads=threads) if reference else load_quickest(path, mode=act, kv=kv, threads=threads)
    if prompt is None:
        _chat(model, options)
        return
    stream = model.stream(prompt, **options)
    if as_json:
        from halve.cli.render import show_json

        for _ in stream:
            pass
        show_json(stream.result)
        return
    try:
        _print(stream)
    finally:
        _tell(stream.result)


def _chat(model: "LanguageModel[Any]", options: dict[str, Any]) -> None:
    """Questions and answers until the input ends. The cache keeps what has been read, so a turn costs only itself."""
    from halve.errors import HalveError

    messages: list[dict[str, str]] = []
    cache = model.new_cache()
    click.echo(f"{model.path}: type a message; Ctrl-C stops an answer, Ctrl-D leaves", err=True)
    while (question := _question()) is not None:
        if not question.strip():
            continue
        asked = [*messages, {"role": "user", "content": question}]
        try:
            stream = model.stream(asked if options["chat"] else question, cache=cache, **options)
        except HalveError as error:  # a question that is too long is no reason to lose the conversation
            click.echo(f"error: {error}", err=True)
            continue
        try:
            _print(stream)
        except KeyboardInterrupt:
            click.echo()
        _tell(stream.result)
        messages = [*asked, {"role": "assistant", "content": stream.result.text}]


def _question() -> str | None:
    """A line of input; None at its end. Ctrl-C drops the line."""
    while True:
        click.echo("> ", err=True, nl=False)
        try:
            return input()
        except KeyboardInterrupt:
            click.echo(err=True)
        except EOFError:
            click.echo(err=True)
            return None


def _print(stream: "Stream") -> None:
    for piece in stream:
        click.echo(piece, nl=False)
    click.echo()


def _tell(result: "Generated") -> None:
    click.echo(click.style(str(result.statistics), dim=True), err=True)
