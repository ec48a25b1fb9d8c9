"""What a target is fed: activations, and keys and values, rounded as it rounds them, in front of float32 products."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from halve import formats, schemes
from halve.checkpoint.base import FLOATS
from halve.codecs import dispatch
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.evaluate.subject import Subject
from halve.formats import Format
from halve.models.fused import fused_group
from halve.runtime.kv_cache import Store
from halve.runtime.linear import Activation, Array
from halve.runtime.model import Model
from halve.runtime.packed.kernels import Mode
from halve.schemes import SCHEMES, Block, Scheme
from halve.schemes.quantize import dequantize, quantize, tensor_scale

Kv = Literal["fp8"]
KV_FORMATS: dict[str, str] = {"fp8": "fp8_e4m3"}  # what engines call it -> its number format


@dataclass(frozen=True, slots=True)
class Operands:
    """How linear layers and attention are fed. What is not named is fed as it comes, in float32.

    ``activations`` are blocks by module; ``scales`` are the scales of static ones, where the checkpoint has them, and
    ``static`` are modules whose scale is taken from the largest input in the text instead.
    """

    activations: Mapping[str, Block] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    static: frozenset[str] = frozenset()
    kv: Format | None = None
    kv_scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by attention module, where stored
    packed: Mode | None = None  # on the packed path, in this mode, instead of the reference path

    @property
    def short(self) -> str:
        """In a word or three."""
        if self.packed is not None:
            return f"packed, {self.packed}"
        parts = ["weights"] + ["activations"] * bool(self.activations) + ["KV"] * (self.kv is not None)
        return " + ".join(parts)

    @property
    def about(self) -> str:
        """In full."""
        if self.packed is not None:
            return (
                f"weights as they are stored, by the kernels of `halve run --act {self.packed}`, the scored half "
                "token by token; keys and values in FP16"
            )
        if not self.activations and self.kv is None:
            return "weights as they are stored; activations, keys and values in FP32"
        parts = ["weights as they are stored"]
        kinds = dict.fromkeys((block, m in self.scales, m in self.static) for m, block in self.activations.items())
        if kinds:
            parts.append(f"activations in {' or '.join(_words(*kind) for kind in kinds)}")
        if self.kv is not None:
            scales = "calibrated scales" if self.kv_scales else "a scale of 1"
            parts.append(f"keys and values in {self.kv.name} under {scales}")
        return "; ".join([*parts, "accumulated in FP32"])


WEIGHTS = Operands()


def _words(block: Block, calibrated: bool, static: bool) -> str:
    match block.block_size:
        case "row":
            per = "token"
        case "tensor":
            per = "tensor"
        case size:
            per = f"{size} columns"
    fixed = "calibrated" if calibrated else "from the largest in these texts (not calibrated)"
    if block.block_size == "tensor":
        return (
            f"{block.element} under a tensor scale {fixed}" if calibrated or static else f"{block.element} per tensor"
        )
    scale = f"{block.element} under a {block.scale} scale per {per}"
    return f"{scale} and a tensor scale {fixed}" if calibrated or static else scale


def resolve(subject: Subject, scheme: str | None, *, activations: bool, kv: str | None) -> Operands:
    """What ``subject``'s target is fed under ``scheme``, by default under the one that each layer is stored in.

    Raises UnsupportedError where that cannot be known or makes no sense, UnknownNameError for names that no table has.
    """
    if kv is not None and kv not in KV_FORMATS:
        raise UnsupportedError(f"no engine stores keys and values as {kv!r}", hint=f"known: {', '.join(KV_FORMATS)}")
    kv_format = None if kv is None else formats.get(KV_FORMATS[kv])
    kv_scales = {} if kv is None else subject.kv_scales
    if not activations:
        if scheme is not None:
            raise UnsupportedError(
                "a scheme says how activations are quantized, and they are not", hint="add --activations"
            )
        return Operands(kv=kv_format, kv_scales=kv_scales)
    rows = _schemes(subject, scheme)
    blocks = {module: row.activation for module, row in rows.items() if row.activation}
    for module, block in blocks.items():
        try:
            block.tile(1, subject.quantized[module].columns)
        except FormatError as error:
            raise UnsupportedError(
                f"{rows[module].name} cannot feed {module}: {error}",
                hint="no engine runs this model so; choose a scheme with rows, or smaller blocks",
            ) from None
    fixed = {module for module in blocks if rows[module].activation_static}
    scales = {m: scale for m in fixed if (scale := subject.quantized[m].input_scale) is not None}
    return Operands(blocks, scales, frozenset(fixed - scales.keys()), kv_format, kv_scales)


def _schemes(subject: Subject, name: str | None) -> dict[str, Scheme]:
    """The scheme of every layer: the one called ``name``, or its own. Some of them have activations."""
    if not subject.quantized:
        raise UnsupportedError(
            f"{subject.path} is not quantized: no engine quantizes activations in front of such weights",
            hint="quantize it first, or leave out --activations",
        )
    stored = {_kind(layer.scheme.weight) for layer in subject.quantized.values()}
    fitting = [s.name for s in SCHEMES.values() if s.activation is not None and _kind(s.weight) in stored]
    hint = f"say --scheme {' or '.join(fitting)}" if fitting else "leave out --activations"
    if name is None:
        own = {module: layer.scheme for module, layer in subject.quantized.items()}
        if not any(scheme.activation for scheme in own.values()):
            raise UnsupportedError(f"{subject.path}: {subject.label} leaves activations in 16 bits", hint=hint)
        return own
    row = schemes.get(name)
    if row.activation is None:
        raise UnsupportedError(f"{subject.path}: {row.name} leaves activations in 16 bits", hint=hint)
    if row.name not in fitting:
        weights = sorted({f"{element} under {scale} scales" for element, scale, _ in stored})
        raise UnsupportedError(
            f"{subject.path} has weights in {', '.join(weights)}: they are not {row.name}'s", hint=hint
        )
    return dict.fromkeys(subject.quantized, row)


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


def largest_of(operands: Operands) -> dict[str, Largest]:
    """A `Largest` for each fused group whose scale is not in the checkpoint: layers that run as one have one input."""
    return {fused_group(module): Largest() for module in operands.static}


def quantizers(operands: Operands, largest: Mapping[str, Largest]) -> dict[str, Activation]:
    """What rounds the inputs of each fused group; static ones under their scale, or by the ``largest`` seen."""
    found: dict[str, Activation] = {}
    for module, block in operands.activations.items():
        group, scale = fused_group(module), operands.scales.get(module)
        if module in operands.static:
            scale = static_scale(block, largest[group].amax)
        found.setdefault(group, _quantizer(block, group, scale))
    return found


def static_scale(block: Block, amax: float) -> float:
    """The tensor scale of static activations whose largest magnitude is ``amax``; 1 where they are all zero."""
    if block.tensor_scale:
        return tensor_scale(block, amax) or 1.0
    return float(np.float32(amax or block.element_format.max) / np.float32(block.element_format.max))


def _quantizer(block: Block, group: str, scale: float | None) -> Activation:
    def activation(inputs: Array) -> Array:
        if scale is not None and not block.tensor_scale:
            return rounded(block.element_format, inputs / np.float32(scale)) * np.float32(scale)
        try:
            return dequantize(quantize(block, inputs, tensor_scale=scale))
        except FormatError:
            raise CheckpointError(
                f"the inputs of {group} are not finite once activations are quantized",
                hint="`halve verify` finds damaged tensors; without --activations the first such layer is named",
            ) from None

    return activation


def kv_store(operands: Operands) -> Store:
    """What a cache does to keys and values as it stores them."""
    kv = operands.kv
    assert kv is not None  # noqa: S101 - the caller has looked
    scales = {int(n[1]): pair for name, pair in operands.kv_scales.items() if (n := _LAYER.search(name))}

    def store(layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        k, v = (np.float32(scale) for scale in scales.get(layer, (1.0, 1.0)))
        return rounded(kv, keys / k) * k, rounded(kv, values / v) * v

    return store


_LAYER = re.compile(r"\.layers\.(\d+)\.")


def rounded(number_format: Format, values: Array) -> Array:
    """The nearest numbers of ``number_format``, saturating."""
    return dispatch.decode(number_format, dispatch.encode(number_format, values))


@contextmanager
def attached(model: Model, modules: Iterable[str], activations: Mapping[str, Activation]) -> Iterator[None]:
    """Within the context, ``model`` feeds the inputs of ``modules`` through what their fused group has been given."""
    linears = [model.linears[module] for module in modules if fused_group(module) in activations]
    for linear in linears:
        linear.activation = activations[fused_group(linear.name)]
    try:
        yield
    finally:
        for linear in linears:
            linear.activation = None
