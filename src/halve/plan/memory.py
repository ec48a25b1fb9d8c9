"""Bytes: weights to the last scale, the cache, workspace, and what each device holds of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo
from halve.layouts.base import Layout
from halve.models import arch
from halve.models.footprint import block_bytes
from halve.models.shape import Role, Shape
from halve.plan.parallel import Parallel
from halve.plan.precision import Precision
from halve.schemes import Scheme
from halve.schemes.recipe import matches

# What the planner of NVIDIA sets aside on every GPU for the driver's context, graphs and collectives (3.5 GiB):
# https://github.com/ai-dynamo/aiconfigurator, systems/*.yaml, misc.other_mem. CPUs and NPUs have none of it.
GPU_RESERVE = 3_758_096_384
PREFILL_TOKENS = 8192  # of a chunk: an assumption; engines let users choose
_SPLIT: tuple[Role, ...] = ("attention", "mlp", "shared", "embedding", "head")  # over the devices of tp


def stored_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of all tensors of ``checkpoint`` as they lie in its files: of any layout, exactly."""
    return sum(checkpoint.stored(name)[1] for name in checkpoint.tensors)


def planned_bytes(checkpoint: Checkpoint, scheme: Scheme, layout: Layout, *, ignore: tuple[str, ...] = ()) -> int:
    """Bytes of all tensors that quantizing ``checkpoint`` makes, exactly: scales, padding and metadata of ``layout``.

    ``ignore`` names tensors that stay, as in a recipe. Reads no weight. Raises FormatError where
    no block size of the scheme divides the columns.
    """
    architecture = arch.of(checkpoint.config)
    chosen: list[TensorInfo] = []
    kept: list[TensorInfo] = []
    for info in checkpoint.tensors.values():
        taken = info.dtype in FLOATS and not layout.why_kept(info) and not matches(ignore, info.name)
        if scheme.dense:
            taken = taken and FLOATS[info.dtype] != scheme.weight.element
        else:
            taken = taken and not architecture.why_kept(info.name, len(info.shape))
        (chosen if taken else kept).append(info)
    bound = scheme
    if chosen and not scheme.dense:
        dtypes = Counter(info.dtype for info in chosen)
        common = max((count, dtype) for dtype, count in dtypes.items())[1]
        bound = layout.bind(scheme.fitted([info.columns for info in chosen]), common)
    entries: list[TensorInfo] = [layout.kept(info) for info in kept]
    for info in chosen:
        entries += layout.entries(info, bound)
    return sum(entry.nbytes for entry in entries)


def weight_bytes(shape: Shape, precision: Precision, roles: Iterable[Role] | None = None) -> int:
    """Bytes of the weights of ``shape``, scales included; of some ``roles`` only.

    Blocks that do not divide the columns are taken at the bits of the largest that does, or of a partial last block.
    """
    wanted = None if roles is None else set(roles)
    total = 0
    for matrix in shape.matrices:
        if wanted is None or matrix.role in wanted:
            block = precision.of(matrix.role).fitted([matrix.columns]).weight
            columns = matrix.columns
            if isinstance(block.block_size, int) and matrix.role != "norm":
                columns = -(-columns // block.block_size) * block.block_size
            total += block_bytes(block, matrix.rows, columns) * matrix.count
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest device."""

    weights: int
    cache: int
    workspace: int
    reserve: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.workspace + self.reserve

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values, in bytes."""
        return {name: getattr(self, name) for name in ("weights", "cache", "workspace", "reserve", "total")}


def role_bytes(shape: Shape, precision: Precision) -> dict[Role, int]:
    """Bytes of the weights by role."""
    roles = dict.fromkeys(matrix.role for matrix in shape.matrices)
    return {role: weight_bytes(shape, precision, [role]) for role in roles}


def device_weights(by_role: Mapping[Role, int], parallel: Parallel, *, weights: int | None = None) -> int:
    """Bytes of weights on one device: matrices cut by tp, experts by tp x dp, layers by pp; routers and norms whole.

    ``weights`` is the size of all of them where a checkpoint's headers tell it better than the shape.
    """
    total = 0.0
    for role, nbytes in by_role.items():
        ways = parallel.tp * parallel.dp if role == "expert" else parallel.tp if role in _SPLIT else 1
        total += nbytes / ways / (1 if role in ("embedding", "head") else parallel.pp)
    if weights is not None:
        total *= weights / sum(by_role.values())
    return ceil(total)


def cache_bytes(shape: Shape, precision: Precision, context: float, tp: int = 1) -> float:
    """Bytes that one sequence of ``context`` tokens keeps on one device of ``tp``, all layers; states in 32 bits.

    Grouped heads are cut as far as there are any, then repeated; latents are on every device.
    """
    total = 0.0
    for layer in shape.layers:
        attention = layer.attention
        kept = attention.cached * attention.reach(context) * precision.cache_bits / 8 + attention.state * 4
        total += layer.count * kept / min(tp, attention.kv_heads)
    return total


def workspace_bytes(shape: Shape, batch: float, tp: int = 1, tokens: int = PREFILL_TOKENS) -> int:
    """Bytes for the activations of a prefill chunk (the widest layer, in and out, 16 bits) and the logits (FP32)."""
    widest = max(matrix.rows for layer in shape.layers for matrix in layer.matrices if matrix.role != "expert")
    return int(tokens * (2 * shape.hidden + 2 * widest / tp) * 2 + batch * shape.vocab * 4 / tp)


def memory(
    shape: Shape,
    precision: Precision,
    parallel: Parallel,
    *,
    batch: float,
    context: float,
    reserve: int = GPU_RESERVE,
    weights: int | None = None,
    tokens: int = PREFILL_TOKENS,
) -> Memory:
    """What one device holds with ``batch`` sequences of ``context`` tokens in each group."""
    cache = batch * cache_bytes(shape, precision, context, parallel.tp) / parallel.pp
    return Memory(
        device_weights(role_bytes(shape, precision), parallel, weights=weights),
        int(cache),
        workspace_bytes(shape, batch, parallel.tp, tokens),
        reserve,
    )
