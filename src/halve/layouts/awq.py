"""``awq``: AutoAWQ's checkpoints of version GEMM, 4 bits with zero points, read and written.

| tensor of module X | dtype | shape | holds |
|---|---|---|---|
| ``X.qweight`` | I32 | [in, out/8] | unsigned codes of 8 outputs a word |
| ``X.qzeros`` | I32 | [in/group_size, out/8] | zero points, in words of the same order |
| ``X.scales`` | F16 | [in/group_size, out] | w = (code - zero point) * scale |

In a word, lowest bits first, stand outputs 0, 2, 4, 6, 1, 3, 5, 7. ``group_size`` -1 is a row. ``zero_point`` false
leaves ``qzeros`` out, or full of 8: then a code is an INT4 plus 8. GEMV and the formats for one kernel (marlin,
exllama's own, llm-awq) order words otherwise and are refused.

Facts from autoawq 0.2.9 (``modules/linear/gemm.py``, ``utils/packing_utils.py``), auto-round 0.15, vLLM 0.32
(``quantization/auto_awq.py``).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import schemes
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.place import Place
from halve.checkpoint.safetensors import ShardWriter
from halve.checkpoint.transposed import Columns, TransposedShard
from halve.codecs import dispatch
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.layouts.base import Contents, Layout, Stored, Support, WeightFile, module, need, quant_method, with_scale
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

METHOD = "awq"
_VERSION = "gemm"
_SUFFIXES = (".qweight", ".qzeros", ".scales")
_PER_WORD = 8
_SMALLEST = 16  # columns of a group in any engine
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # output -> where in its group of 8 the number in this place of a word belongs
_PLACES = tuple(_ORDER.index(i) for i in range(_PER_WORD))  # the inverse
_MIDDLE = np.uint8(8)
_AGAIN = "the quantization_config does not describe these tensors: fetch or quantize the checkpoint again"


class Awq(Layout):
    """Codes of 8 outputs in a word; one group size for all modules."""

    name: ClassVar[str] = METHOD
    about: ClassVar[str] = "AutoAWQ, vLLM, transformers: INT4 with zero points under FP16 scales"
    strips: ClassVar[bool] = True

    def __init__(self) -> None:
        self._columns = Columns()

    def supports(self, scheme: Scheme) -> Support:
        """INT4 with zero points only: engines take no other."""
        weight = scheme.weight
        size = weight.block_size
        if weight.element != "uint4" or not weight.zero_point or weight.scale not in FLOATS.values():
            return Support("it holds INT4 with zero points (w4a16_asym)")
        if not (size == "row" or (isinstance(size, int) and size >= _SMALLEST)):
            return Support(f"it holds scales of rows or of groups of {_SMALLEST} or more columns")
        if scheme.activation is not None:
            return Support("it leaves activations in 16 bits")
        lossy = "scales in FP16" if weight.scale == "fp32" else ""
        return Support(lossy=lossy, engines=("vLLM 0.32", "transformers 5.17 + GPTQModel 7.2"))

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """Scales are FP16, whatever the model is in."""
        del dtype
        return with_scale(scheme, "fp16")

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Codes, zero points, scales."""
        name, rows, columns = module(weight.name), weight.rows, weight.columns
        if rows % _PER_WORD:
            raise FormatError(f"{rows} rows are not a multiple of {_PER_WORD}")
        groups = scheme.weight.scale_shape(rows, columns)[1]
        return [
            TensorInfo(f"{name}.qweight", "I32", (columns, rows // _PER_WORD)),
            TensorInfo(f"{name}.qzeros", "I32", (groups, rows // _PER_WORD)),
            TensorInfo(f"{name}.scales", "F16", (groups, rows)),
        ]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows: columns of the matrices, which `weight_files` turns round."""
        del scheme, first_row, input_scale
        assert q.zeros is not None  # noqa: S101 - `supports` comes first
        name = module(weight.name)
        return {
            f"{name}.qweight": _words(q.codes.astype(np.uint8, copy=False)),
            f"{name}.qzeros": _words(q.zeros),
            f"{name}.scales": q.scales.astype(np.float16),
        }

    def weight_files(self, out: Place, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[WeightFile]:
        """Safetensors whose matrices lie [in, out]. Raises UnsupportedError for several group sizes: there is one."""
        if len({scheme.weight for scheme in contents.quantized.values()}) > 1:
            raise UnsupportedError(
                "an awq checkpoint has one group size for all modules",
                hint="choose one scheme, or --layout gptq or compressed-tensors",
            )
        turned = {f"{name}{suffix}" for name in contents.quantized for suffix in _SUFFIXES}
        files: list[WeightFile] = []
        for file in super().weight_files(out, shards, contents):
            assert isinstance(file, ShardWriter)  # noqa: S101 - that is what the base class makes
            files.append(TransposedShard(file, turned))
        return files

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config``."""
        size = next(iter(contents.quantized.values())).weight.block_size
        return {
            "quantization_config": {
                "quant_method": METHOD,
                "bits": 4,
                "group_size": size if isinstance(size, int) else -1,
                "zero_point": True,
                "version": _VERSION,
                "modules_to_not_convert": contents.kept,
            }
        }

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``."""
        return quant_method(checkpoint) == METHOD

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module that has one of the tensors above."""
        block = _block(checkpoint)
        names = dict.fromkeys(name.rpartition(".")[0] for name in checkpoint.tensors if name.endswith(_SUFFIXES[:2]))
        stored = [_stored(checkpoint, name, block) for name in names]
        return {one.name: one for one in stored}

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        name, block = module(stored.name), stored.block
        codes = self._numbers(checkpoint, f"{name}.qweight", start, stop)
        scales = self._columns.read(checkpoint, f"{name}.scales", start, stop).T.astype(np.float32)
        if not np.isfinite(scales).all():
            raise CheckpointError(f"{checkpoint.path}: {name}.scales holds NaN or Inf", hint=_AGAIN)
        zeros = None
        if f"{name}.qzeros" in stored.entries:
            zeros = self._numbers(checkpoint, f"{name}.qzeros", start, stop)
        if block.zero_point:
            return QTensor(block, codes, np.ascontiguousarray(scales), zeros=zeros)
        if zeros is not None and (zeros != _MIDDLE).any():
            raise CheckpointError(
                f"{checkpoint.path}: {name}.qzeros differs from {_MIDDLE}, and quantization_config says no zero_point",
                hint=_AGAIN,
            )
        return QTensor(block, codes ^ _MIDDLE, np.ascontiguousarray(scales))

    def _numbers(self, checkpoint: Checkpoint, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Outputs ``start..stop`` of a packed matrix, one row each."""
        words = self._columns.read(checkpoint, name, start // _PER_WORD, -(-stop // _PER_WORD))
        numbers = dispatch.unpack(np.ascontiguousarray(words).view(np.uint8), 4)
        ordered = numbers.reshape(len(words), -1, _PER_WORD)[:, :, _PLACES].reshape(len(words), -1)
        return np.ascontiguousarray(ordered.T[: stop - start])


def _words(numbers: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Numbers [outputs, n] packed into words [outputs / 8, n]."""
    outputs, width = numbers.shape
    ordered = numbers.reshape(-1, _PER_WORD, width)[:, _ORDER].transpose(0, 2, 1)
    return dispatch.pack(np.ascontiguousarray(ordered), 4).view(np.int32).reshape(outputs // _PER_WORD, width)


def _block(checkpoint: Checkpoint) -> Block:
    """How the config says that weights are stored. Raises CheckpointError for what halve lacks."""
    config = checkpoint.quantization or {}
    version = config.get("version", _VERSION)
    backend = config.get("backend", "autoawq")
    bits = config.get("bits", config.get("w_bit"))
    size = config.get("group_size", config.get("q_group_size"))
    match bits, size, config.get("zero_point", True):
        case 4, int(size), bool(zero_point) if size > 0 or size == -1:
            pass
        case _:
            raise CheckpointError(
                f"{checkpoint.path}: quantization_config says {bits} bits and groups of {size}; halve reads AWQ of 4",
                hint=_AGAIN,
            )
    if str(version).lower() != _VERSION or backend not in (None, "autoawq", "auto-round"):
        raise CheckpointError(
            f"{checkpoint.path}: AWQ of version {version!r} (backend {backend!r}) is not one that halve reads",
            hint=f"halve reads version {_VERSION!r}, AutoAWQ's default: export the model in it",
        )
    return Block(
        element="uint4" if zero_point else "int4",
        scale="fp16",
        block_size=size if size > 0 else "row",
        zero_point=zero_point,
    )


def _stored(checkpoint: Checkpoint, name: str, block: Block) -> Stored:
    """The weight of module ``name``. Raises CheckpointError where its tensors contradict ``block``."""
    qweight = need(checkpoint, f"{name}.qweight", "I32")
    weight = TensorInfo(f"{name}.weight", "F16", (qweight.columns * _PER_WORD, qweight.rows))
    try:
        groups = block.scale_shape(*weight.shape)[1]
    except FormatError as error:
        raise CheckpointError(f"{checkpoint.path}: {qweight.name}: {error}", hint=_AGAIN) from None
    need(checkpoint, qweight.name, "I32", (weight.columns, weight.rows // _PER_WORD))
    scales = need(checkpoint, f"{name}.scales", None, (groups, weight.rows))
    if scales.dtype not in FLOATS:
        raise CheckpointError(f"{checkpoint.path}: {scales.name} is {scales.dtype}, not a float", hint=_AGAIN)
    block = replace(block, scale=FLOATS[scales.dtype])
    entries = [qweight.name, f"{name}.scales"]
    if block.zero_point or f"{name}.qzeros" in checkpoint.tensors:
        entries.append(need(checkpoint, f"{name}.qzeros", "I32", (groups, weight.rows // _PER_WORD)).name)
    return Stored(weight.name, (weight.rows, weight.columns), schemes.find(block), tuple(entries))


LAYOUT = Awq()
