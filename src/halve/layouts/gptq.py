"""``gptq``: GPTQModel's and AutoGPTQ's checkpoints, 4 or 8 bits, read with and without activation order, and written.

| tensor of module X | dtype | shape | holds |
|---|---|---|---|
| ``X.qweight`` | I32 | [in*bits/32, out] | unsigned codes, packed down the columns, the first in the lowest bits |
| ``X.qzeros`` | I32 | [groups, out*bits/32] | zero points, packed along the rows |
| ``X.scales`` | F16 | [groups, out] | w = (code - zero point) * scale |
| ``X.g_idx`` | I32 | [in] | the group of each column; without it, column // group_size |

``checkpoint_format`` gptq stores every zero point less one, subtracted from the packed *word*, so that a borrow passes
into the next; adding one to the word takes it back, as GPTQModel does (AutoGPTQ adds it to every number: the same
where no zero point is 0). gptq_v2 stores zero points as they are. With ``sym`` they are all 2^(bits-1), which makes a
code an INT plus that. ``group_size`` -1 is a row. ``dynamic`` gives modules bits and group sizes of their own.

With activation order (``desc_act``) a group is no run of columns. Codes stay in the columns of the model, and the block
size is that of the longest runs with a common scale, 1 in practice: every value is exact, such weights convert to plain
numbers, or to another scheme, and no engine's block format can take their codes over.

Facts from gptqmodel 7 (``nn_modules/qlinear``, ``utils/model.py``), auto-gptq 0.7.1, auto-round 0.15, vLLM 0.32
(``quantization/auto_gptq.py``: symmetric only, no activation order).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import schemes
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo, read_array
from halve.checkpoint.place import Place
from halve.checkpoint.safetensors import ShardWriter
from halve.checkpoint.transposed import Columns, TransposedShard
from halve.codecs import dispatch
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.layouts.base import Contents, Layout, Stored, Support, WeightFile, module, need, quant_method, with_scale
from halve.schemes import Block, Scheme
from halve.schemes.qtensor import QTensor

METHOD = "gptq"
_V1, _V2 = "gptq", "gptq_v2"
_SUFFIXES = (".qweight", ".qzeros", ".scales", ".g_idx")
_WORD = 32
_SMALLEST = 16  # columns of a group in any engine: with shorter runs a scheme is none of those with a name
_ONES = {4: np.uint32(0x11111111), 8: np.uint32(0x01010101)}  # one in each number of a word
_ELEMENTS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8}
_AGAIN = "the quantization_config does not describe these tensors: fetch or quantize the checkpoint again"


class Gptq(Layout):
    """Codes of columns packed into words; one ``bits`` and ``group_size`` for all modules, exceptions by name."""

    name: ClassVar[str] = METHOD
    about: ClassVar[str] = "GPTQModel, AutoGPTQ, vLLM, transformers: INT4 and INT8 under FP16 scales"
    strips: ClassVar[bool] = True

    def __init__(self) -> None:
        self._columns = Columns()

    def supports(self, scheme: Scheme) -> Support:
        """INT4 and INT8 in groups of columns or rows."""
        weight = scheme.weight
        if weight.element not in _ELEMENTS or weight.tensor_scale or weight.minimum:
            return Support("it holds INT4 and INT8")
        size = weight.block_size
        if weight.scale not in FLOATS.values() or not (size == "row" or (isinstance(size, int) and size >= _SMALLEST)):
            return Support(f"it holds FP16 scales of rows or of groups of {_SMALLEST} or more columns")
        if scheme.activation is not None:
            return Support("it leaves activations in 16 bits")
        engines = () if weight.zero_point else ("vLLM 0.32",)
        return Support(
            lossy="scales in FP16" if weight.scale == "fp32" else "",
            engines=(*engines, "transformers 5.17 + GPTQModel 7.2"),
        )

    def bind(self, scheme: Scheme, dtype: str) -> Scheme:
        """Scales are FP16, whatever the model is in."""
        del dtype
        return with_scale(scheme, "fp16")

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """Group indices, codes, zero points, scales."""
        bits, name = _ELEMENTS[scheme.weight.element], module(weight.name)
        rows, columns = weight.rows, weight.columns
        for count, what in ((columns, "columns"), (rows, "rows")):
            if count * bits % _WORD:
                raise FormatError(f"{count} {what} of {bits} bits do not fill words of {_WORD} bits")
        groups = scheme.weight.scale_shape(rows, columns)[1]
        return [
            TensorInfo(f"{name}.g_idx", "I32", (columns,)),
            TensorInfo(f"{name}.qweight", "I32", (columns * bits // _WORD, rows)),
            TensorInfo(f"{name}.qzeros", "I32", (groups, rows * bits // _WORD)),
            TensorInfo(f"{name}.scales", "F16", (groups, rows)),
        ]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """A band of rows: columns of the matrices, which `weight_files` turns round."""
        del scheme, input_scale
        bits, name = _ELEMENTS[q.block.element], module(weight.name)
        codes = q.codes.astype(np.uint8, copy=False)
        middle = np.uint8(1 << bits - 1)
        if q.zeros is None:
            codes = codes ^ middle
            zeros = np.full(q.scales.shape, middle)
        else:
            zeros = q.zeros
        words = dispatch.pack(np.ascontiguousarray(zeros.T), bits).view(np.uint32)
        if q.zeros is None:
            words = words - _ONES[bits]
        band: dict[str, NDArray[Any]] = {
            f"{name}.qweight": dispatch.pack(codes, bits).view(np.int32),
            f"{name}.qzeros": words.T.view(np.int32),
            f"{name}.scales": q.scales.astype(np.float16),
        }
        if first_row == 0:
            size = q.block.tile(*q.shape)[1]
            band[f"{name}.g_idx"] = (np.arange(weight.columns) // size).astype(np.int32)
        return band

    def weight_files(self, out: Place, shards: Sequence[Sequence[TensorInfo]], contents: Contents) -> list[WeightFile]:
        """Safetensors whose matrices lie [in, out].

        Raises UnsupportedError for symmetric and asymmetric schemes together: they need different formats.
        """
        if len({scheme.weight.zero_point for scheme in contents.quantized.values()}) > 1:
            raise UnsupportedError(
                "a gptq checkpoint is symmetric or asymmetric as a whole",
                hint="choose schemes of one kind, or --layout compressed-tensors",
            )
        turned = {f"{name}{suffix}" for name in contents.quantized for suffix in _SUFFIXES[:3]}
        files: list[WeightFile] = []
        for file in super().weight_files(out, shards, contents):
            assert isinstance(file, ShardWriter)  # noqa: S101 - that is what the base class makes
            files.append(TransposedShard(file, turned))
        return files

    def config(self, contents: Contents) -> dict[str, Any]:
        """``quantization_config``; modules of a second scheme, and those left alone, under ``dynamic``."""
        used = list(contents.quantized.values())
        overall = max(used, key=used.count)
        dynamic: dict[str, dict[str, Any]] = {
            f"+:^{re.escape(name)}$": _described(scheme.weight)
            for name, scheme in contents.quantized.items()
            if scheme.weight != overall.weight
        }
        dynamic |= {f"-:^{re.escape(name)}$": {} for name in contents.kept if name != "lm_head"}
        return {
            "quantization_config": {
                "quant_method": METHOD,
                **_described(overall.weight),
                "desc_act": False,
                "lm_head": False,
                "checkpoint_format": _V2 if overall.weight.zero_point else _V1,
            }
            | ({"dynamic": dynamic} if dynamic else {})
        }

    def detect(self, checkpoint: Checkpoint) -> bool:
        """By ``quant_method``."""
        return quant_method(checkpoint) == METHOD

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """The quantized weights: every module that has one of the tensors above."""
        config = checkpoint.quantization or {}
        _format(checkpoint)
        names = dict.fromkeys(name.rpartition(".")[0] for name in checkpoint.tensors if name.endswith(_SUFFIXES[:2]))
        found = {}
        for name in names:
            stored = _stored(checkpoint, name, _args(checkpoint, name, config))
            found[stored.name] = stored
        return found

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Rows ``start..stop``."""
        block, name, columns = stored.block, module(stored.name), stored.shape[1]
        bits = _ELEMENTS[block.element]
        words = np.ascontiguousarray(self._columns.read(checkpoint, f"{name}.qweight", start, stop).T)
        codes = dispatch.unpack(words.view(np.uint8), bits)
        args = _args(checkpoint, name, checkpoint.quantization or {})
        groups = _groups(checkpoint, name, columns, args.group_size)[:: block.tile(*stored.shape)[1]]
        scales = self._columns.read(checkpoint, f"{name}.scales", start, stop).T[:, groups].astype(np.float32)
        if not np.isfinite(scales).all():
            raise CheckpointError(f"{checkpoint.path}: {name}.scales holds NaN or Inf", hint=_AGAIN)
        zeros = self._zeros(checkpoint, stored, start, stop)
        middle = np.uint8(1 << bits - 1)
        if block.zero_point:
            assert zeros is not None  # noqa: S101 - `open` has asked for them
            return QTensor(block, codes, scales, zeros=np.ascontiguousarray(zeros[:, groups]))
        if zeros is not None and (zeros != middle).any():
            raise CheckpointError(
                f"{checkpoint.path}: {name}.qzeros differs from {middle}, and quantization_config says sym", hint=_AGAIN
            )
        return QTensor(block, codes ^ middle, scales)

    def _zeros(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> NDArray[np.uint8] | None:
        """Zero points of some rows, [rows, groups]; None where none are stored."""
        name, bits = f"{module(stored.name)}.qzeros", _ELEMENTS[stored.block.element]
        if name not in stored.entries:
            return None
        per_word = _WORD // bits
        words = self._columns.read(checkpoint, name, start // per_word, -(-stop // per_word)).view(np.uint32)
        if _format(checkpoint) == _V1:
            words = words + _ONES[bits]
        return dispatch.unpack(np.ascontiguousarray(words).view(np.uint8), bits).T[: stop - start]


def _described(block: Block) -> dict[str, Any]:
    return {
        "bits": _ELEMENTS[block.element],
        "group_size": block.block_size if isinstance(block.block_size, int) else -1,
        "sym": not block.zero_point,
    }


def _format(checkpoint: Checkpoint) -> str:
    """How zero points are stored. Raises CheckpointError for a format that is another layout."""
    config = checkpoint.quantization or {}
    found = config.get("checkpoint_format") or config.get("format") or _V1
    if found not in (_V1, _V2):
        raise CheckpointError(
            f"{checkpoint.path}: checkpoint_format {found!r} is not one that halve reads",
            hint=f"halve reads {_V1} and {_V2}: export the model in one of them",
        )
    return str(found)


@dataclass(frozen=True, slots=True)
class _Args:
    """What a config says of a module."""

    bits: int
    group_size: int
    sym: bool


def _args(checkpoint: Checkpoint, name: str, config: Mapping[str, Any]) -> _Args:
    """What ``config`` says of module ``name``, exceptions included. Raises CheckpointError for what halve lacks."""
    said = {key: config.get(key) for key in ("bits", "group_size", "sym")}
    dynamic = config.get("dynamic")
    for pattern, rule in dynamic.items() if isinstance(dynamic, dict) else ():
        if not pattern.startswith("-:") and isinstance(rule, dict) and _matches(checkpoint, pattern, name):
            said |= {key: rule[key] for key in said if key in rule}
            break
    match said:
        case {"bits": (4 | 8) as bits, "group_size": int(size), "sym": bool(sym)} if size > 0 or size == -1:
            return _Args(bits, size, sym)
        case {"bits": 2 | 3}:
            why = f"{said['bits']} bits"
        case _:
            why = f"bits, group_size and sym {list(said.values())}"
    raise CheckpointError(
        f"{checkpoint.path}: quantization_config gives {name} {why}, which halve does not read",
        hint="halve reads GPTQ of 4 and 8 bits: quantize the original again, or dequantize this one with GPTQModel",
    )


def _matches(checkpoint: Checkpoint, pattern: str, name: str) -> bool:
    try:
        return re.match(pattern.removeprefix("+:"), name) is not None
    except re.error as error:
        raise CheckpointError(
            f"{checkpoint.path}: dynamic: {pattern!r} is not a regular expression: {error}", hint=_AGAIN
        ) from None


def _stored(checkpoint: Checkpoint, name: str, args: _Args) -> Stored:
    """The weight of module ``name``. Raises CheckpointError where its tensors contradict ``args``."""
    qweight = need(checkpoint, f"{name}.qweight", "I32")
    scales = need(checkpoint, f"{name}.scales")
    if len(qweight.shape) != 2 or scales.dtype not in FLOATS:
        raise CheckpointError(
            f"{checkpoint.path}: {name}: qweight {list(qweight.shape)} and {scales.dtype} scales are not GPTQ's",
            hint=_AGAIN,
        )
    rows, columns = qweight.shape[1], qweight.shape[0] * _WORD // args.bits
    size = columns if args.group_size == -1 else args.group_size
    groups = -(-columns // max(size, 1))
    need(checkpoint, scales.name, scales.dtype, (groups, rows))
    entries = [qweight.name, scales.name]
    if not args.sym or f"{name}.qzeros" in checkpoint.tensors:
        need(checkpoint, f"{name}.qzeros", "I32", (groups, rows * args.bits // _WORD))
        entries.append(f"{name}.qzeros")
    if f"{name}.g_idx" in checkpoint.tensors:
        need(checkpoint, f"{name}.g_idx", "I32", (columns,))
        entries.append(f"{name}.g_idx")
    of_columns = _groups(checkpoint, name, columns, args.group_size)
    if ((of_columns < 0) | (of_columns >= groups)).any():
        raise CheckpointError(f"{checkpoint.path}: {name}.g_idx names a group of {groups} that is not", hint=_AGAIN)
    changes = np.flatnonzero(np.diff(of_columns)) + 1
    run = int(np.gcd.reduce(np.append(changes, columns)))
    block = Block(
        element=f"{'int' if args.sym else 'uint'}{args.bits}",
        scale=FLOATS[scales.dtype],
        block_size="row" if args.group_size == -1 and run == columns else run,
        zero_point=not args.sym,
    )
    scheme = schemes.find(block)
    if run < min(_SMALLEST, size):
        scheme = replace(scheme, name="", about="columns in the order of their activations, each with its own scale")
    return Stored(f"{name}.weight", (rows, columns), scheme, tuple(entries))


def _groups(checkpoint: Checkpoint, name: str, columns: int, size: int) -> NDArray[np.integer[Any]]:
    """The group of each column."""
    if f"{name}.g_idx" in checkpoint.tensors:
        return read_array(checkpoint, f"{name}.g_idx")
    return np.arange(columns) // (columns if size == -1 else size)


LAYOUT = Gptq()
