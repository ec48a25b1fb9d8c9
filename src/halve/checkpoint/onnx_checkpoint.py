"""An ONNX model as a checkpoint: the weights of its linear layers as [out, in], under names that recipes understand."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from halve.checkpoint.base import DTYPES, Checkpoint, TensorInfo
from halve.checkpoint.hf import AUXILIARY, CONFIG, inside
from halve.checkpoint.onnx_file import AGAIN, OnnxFile
from halve.checkpoint.onnx_graph import Graph, Linear, products
from halve.checkpoint.onnx_source import METHOD, MODEL
from halve.checkpoint.onnx_strips import Strips
from halve.checkpoint.place import content, local
from halve.document import CONFIG_LIMIT, json_object

PRODUCER = "halve"  # of models whose graph halve builds itself, from config.json
_LIMIT = 128 << 20  # bytes of a file beside the model


class OnnxCheckpoint:
    """The model at ``path``: a ``.onnx`` file, or a folder with ``model.onnx``. Implements ``Checkpoint``.

    Tensors are the weights of linear layers, and whatever else is large. A model that is quantized shows its codes,
    scales and zero points as they are stored; which weights they make up is in ``graph``. ``remarks`` say what stays
    as it is for a reason that the user may not expect.

    Raises CheckpointError for a file that is damaged, hostile or no ONNX model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        folder = path.is_dir()
        self._folder = path if folder else None
        self.config: dict[str, Any] = self._config() if folder else {}
        self.file = OnnxFile(local(inside(path, MODEL), "an ONNX model") if folder else path)
        self.files = self.file.files
        self.graph = Graph(self.file.model.graph)
        self.remarks = tuple(f"left alone: {what}" for what in self._left_alone())
        self._strips = Strips()
        self._transposed: set[str] = set()  # tensors that the file holds as [in, out]
        tensors: dict[str, TensorInfo] = {}
        by_value = {linear.value: linear for linear in self.graph.linears.values() if linear.dequantize is None}
        self.initializers: dict[str, str] = {}  # by the name of the tensor
        for initializer, info in self.file.tensors.items():
            linear = by_value.get(initializer)
            tensor = shown(info, linear)
            if linear is not None and linear.transposed:
                self._transposed.add(tensor.name)
            tensors[tensor.name], self.initializers[tensor.name] = tensor, initializer
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)

    @property
    def own(self) -> bool:
        """Whether halve has built the graph and can build it again from ``config``."""
        return self.file.model.producer_name == PRODUCER and "model_type" in self.config

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The name of the layout where a linear layer's weight comes out of a DequantizeLinear, else None."""
        quantized = any(linear.dequantize is not None for linear in self.graph.linears.values())
        return {"quant_method": METHOD} if quantized else None

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name``; return the part filled.

        Raises CheckpointError where the file ends early or cannot be read; ValueError, a mistake of the caller, for
        rows that the tensor does not have and a buffer that is too small.
        """
        info, initializer = self.tensors[name], self.initializers[name]
        if name not in self._transposed:
            return self.file.read(initializer, start, stop, buffer)
        filled = buffer.cast("B")[: (stop - start) * info.row_bytes]
        if not 0 <= start <= stop <= info.rows or len(filled) != (stop - start) * info.row_bytes:
            raise ValueError(f"rows {start} to {stop} of {name}, which has {info.rows}, into {len(buffer)} elements")
        file = cast("Checkpoint", self.file)  # of which only tensors are read
        strip = self._strips.of(name).read(file, initializer, start, stop)
        np.frombuffer(filled, DTYPES[info.dtype]).reshape(stop - start, info.columns)[:] = strip.T
        return filled

    def stored(self, name: str) -> tuple[str, int]:
        """Type of ``name`` in its file, ONNX's name where it is below 8 bits, and its bytes."""
        kind = self.file.types[self.initializers[name]]
        return kind.dtype if kind.bits >= 8 else kind.name, self.tensors[name].nbytes

    def release(self, name: str) -> None:
        """Let the pages of ``name`` leave the page cache."""
        self.file.release(self.initializers[name])

    def auxiliary(self) -> dict[str, bytes]:
        """Files that travel with the weights, the graph without their data among them where halve has not built it."""
        files = {} if self.own else {MODEL: self.file.model.SerializeToString()}
        if self._folder is not None:
            for path in sorted(self._folder.iterdir()):
                if (path.name in AUXILIARY or path.name.startswith("LICENSE")) and path.is_file():
                    files[path.name] = content(inside(self._folder, path.name), _LIMIT)
        return files

    def close(self) -> None:
        """Close the files."""
        self.file.close()

    def _left_alone(self) -> Iterator[str]:
        """Products whose weights are not presented; in graphs of our own nobody expects others."""
        if self.own:
            return
        yield from self.graph.left_alone
        inside = sum(1 for function in self.file.model.functions for _ in products(function))
        if inside:
            yield f"{inside} MatMul or Gemm inside of the model's own functions"

    def _config(self) -> dict[str, Any]:
        """The folder's config.json; empty where there is none."""
        if not (self.path / CONFIG).exists():
            return {}
        return json_object(content(inside(self.path, CONFIG), CONFIG_LIMIT), self.path / CONFIG, hint=AGAIN)


def shown(info: TensorInfo, linear: Linear | None) -> TensorInfo:
    """An initializer as a checkpoint has it.

    A linear layer's weight is [out, in] and called ``*.weight``; no other matrix has a name that recipes take for one.
    """
    if linear is not None:
        return TensorInfo(linear.name, info.dtype, info.shape[::-1] if linear.transposed else info.shape)
    weight = len(info.shape) == 2 and info.name.endswith(".weight") and "embed" not in info.name
    return TensorInfo(f"{info.name}.constant", info.dtype, info.shape) if weight else info
