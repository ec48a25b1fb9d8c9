"""What a model with QuantizeLinear and DequantizeLinear says: the float graph between, and the range of each value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from halve.checkpoint.onnx_file import OnnxFile
from halve.errors import UnsupportedError

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True, slots=True)
class Stripped:
    """``proto`` computes in float, with the values that weights and biases had as codes.

    ``ranges`` are the smallest and largest value that an activation's codes stand for, ``wide`` the activations that
    have more than 8 bits; names are those of ``proto``.
    """

    proto: ModelProto
    ranges: Mapping[str, tuple[float, float]]
    wide: frozenset[str]


def stripped(path: Path) -> Stripped:
    """Read the model at ``path``.

    Raises CheckpointError for a file that is damaged, UnsupportedError for one without QuantizeLinear, and where the
    scale of an activation is no constant.
    """
    OnnxFile(path).close()
    proto = onnx.load(str(path))
    graph = proto.graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    if not any(node.op_type == _Q for node in graph.node):
        raise UnsupportedError(f"{path}: there is no {_Q} in it", hint="make it with `halve edge quantize`")
    ranges: dict[str, tuple[float, float]] = {}
    wide: set[str] = set()
    sources: dict[str, str] = {}  # what codes and rounded values were made of
    kept: list[NodeProto] = []
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = sources.get(name, name)
        if node.op_type == _Q:
            name = node.input[0]
            codes = _codes(node, constants, path)
            ranges[name] = codes.low, codes.high
            if codes.bits > 8:
                wide.add(name)
            sources[node.output[0]] = name
        elif node.op_type == _DQ and node.input[0] in constants:
            value = _values(node, constants)
            constants[node.output[0]] = value
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        elif node.op_type == _DQ:
            sources[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    # Other tools round the outputs as well: what was rounded takes the name of the output.
    named = {sources[one.name]: one.name for one in graph.output if one.name in sources}
    _rename(kept, named)
    ranges = {named.get(name, name): value for name, value in ranges.items()}
    wide = {named.get(name, name) for name in wide}
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    initializers = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    plain = [one for one in proto.opset_import if one.domain != "com.microsoft"]
    del proto.opset_import[:]
    proto.opset_import.extend(plain)
    return Stripped(proto, ranges, frozenset(wide))


def _rename(nodes: Sequence[NodeProto], named: Mapping[str, str]) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = named.get(name, name)


@dataclass(frozen=True, slots=True)
class _Codes:
    low: float
    high: float
    bits: int


def _codes(node: NodeProto, constants: Mapping[str, NDArray[np.generic]], path: Path) -> _Codes:
    """What the codes of a QuantizeLinear reach from and to."""
    missing = [name for name in node.input[1:] if name and name not in constants]
    if missing:
        raise UnsupportedError(f"{path}: {missing[0]} is computed while the model runs", hint="use a static range")
    scale = float(np.max(constants[node.input[1]].astype(np.float64)))
    zero = constants[node.input[2]].reshape(-1)[:1] if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
    kind, offset = np.iinfo(zero.dtype.str), int(zero[0])
    return _Codes((kind.min - offset) * scale, (kind.max - offset) * scale, kind.bits)


def _values(node: NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """The constant that a DequantizeLinear gives."""
    codes, scale = constants[node.input[0]], constants[node.input[1]].astype(np.float32)
    zero = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros((), np.int32)
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    if scale.ndim == 1 and codes.ndim:
        shape = [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)]
        scale = scale.reshape(shape)
        zero = zero.reshape(shape) if zero.ndim == 1 else zero
    values: NDArray[np.float32] = (codes.astype(np.int64) - zero.astype(np.int64)).astype(np.float32) * scale
    return values
