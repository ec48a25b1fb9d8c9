"""What a target is fed: activations, and keys and values, rounded as it rounds them, in front of float32 products."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from halve import formats, schemes
from halve.checkpoint.base import FLOATS
from halve.codecs import dispatch
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.evaluate.subject import Subject
from halve.formats import Format
from halve.models.fused import fused_group
from halve.runtime.linear import Activation, Array
from halve.runtime.model import Model
from halve.schemes import SCHEMES, Block, Scheme
from halve.schemes.quantize import dequantize, quantize, tensor_scale

Kv = Literal["fp8"]
KV_FORMATS: dict[str, str] = {"fp8": "fp8_e4m3"}  # what engines call it -> its number format


@dataclass(frozen=True, slots=True)
class Operands:
    """How linear layers and attention are fed. None: as they come, in float32."""

    activation: Block | None = None
    static: bool = False  # the activations' tensor scale is fixed beforehand, by the largest one in the text
    kv: Format | None = None

    @property
    def short(self) -> str:
        """In a word or three."""
        parts = ["weights"] + ["activations"] * (self.activation is not None) + ["KV"] * (self.kv is not None)
        return " + ".join(parts)

    @property
    def about(self) -> str:
        """In full."""
        if self.activation is None and self.kv is None:
            return "weights as they are stored; activations, keys and values in FP32"
        parts = ["weights as they are stored"]
        if self.activation is not None:
            parts.append(f"activations in {_words(self.activation, static=self.static)}")
        if self.kv is not None:
            parts.append(f"keys and values in {self.kv.name} under a scale of 1")
        return "; ".join([*parts, "accumulated in FP32"])


WEIGHTS = Operands()


def _words(block: Block, *, static: bool) -> str:
    match block.block_size:
        case "row":
            per = "token"
        case "tensor":
            per = "tensor"
        case size:
            per = f"{size} columns"
    scale = "" if static and block.block_size == "tensor" else f" under a {block.scale} scale per {per}"
    fixed = " and a tensor scale" if block.tensor_scale else " under a tensor scale"
    return block.element + scale + (f"{fixed} from the largest in these texts (not calibrated)" if static else "")


def resolve(subject: Subject, scheme: str | None, *, activations: bool, kv: str | None) -> Operands:
    """What ``subject``'s target is fed under ``scheme``, by default the one that halve.json names.

    Raises UnsupportedError where that cannot be known or makes no sense, UnknownNameError for names that no table has.
    """
    if kv is not None and kv not in KV_FORMATS:
        raise UnsupportedError(f"no engine stores keys and values as {kv!r}", hint=f"known: {', '.join(KV_FORMATS)}")
    kv_format = None if kv is None else formats.get(KV_FORMATS[kv])
    if not activations:
        if scheme is not None:
            raise UnsupportedError(
                "a scheme says how activations are quantized, and they are not", hint="add --activations"
            )
        return Operands(kv=kv_format)
    row = _scheme(subject, scheme)
    assert row.activation is not None  # noqa: S101 - `_scheme` has checked
    for module, columns in subject.columns.items():
        try:
            row.activation.tile(1, columns)
        except FormatError as error:
            raise UnsupportedError(
                f"{row.name} cannot feed {module}: {error}",
                hint="no engine runs this model so; choose a scheme with rows, or smaller blocks",
            ) from None
    return Operands(row.activation, row.activation_static, kv_format)


def _scheme(subject: Subject, name: str | None) -> Scheme:
    """The scheme called ``name``, or by default ``subject``'s; it has activations, and weights like ``subject``'s."""
    if not subject.blocks:
        raise UnsupportedError(
            f"{subject.path} is not quantized: no engine quantizes activations in front of such weights",
            hint="quantize it first, or leave out --activations",
        )
    stored = {_kind(block) for block in subject.blocks.values()}
    fitting = [s.name for s in SCHEMES.values() if s.activation is not None and _kind(s.weight) in stored]
    hint = f"say --scheme {' or '.join(fitting)}" if fitting else "leave out --activations"
    if name is None and not subject.scheme:
        raise UnsupportedError(f"{subject.path} does not say how activations are quantized (no halve.json)", hint=hint)
    row = schemes.get(name or subject.scheme)
    if row.activation is None:
        raise UnsupportedError(f"{subject.path}: {row.name} leaves activations in 16 bits", hint=hint)
    if row.name not in fitting:
        weights = sorted({f"{element} under {scale} scales" for element, scale, _ in stored})
        raise UnsupportedError(
            f"{subject.path} has weights in {', '.join(weights)}: they are not {row.name}'s", hint=hint
        )
    return row


def _kind(block: Block) -> tuple[str, str, bool]:
    """What two blocks have in common if one engine kernel reads both: element, kind of scale, tiles or not."""
    scale = "float" if block.scale in FLOATS.values() else str(block.scale)
    return block.element, scale, isinstance(block.block_size, tuple)


class Largest:
    """Remembers the largest magnitude of what passes, and changes nothing."""

    def __init__(self) -> None:
        self.amax = 0.0

    def __call__(self, inputs: Array) -> Array:
        self.amax = max(self.amax, float(np.abs(inputs).max(initial=0)))
        return inputs


def largest_of(modules: Iterable[str]) -> dict[str, Largest]:
    """A `Largest` for each fused group of ``modules``: layers that run as one have one input."""
    return {group: Largest() for group in map(fused_group, modules)}


def quantizers(
    operands: Operands, modules: Iterable[str], largest: Mapping[str, Largest] | None = None
) -> dict[str, Activation]:
    """What rounds the inputs of each fused group of ``modules``; where that is static, by the ``largest`` seen."""
    block = operands.activation
    if block is None:
        return {}
    amax = {group: seen.amax for group, seen in (largest or {}).items()}
    return {group: _quantizer(block, group, amax.get(group)) for group in map(fused_group, modules)}


def _quantizer(block: Block, group: str, amax: float | None) -> Activation:
    step = None if amax is None else np.float32(amax or 1) / np.float32(block.element_format.max)
    scale = None if amax is None else tensor_scale(block, amax)

    def activation(inputs: Array) -> Array:
        if step is not None and block.block_size == "tensor":
            return rounded(block.element_format, inputs / step) * step
        try:
            return dequantize(quantize(block, inputs, tensor_scale=scale))
        except FormatError:
            raise CheckpointError(
                f"the inputs of {group} are not finite once activations are quantized",
                hint="`halve verify` finds damaged tensors; without --activations the first such layer is named",
            ) from None

    return activation


def rounded(number_format: Format, values: Array) -> Array:
    """The nearest numbers of ``number_format``, saturating."""
    return dispatch.decode(number_format, dispatch.encode(number_format, values))


@contextmanager
def attached(model: Model, modules: Iterable[str], activations: Mapping[str, Activation]) -> Iterator[None]:
    """Within the context, ``model`` feeds the inputs of ``modules`` through what their fused group has been given."""
    linears = [model.linears[module] for module in modules] if activations else []
    for linear in linears:
        linear.activation = activations[fused_group(linear.name)]
    try:
        yield
    finally:
        for linear in linears:
            linear.activation = None
