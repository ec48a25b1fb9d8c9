"""``onnx-qdq``: an ONNX model whose weights come out of DequantizeLinear. Facts tried with onnx 1.23, onnxruntime 1.32.

A folder holds ``model.onnx``, the graph, and ``model.onnx.data``, its tensors, which the graph names by place. Types,
shapes and byte order of a weight's initializers are in `halve.onnx.parts`, the nodes in `halve.onnx.qdq`.

| of a scheme | is |
|---|---|
| weights | DequantizeLinear of codes [in, out], with ``axis`` for rows, ``block_size`` for blocks |
| scales in FP16, BF16, E8M0 | Cast to FLOAT first |
| NVFP4's scales | E4M3, through a DequantizeLinear under the tensor scale |
| 128x128 tiles | a scale a tile, repeated by Gather |
| activations by token, or in blocks | QuantizeLinear and DequantizeLinear with ``block_size``, scale from ReduceMax |
| static activations | QuantizeLinear and DequantizeLinear under ``X.input_scale`` |

The opset is the lowest that has the types: 13 for INT8 rows (19 in graphs that halve builds), 19 for FP8 rows, 21 for
INT4, blocks and activations, 23 for FP4, 24 for E8M0. FP6 and NF4 have no type in ONNX. onnxruntime's CPU provider runs
all but FP4, for which it has no DequantizeLinear; by default it fuses INT4 and INT8 weights into MatMulNBits, which
rounds activations to 8 bits unless ``session.qdq_matmulnbits_accuracy_level`` is 1.

There are two kinds of graph: the prefill graph of the Llama family (`halve.onnx.graph`), for checkpoints with a
config.json, and that of an ONNX source with the weights of MatMul and Gemm replaced (`halve.onnx.rewrite`).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakKeyDictionary

from numpy.typing import NDArray

from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo, read_array
from halve.checkpoint.onnx_source import METHOD, MODEL, require
from halve.checkpoint.onnx_strips import Strips
from halve.checkpoint.onnx_types import BY_FORMAT
from halve.checkpoint.place import Place
from halve.checkpoint.transposed import TransposedShard
from halve.errors import UnsupportedError
from halve.layouts.base import CONFIG, Contents, Layout, Stored, Support, WeightFile, as_json, quant_method
from halve.onnx import external, parts
from halve.onnx.parts import Part, Parts
from halve.schemes import Scheme
from halve.schemes.qtensor import QTensor

if TYPE_CHECKING:
    from onnx import ModelProto

    from halve.checkpoint.onnx_checkpoint import OnnxCheckpoint

DATA = f"{MODEL}.data"
_ENGINES = ("onnxruntime 1.32", "onnx 1.23 (reference evaluator)")
_DTYPE = {number_format: dtype for dtype, number_format in FLOATS.items()}


class OnnxQdq(Layout):
    """One graph, one file of data."""

    name: ClassVar[str] = METHOD
    about: ClassVar[str] = "an ONNX graph whose weights come out of DequantizeLinear"
    shards_alone: ClassVar[bool] = False
    strips: ClassVar[bool] = True

    def __init__(self) -> None:
        self._strips = Strips()
        self._matched: WeakKeyDictionary[Checkpoint, dict[str, Parts]] = WeakKeyDictionary()

    def supports(self, scheme: Scheme) -> Support:
        """Every element that ONNX's DequantizeLinear knows, and casts."""
        if scheme.dense:
            return Support(engines=_ENGINES)
        blocks = [scheme.weight] + ([scheme.activation] if scheme.activation else [])
        for block in blocks:
            if refused := parts.refusal(block):
                return Support(refused)
        fp4 = any(BY_FORMAT[block.element].name == "FLOAT4E2M1" for block in blocks)
        return Support(engines=_ENGINES[1:] if fp4 else _ENGINES)

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """The cast tensor; else codes, scales, and what the scheme adds."""
        if scheme.dense:
            return [TensorInfo(weight.name, _DTYPE[scheme.weight.element], weight.shape)]
        return [part.info for part in _parts(weight, scheme)]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows; what the file holds as [in, out] comes column after column."""
        if scheme.dense:
            return {weight.name: q.codes.view(DTYPES[_DTYPE[q.block.element]])}
        return parts.write(_parts(weight, scheme), q, first_row, input_scale)

    def config(self, contents: Contents) -> dict[str, Any]:
        """Nothing: the graph says all."""
        del contents
        return {}

    def files(self, contents: Contents) -> dict[str, bytes]:
        """What travels with the model, and config.json where there is one."""
        files = {name: content for name, content in contents.auxiliary.items() if name != MODEL}
        return files | ({CONFIG: as_json(contents.config)} if contents.config else {})

    def weight_files(self, out: Place, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[WeightFile]:
        """The data, and the graph behind it. Raises UnsupportedError for a model whose graph halve cannot make."""
        plan = _Plan(shards, contents)
        data = external.DataFile(out / DATA, plan.stored)
        try:
            graph = external.GraphFile(out / MODEL, plan.graph)
        except BaseException:
            data.discard()
            raise
        return [TransposedShard(cast("Any", data), plan.columns), graph]

    def index(self, files: Sequence[WeightFile]) -> dict[str, bytes]:
        """None: the graph says where tensors are."""
        del files
        return {}

    def file_bytes(self, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> int:
        """Bytes of graph and data."""
        plan = _Plan(shards, contents)
        return len(plan.graph) + external.places(plan.stored).nbytes

    def detect(self, checkpoint: Checkpoint) -> bool:
        """An ONNX model with quantized weights."""
        return quant_method(checkpoint) == METHOD

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The weights of linear layers that come out of a DequantizeLinear."""
        linears = cast("OnnxCheckpoint", checkpoint).graph.linears
        found = {name: self._parts(checkpoint, name) for name, one in linears.items() if one.dequantize is not None}
        return {
            name: Stored(name, stored.shape, stored.scheme, tuple(part.name for part in stored))
            for name, stored in found.items()
        }

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        return parts.read(checkpoint, self._parts(checkpoint, stored.name), start, stop, self._strips.of(stored.name))

    def input_scale(self, checkpoint: Checkpoint, stored: Stored) -> float | None:
        """The scale of static activations."""
        part = self._parts(checkpoint, stored.name).input_scale
        return None if part is None else float(read_array(checkpoint, part.name))

    def _parts(self, checkpoint: Checkpoint, name: str) -> Parts:
        """What the weight ``name`` lies in."""
        from halve.onnx import match  # noqa: PLC0415 - needs onnx

        model, known = cast("OnnxCheckpoint", checkpoint), self._matched.setdefault(checkpoint, {})
        if name not in known:
            known[name] = match.weight(model, model.graph.linears[name])
        return known[name]


class _Plan:
    """What the two files of a model hold. Reads no weights."""

    def __init__(self, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> None:
        require("layout onnx-qdq")
        self._entries = [entry for shard in shards for entry in shard]
        quantized = {name: scheme for name, scheme in contents.quantized.items() if not scheme.dense}
        self._model, placed = self._built(quantized, contents)
        of_entry = dict(zip((entry.name for entry in self._entries), placed, strict=True))
        self.columns = {name for name, part in of_entry.items() if part.columns}
        self._names = {part.name: name for name, part in of_entry.items()}
        self.stored = [TensorInfo(name, part.info.dtype, part.info.shape) for name, part in of_entry.items()]

    def _built(self, quantized: dict[str, Scheme], contents: Contents) -> "tuple[ModelProto, list[Part]]":
        from halve.onnx import graph, rewrite  # noqa: PLC0415 - need onnx

        if (source := contents.auxiliary.get(MODEL)) is not None:
            return rewrite.rewritten(source, self._entries, contents.quantized)
        try:
            return graph.prefill(contents.config, self._entries, quantized, str(contents.config.get("model_type")))
        except UnsupportedError as error:
            raise UnsupportedError(
                f"layout onnx-qdq cannot make this model's graph: {error}",
                hint=f"{error.hint}; other models: export them to ONNX yourself, then `halve quantize MODEL.onnx`",
            ) from None

    @cached_property
    def graph(self) -> bytes:
        """The file of the graph."""
        begins = external.places(self.stored).begins
        sizes = {info.name: info.nbytes for info in self.stored}
        for tensor in self._model.graph.initializer:
            if (name := self._names.get(tensor.name)) is None:
                continue
            del tensor.external_data[:]
            for key, value in (("location", DATA), ("offset", begins[name]), ("length", sizes[name])):
                tensor.external_data.add(key=key, value=str(value))
        content: bytes = self._model.SerializeToString(deterministic=True)
        return content


def _parts(weight: TensorInfo, scheme: Scheme) -> Parts:
    return parts.parts(weight.name, (weight.rows, weight.columns), scheme)


LAYOUT = OnnxQdq()
