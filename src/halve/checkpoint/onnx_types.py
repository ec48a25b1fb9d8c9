"""Element types of ONNX tensors, one row each: TensorProto.DataType of onnx.proto3, IR version 13.

Needs no ``onnx``, so that what fits into a file can be said without it.
"""

from dataclasses import dataclass
from math import prod

from halve.checkpoint.base import TensorInfo


@dataclass(frozen=True, slots=True)
class OnnxType:
    """One element type.

    ``dtype`` is the safetensors name of the bytes: those of types below 8 bits are U8, the first element in the low
    bits. ``opset`` is the first whose DequantizeLinear takes it as data; 0 where none does.
    """

    code: int
    name: str
    dtype: str
    bits: int
    number_format: str = ""  # halve's name; empty where halve has none
    opset: int = 0

    def info(self, name: str, dims: tuple[int, ...]) -> TensorInfo:
        """A tensor of ``dims`` elements as its bytes lie.

        The last dimension of types below 8 bits is counted in bytes where rows end on one; else it is one run of bytes.
        """
        if self.bits >= 8:
            return TensorInfo(name, self.dtype, dims)
        if dims and dims[-1] * self.bits % 8 == 0:
            return TensorInfo(name, self.dtype, (*dims[:-1], dims[-1] * self.bits // 8))
        return TensorInfo(name, self.dtype, (-(-prod(dims) * self.bits // 8),))


_ROWS = (
    OnnxType(1, "FLOAT", "F32", 32, "fp32"),
    OnnxType(2, "UINT8", "U8", 8, "uint8", 10),
    OnnxType(3, "INT8", "I8", 8, "int8", 10),
    OnnxType(4, "UINT16", "U16", 16, "uint16", 21),
    OnnxType(5, "INT16", "I16", 16, "int16", 21),
    OnnxType(6, "INT32", "I32", 32),
    OnnxType(7, "INT64", "I64", 64),
    OnnxType(9, "BOOL", "BOOL", 8),
    OnnxType(10, "FLOAT16", "F16", 16, "fp16"),
    OnnxType(11, "DOUBLE", "F64", 64),
    OnnxType(12, "UINT32", "U32", 32),
    OnnxType(13, "UINT64", "U64", 64),
    OnnxType(14, "COMPLEX64", "C64", 64),
    OnnxType(16, "BFLOAT16", "BF16", 16, "bf16"),
    OnnxType(17, "FLOAT8E4M3FN", "F8_E4M3", 8, "fp8_e4m3", 19),
    OnnxType(18, "FLOAT8E4M3FNUZ", "F8_E4M3FNUZ", 8, "fp8_e4m3fnuz", 19),
    OnnxType(19, "FLOAT8E5M2", "F8_E5M2", 8, "fp8_e5m2", 19),
    OnnxType(20, "FLOAT8E5M2FNUZ", "F8_E5M2FNUZ", 8, "fp8_e5m2fnuz", 19),
    OnnxType(21, "UINT4", "U8", 4, "uint4", 21),
    OnnxType(22, "INT4", "U8", 4, "int4", 21),
    OnnxType(23, "FLOAT4E2M1", "U8", 4, "fp4_e2m1", 23),
    OnnxType(24, "FLOAT8E8M0", "F8_E8M0", 8, "e8m0"),
    OnnxType(25, "UINT2", "U8", 2, "uint2", 25),
    OnnxType(26, "INT2", "U8", 2, "int2", 25),
)
TYPES: dict[int, OnnxType] = {row.code: row for row in _ROWS}
BY_FORMAT: dict[str, OnnxType] = {row.number_format: row for row in _ROWS if row.number_format}
BY_DTYPE: dict[str, OnnxType] = {row.dtype: row for row in _ROWS if row.bits >= 8}
FLOAT = BY_FORMAT["fp32"]
