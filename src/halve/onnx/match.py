"""Quantized weights in a graph, recognised by its nodes: the inverse of `halve.onnx.qdq`, for graphs of others too."""

from dataclasses import replace
from struct import Struct
from typing import NoReturn

import numpy as np
from onnx import NodeProto, TensorProto

from halve import schemes
from halve.checkpoint.base import read_array
from halve.checkpoint.onnx_checkpoint import OnnxCheckpoint
from halve.checkpoint.onnx_graph import Linear, integer
from halve.checkpoint.onnx_types import BY_FORMAT, TYPES
from halve.errors import CheckpointError, FormatError
from halve.onnx.parts import Part, Parts, expected_scales
from halve.schemes import Block
from halve.schemes.table import BlockSize

_STEPS = 16  # nodes between a scale and what it is made from
_INT64 = Struct("<q")
_E8M0 = BY_FORMAT["e8m0"]
_SCALED = {"fp8_e4m3": "ue4m3"}  # under a tensor scale
_SCALES = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "e8m0": "e8m0"}


def weight(checkpoint: OnnxCheckpoint, linear: Linear) -> Parts:
    """What the weight of ``linear`` is stored as. Raises CheckpointError for what no scheme of halve is."""
    return _Match(checkpoint, linear).parts()


class _Match:
    """One quantized weight."""

    def __init__(self, checkpoint: OnnxCheckpoint, linear: Linear) -> None:
        assert linear.dequantize is not None  # noqa: S101 - the caller asks for quantized ones only
        self.checkpoint, self.linear, self.node = checkpoint, linear, linear.dequantize
        self.graph, self.file = checkpoint.graph, checkpoint.file
        self.inputs = 0 if linear.transposed else 1  # axis of the inputs

    def parts(self) -> Parts:
        codes = self._part(self.node.input[0], matrix=True)
        kind = codes.type
        if not kind.opset:
            self._fail(f"{codes.name} is {kind.name}, which is not dequantized")
        rows, columns = codes.dims if self.inputs else codes.dims[::-1]
        scales, tensor_scale, height = self._scales()
        zeros = self._zeros(signed=not kind.name.startswith("U"))
        size = self._block_size(scales, height, columns)
        scale = (_SCALED if tensor_scale else _SCALES).get(scales.type.number_format)
        if scale is None:
            self._fail(f"{scales.name} is {scales.type.name}, which no scheme has as scales")
        block = Block(
            element=kind.number_format,
            scale=scale,
            block_size=size,
            tensor_scale=tensor_scale is not None,
            zero_point=zeros is not None,
        )
        activation, input_scale = self._activation(columns)
        scheme = schemes.find(block, activation, static=input_scale is not None)
        found = Parts(scheme, (rows, columns), not self.inputs, codes, scales, zeros, tensor_scale, input_scale)
        try:
            wanted = expected_scales(block, found.shape, transposed=found.transposed)
        except FormatError as error:
            self._fail(str(error))
        for part in (scales, zeros):
            if part is not None and part.dims != wanted and not (wanted == () and part.dims == (1,)):
                self._fail(f"{part.name} has shape {list(part.dims)}, and {list(wanted)} belong to the codes")
        return found

    def _block_size(self, scales: Part, height: int, columns: int) -> BlockSize:
        axis, size = integer(self.node, "axis", 1), integer(self.node, "block_size")
        axis += 2 * (axis < 0)
        if size < 0 or axis not in (0, 1):
            self._fail("its axis or block_size is none")
        if size:
            if axis != self.inputs:
                self._fail("its blocks run along the outputs, which no scheme has")
            return (height, size) if height else size
        if scales.dims in ((), (1,)):
            return "tensor"
        if axis == self.inputs and columns != 1:
            self._fail("it has a scale an input, which no scheme has")
        return "row"

    def _scales(self) -> tuple[Part, Part | None, int]:
        """The scales, their tensor scale, and how many rows share one (0: not tiles)."""
        value, height = self.node.input[1], 0
        for _ in range(_STEPS):
            if self.graph.constant(value):
                return self._part(value), None, height
            node = self.graph.producers.get(value)
            if node is None or not node.input:
                break
            if node.op_type == "DequantizeLinear" and [*map(self.graph.constant, node.input)] == [True, True]:
                return self._part(node.input[0]), self._part(node.input[1]), height
            if node.op_type == "Gather":
                height = self._tile_height(node)
            elif node.op_type != "Cast":
                break
            value = node.input[0]
        return self._fail("its scales are computed in a way that halve does not know")

    def _tile_height(self, gather: NodeProto) -> int:
        """The divisor of row numbers that `halve.onnx.qdq` gathers scales by."""
        constant = self._producer(self._producer(gather, "Gather", 1), "Div", 1)
        tensors = () if constant is None else (found.t for found in constant.attribute if found.name == "value")
        for tensor in tensors:
            if tensor.data_type == TensorProto.INT64 and len(tensor.raw_data) == _INT64.size:
                (value,) = _INT64.unpack(tensor.raw_data)
                if value > 0:
                    return int(value)
        return self._fail("its scales are gathered in a way that halve does not know")

    def _zeros(self, *, signed: bool) -> Part | None:
        """The zero points; None where there are none, or all are zero as symmetric quantizers write them."""
        if len(self.node.input) < 3 or not self.node.input[2]:
            return None
        part = self._part(self.node.input[2])
        if not signed:
            return part
        if np.any(read_array(self.checkpoint, part.name).view(np.uint8)):
            self._fail(f"{part.name} holds signed zero points, which no scheme has")
        return None

    def _activation(self, columns: int) -> tuple[Block | None, Part | None]:
        """How the inputs of the products are rounded, and the stored scale; None where no scheme rounds so."""
        found = {self._rounding(product, columns) for product in self.linear.products}
        return found.pop() if len(found) == 1 else (None, None)

    def _rounding(self, product: NodeProto, columns: int) -> tuple[Block | None, Part | None]:
        nothing = None, None
        dequantize = self.graph.producers.get(product.input[0])
        dequantize = self._producer(dequantize, "Cast", 0) or dequantize  # of a model in FP16
        quantize = self._producer(dequantize, "DequantizeLinear", 0)
        if quantize is None or quantize.op_type != "QuantizeLinear" or integer(product, "transA"):
            return nothing
        if len(quantize.input) > 2:  # zero points
            return nothing
        kind = TYPES.get(integer(quantize, "output_dtype"))
        if kind is None or not kind.number_format or len(quantize.input) < 2:
            return nothing
        scale = quantize.input[1]
        if self.graph.constant(scale):
            part = self._part(scale)
            block = Block(element=kind.number_format, block_size="tensor")
            return (block, part) if part.dims == () else nothing
        size = integer(quantize, "block_size")
        if size < 1:
            return nothing
        block = Block(element=kind.number_format, block_size=size)
        return self._dynamic(scale, block, columns, quantize.input[0])

    def _dynamic(self, value: str, block: Block, columns: int, rounded: str) -> tuple[Block | None, Part | None]:
        """Follow a computed scale to the largest magnitudes of what is ``rounded``, by rows or by blocks of them."""
        part = None
        for _ in range(_STEPS):
            node = self.graph.producers.get(value)
            if node is None or not node.input:
                break
            match node.op_type:
                case "Cast" if integer(node, "to") == _E8M0.code:
                    block = replace(block, scale="e8m0")
                case "DequantizeLinear" if len(node.input) > 1 and self.graph.constant(node.input[1]):
                    part = self._part(node.input[1])
                    block = replace(block, scale="ue4m3", tensor_scale=True)
                case "ReduceMax":
                    magnitudes = self._producer(node, "ReduceMax", 0)
                    whole = magnitudes is not None and list(magnitudes.input) == [rounded]
                    if whole and block.block_size != columns:
                        break
                    return (replace(block, block_size="row") if whole else block), part
                case "Max" | "Mul" | "Div" | "Cast" | "QuantizeLinear":
                    pass
                case _:
                    break
            value = node.input[0]
        return None, None

    def _producer(self, node: NodeProto | None, operator: str, position: int) -> NodeProto | None:
        """What gives an input of ``node``, where that is an ``operator``."""
        if node is None or node.op_type != operator or len(node.input) <= position:
            return None
        return self.graph.producers.get(node.input[position])

    def _part(self, name: str, *, matrix: bool = False) -> Part:
        kind, dims = self.file.types.get(name), self.file.dims.get(name)
        if kind is None or dims is None:
            self._fail(f"{name} is no constant that halve reads")
        if kind.bits < 8 and matrix and dims[-1] * kind.bits % 8:
            self._fail(f"rows of {name} do not end on a byte")
        return Part(name, kind, dims, columns=not self.inputs and len(dims) == 2)

    def _fail(self, why: str) -> NoReturn:
        raise CheckpointError(
            f"{self.checkpoint.path}: {self.linear.name}: {why}",
            hint="start from the model before it was quantized, or leave this weight as it is",
        )
