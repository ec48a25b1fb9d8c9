"""An ONNX model whose weights are read by rows: the graph in memory, initializers inside it or in files beside it.

A model may come from anybody. Before any data is read: no external file lies outside of the model's folder, every
tensor's bytes are as many as its shape needs and lie within their file, and names are not used twice.

Specification: https://github.com/onnx/onnx/blob/main/docs/IR.md and ExternalData.md
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from halve.checkpoint.base import FLOATS, TensorInfo
from halve.checkpoint.onnx_types import TYPES, OnnxType
from halve.checkpoint.storage import FileReader
from halve.errors import CheckpointError, UnsupportedError

MAX_FILE = (1 << 31) - 1  # bytes of a protobuf message
MAX_ELEMENTS = 1 << 48  # of one tensor
LARGE = 1024  # bytes: smaller tensors stay in the graph, for shapes are inferred from some of them
_QDQ = ("DequantizeLinear", "QuantizeLinear")  # what they take is read, however small
AGAIN = "the file is incomplete, damaged or not what it claims to be: export or copy it again"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's bytes are: in memory, or in a file from ``offset`` on."""

    data: NDArray[np.uint8] | None = None
    reader: FileReader | None = None
    offset: int = 0


class OnnxFile:
    """The model in the file ``path``.

    ``model`` is the graph without the data of its large initializers, which `read` gives. Tensors in ``Constant`` nodes
    of the main graph become initializers where they are large. ``tensors`` are bytes as they are stored, ``types`` and
    ``dims`` what ONNX says of them.

    Raises CheckpointError for a file that is no ONNX model, or whose tensors cannot be where it says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model: ModelProto = parse(path)
        self.types: dict[str, OnnxType] = {}
        self.dims: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, _Place] = {}
        self._readers: dict[str, FileReader] = {}
        self._wanted = {name for node in self.model.graph.node if node.op_type in _QDQ for name in node.input}
        tensors: dict[str, TensorInfo] = {}
        _hoist(self.model.graph)
        try:
            for tensor in self._initializers():
                if (info := self._detach(tensor)) is not None:
                    tensors[info.name] = info
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)

    @property
    def files(self) -> tuple[Path, ...]:
        """The model's file and those of its external data."""
        return (self.path, *(reader.path for reader in self._readers.values()))

    def external(self, name: str) -> bool:
        """Whether tensor ``name`` lies in a file of its own."""
        return self._places[name].reader is not None

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Fill ``buffer`` with rows ``start..stop`` of tensor ``name`` as stored; return the part filled.

        Raises CheckpointError where the file ends early or cannot be read.
        """
        info, place = self.tensors[name], self._places[name]
        filled = buffer.cast("B")[: (stop - start) * info.row_bytes]
        if not 0 <= start <= stop <= info.rows or len(filled) != (stop - start) * info.row_bytes:
            raise ValueError(f"rows {start} to {stop} of {name}, which has {info.rows}, into {len(buffer)} elements")
        begin = start * info.row_bytes
        if place.reader is not None:
            place.reader.read_into(place.offset + begin, filled, name)
        elif place.data is not None:
            filled[:] = place.data[begin : begin + len(filled)].data
        return filled

    def release(self, name: str) -> None:
        """Let the pages of ``name`` leave the page cache."""
        place = self._places[name]
        if place.reader is not None:
            place.reader.drop(place.offset, place.offset + self.tensors[name].nbytes)

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.close()

    def _initializers(self) -> Iterator[TensorProto]:
        seen: set[str] = set()
        for tensor in self.model.graph.initializer:
            if not tensor.name or tensor.name in seen:
                raise CheckpointError(f"{self.path}: two initializers are called {tensor.name!r}", hint=AGAIN)
            seen.add(tensor.name)
            yield tensor

    def _detach(self, tensor: TensorProto) -> TensorInfo | None:
        """Take the data out of a large initializer; None where it stays in the graph."""
        dims = tuple(int(size) for size in tensor.dims)
        if any(size < 0 for size in dims) or prod(size or 1 for size in dims) > MAX_ELEMENTS:
            self._fail(tensor, f"shape {list(dims)} cannot be")
        kind = TYPES.get(tensor.data_type)
        outside = tensor.data_location == TensorProto.EXTERNAL
        if kind is None:
            if outside:
                self._fail(tensor, f"type {tensor.data_type} is not one that halve reads from a file")
            return None
        info = kind.info(tensor.name, dims)
        if not (outside or is_large(tensor) or tensor.name in self._wanted):
            return None
        place = self._outside(tensor, info) if outside else _Place(self._inside(tensor, info))
        self.types[info.name], self.dims[info.name], self._places[info.name] = kind, dims, place
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        return info

    def _inside(self, tensor: TensorProto, info: TensorInfo) -> NDArray[np.uint8]:
        if tensor.HasField("raw_data"):
            raw = np.frombuffer(tensor.raw_data, np.uint8)
            tensor.ClearField("raw_data")
        else:  # numbers one by one, as small converters write them
            try:
                array = numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                self._fail(tensor, f"its numbers cannot be read: {error}")
            raw = _packed(array, TYPES[tensor.data_type])
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
        if len(raw) != info.nbytes:
            self._fail(tensor, f"shape {list(tensor.dims)} needs {info.nbytes} bytes, and it has {len(raw)}")
        return raw

    def _outside(self, tensor: TensorProto, info: TensorInfo) -> _Place:
        found = {entry.key: entry.value for entry in tensor.external_data}
        location = found.get("location", "")
        reader = self._readers.get(location)
        if reader is None:
            reader = self._readers[location] = FileReader(self._beside(tensor, location))
        try:
            offset = int(found.get("offset", "0") or 0)
            nbytes = int(found["length"]) if found.get("length") else reader.size - offset
        except ValueError:
            self._fail(tensor, f"its place {found!r} is not a number of bytes")
        if nbytes != info.nbytes:
            self._fail(tensor, f"shape {list(tensor.dims)} needs {info.nbytes} bytes, and it has {nbytes}")
        if not 0 <= offset <= reader.size - nbytes:
            self._fail(
                tensor,
                f"bytes {offset} to {offset + nbytes} lie outside of {location}, which has {reader.size}",
                hint="the file was cut off: export or copy it again",
            )
        return _Place(reader=reader, offset=offset)

    def _beside(self, tensor: TensorProto, location: str) -> Path:
        """The path of an external file. Raises CheckpointError for one outside of the model's folder."""
        folder = self.path.parent
        parts = Path(location).parts
        if not parts or Path(location).is_absolute() or ".." in parts or "\0" in location:
            self._fail(
                tensor,
                f"refused: its data is to be in {location!r}, which is no file in the folder of the model",
                hint="a model with such paths is damaged or hostile: get it again from a source that you trust",
            )
        path = folder / location
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            missing = isinstance(error, FileNotFoundError)
            self._fail(
                tensor,
                f"its data is to be in {path}, which {'is missing' if missing else f'cannot be opened: {error}'}",
                hint="copy the files of external data beside the model",
            )
        # In a Hugging Face cache the model and its data are links into one folder.
        if not any(real.is_relative_to(root) for root in (folder.resolve(), self.path.resolve().parent)):
            self._fail(
                tensor,
                f"refused: {path} is a link to {real}, outside of the model's folder",
                hint="copy the file into the folder, if that is where it should come from",
            )
        return path

    def _fail(self, tensor: TensorProto, why: str, hint: str = AGAIN) -> NoReturn:
        raise CheckpointError(f"{self.path}: {tensor.name}: {why}", hint=hint)


def parse(path: Path) -> ModelProto:
    """The message in the file ``path``. Raises CheckpointError where it is no ONNX model."""
    with FileReader(path) as file:
        if file.size > MAX_FILE:
            raise CheckpointError(
                f"{path}: {file.size} bytes, more than the {MAX_FILE} of an ONNX file",
                hint="such models keep their weights in files beside: onnx.save(..., save_as_external_data=True)",
            )
        raw = file.read(0, file.size)
    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise CheckpointError(f"{path}: not an ONNX model: {error}", hint=AGAIN) from None
    if not model.ir_version or not model.graph.node:
        raise CheckpointError(f"{path}: not an ONNX model: it has no graph", hint=AGAIN)
    if (damaged := next(_no_texts(model), None)) is not None:
        raise CheckpointError(f"{path}: {damaged!r} is a name and no UTF-8", hint=AGAIN)
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        raise UnsupportedError(
            f"{path}: it uses none of ONNX's own operators, but {sorted(o.domain for o in model.opset_import)}",
            hint="models of ai.onnx.ml, trees and the like, have no weights to quantize",
        )
    return model


def _no_texts(message: Message) -> Iterator[bytes]:
    """Names that are not UTF-8, which the library hands out as bytes. Does not look at data."""
    if isinstance(message, TensorProto):
        places = [text for entry in message.external_data for text in (entry.key, entry.value)]
        yield from (text for text in (message.name, message.doc_string, *places) if isinstance(text, bytes))
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            yield from (text for text in texts if isinstance(text, bytes))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in [value] if isinstance(value, Message) else value:
                yield from _no_texts(one)


def opset(model: ModelProto) -> int:
    """The version of ONNX's own operators that ``model`` uses."""
    return max(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def is_large(tensor: TensorProto) -> bool:
    """Whether ``tensor`` is read by rows rather than kept in the graph; matrices of numbers always are."""
    kind = TYPES.get(tensor.data_type)
    if kind is None:
        return False
    matrix = len(tensor.dims) == 2 and kind.dtype in FLOATS
    return matrix or prod(tensor.dims) * kind.bits >= 8 * LARGE


def _hoist(graph: GraphProto) -> None:
    """Make initializers of the large tensors in ``Constant`` nodes."""
    kept: list[Any] = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None or node.domain or len(node.output) != 1 or not is_large(value):
            kept.append(node)
            continue
        tensor = graph.initializer.add()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
    if len(kept) < len(graph.node):
        replace_nodes(graph, kept)


def replace_nodes(graph: GraphProto, nodes: Collection[Any]) -> None:
    """Make ``nodes`` those of ``graph``."""
    copies = GraphProto()
    copies.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(copies.node)


def _packed(array: NDArray[Any], kind: OnnxType) -> NDArray[np.uint8]:
    """The bytes of an array that numpy may hold with an element a byte."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if kind.bits >= 8:
        return flat.view(np.uint8)
    codes = flat.view(np.uint8) & ((1 << kind.bits) - 1)
    per_byte = 8 // kind.bits
    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(codes << (np.arange(per_byte, dtype=np.uint8) * kind.bits), 1)
    return packed
