"""What a job will do to every tensor, decided and sized before any weight is read."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Literal

from halve import layouts, schemes
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.safetensors import file_bytes
from halve.errors import FormatError, RecipeError, UnsupportedError
from halve.layouts.base import Layout, module
from halve.models.fused import fused_group
from halve.models.linear import why_kept
from halve.schemes import Scheme
from halve.schemes.recipe import Recipe, matches

METADATA = {"format": "pt"}  # transformers refuses weight files that do not say so
NOT_FINITE = "not finite"
SHARD_BYTES = 5_000_000_000  # Hugging Face's default, so that every file stays below their 5 GB upload limit


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the source: kept as it is, or quantized into ``entries``."""

    source: TensorInfo
    action: Literal["quantize", "keep"]
    why: str  # why it is kept; empty for quantized tensors
    group: str  # fused layer with a common tensor scale
    entries: tuple[TensorInfo, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return sum(entry.nbytes for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole job."""

    scheme: Scheme  # bound to the layout's scale type, block size resolved
    recipe: Recipe
    tensors: tuple[TensorPlan, ...]

    @property
    def layout(self) -> Layout:
        """The layout that writes."""
        return layouts.get(self.recipe.layout)

    @property
    def quantized(self) -> list[TensorPlan]:
        """Tensors that change."""
        return [t for t in self.tensors if t.action == "quantize"]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the output, file headers not counted."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits per quantized weight, scales included, as written."""
        weights = sum(t.source.rows * t.source.columns for t in self.quantized)
        return 8 * sum(t.nbytes for t in self.quantized) / max(weights, 1)

    def file_bytes(self, shard_bytes: int = SHARD_BYTES) -> int:
        """Bytes of the weight files, headers included: exact."""
        shards = self.shards(shard_bytes)
        return sum(file_bytes([entry for tensor in shard for entry in tensor.entries], METADATA) for shard in shards)

    def shards(self, shard_bytes: int = SHARD_BYTES) -> list[list[TensorPlan]]:
        """Tensors split into files of at most ``shard_bytes`` where a single tensor allows it, in source order."""
        shards: list[list[TensorPlan]] = [[]]
        size = 0
        for tensor in self.tensors:
            if shards[-1] and size + tensor.nbytes > shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append(tensor)
            size += tensor.nbytes
        return shards

    def keep(self, names: set[str]) -> "Plan":
        """This plan with the tensors ``names``, and what is fused with them, left in their source type.

        Raises RecipeError where nothing is left to quantize.
        """
        groups = {t.group for t in self.tensors if t.source.name in names}
        if groups.issuperset(t.group for t in self.quantized):
            raise RecipeError(
                "every tensor to quantize holds NaN or Inf, or is fused with one that does",
                hint="the checkpoint is damaged: fetch it again",
            )
        return replace(
            self,
            tensors=tuple(
                _kept(t.source, NOT_FINITE if t.source.name in names else "fused with a tensor that is not finite")
                if t.action == "quantize" and t.group in groups
                else t
                for t in self.tensors
            ),
        )

    @property
    def summary(self) -> str:
        """What becomes of how many tensors, in a line."""
        size = self.scheme.weight.block_size
        blocks = (
            f"blocks of {size}" if isinstance(size, int) else f"a scale a {size}" if isinstance(size, str) else "tiles"
        )
        how = (
            "cast" if self.scheme.dense else f"quantized to {self.scheme.weight.element}, {blocks}, {self.bpw:.3f} bpw"
        )
        return f"{len(self.quantized)} tensors {how}; {len(self.tensors) - len(self.quantized)} kept"

    columns: ClassVar[tuple[str, ...]] = ("tensor", "shape", "dtype", "becomes", "bytes", "why")

    def rows(self) -> Iterator[tuple[str | int, ...]]:
        """The cells of `columns`, a row a tensor."""
        for t in self.tensors:
            shape = "x".join(map(str, t.source.shape))
            becomes = self.scheme.weight.element if t.action == "quantize" else "kept"
            yield t.source.name, shape, t.source.dtype, becomes, t.nbytes, t.why

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "scheme": self.scheme.name,
            "layout": self.recipe.layout,
            "block_size": self.scheme.weight.block_size,
            "bytes": self.file_bytes(),
            "bpw": round(self.bpw, 4),
            "tensors": [
                {
                    "name": t.source.name,
                    "shape": list(t.source.shape),
                    "dtype": t.source.dtype,
                    "action": t.action,
                    "why": t.why,
                    "bytes": t.nbytes,
                    "stored": {entry.name: f"{entry.dtype} {list(entry.shape)}" for entry in t.entries},
                }
                for t in self.tensors
            ],
        }


def plan(checkpoint: Checkpoint, recipe: Recipe) -> Plan:
    """Decide what happens to each tensor of ``checkpoint``. Reads no weights.

    Raises UnsupportedError for a scheme that needs calibration or that the layout cannot hold, RecipeError where
    nothing is left to quantize or a pattern names nothing, FormatError for columns that no block size divides.
    """
    scheme = schemes.get(recipe.scheme)
    layout = layouts.get(recipe.layout)
    check_scheme(scheme, layout)
    selected = {name: _why(info, scheme, recipe) for name, info in checkpoint.tensors.items()}
    _check_patterns(recipe, checkpoint)
    weights = [checkpoint.tensors[name] for name, why in selected.items() if not why]
    if not weights and not scheme.dense:
        raise RecipeError(
            f"{checkpoint.path}: no tensor is left to quantize",
            hint="`halve inspect` lists the tensors; name some with --include, or drop --ignore",
        )
    if not scheme.dense:
        scheme = layout.bind(scheme.fitted([w.columns for w in weights]), _common_dtype(weights))
    tensors = tuple(
        _kept(info, selected[name])
        if selected[name]
        else TensorPlan(info, "quantize", "", fused_group(name), tuple(_entries(layout, info, scheme)))
        for name, info in checkpoint.tensors.items()
    )
    _check_names(tensors)
    return Plan(scheme, recipe, tensors)


def check_scheme(scheme: Scheme, layout: Layout) -> None:
    """Raise UnsupportedError for a scheme that needs calibration or that ``layout`` cannot hold."""
    if scheme.needs_calibration:
        others = [s.name for s in schemes.SCHEMES.values() if s.weight == scheme.weight and not s.needs_calibration]
        raise UnsupportedError(
            f"{scheme.name} needs --calibrate: its activation scales come from data ({' and '.join(others)} need none)",
            hint=f"use --scheme {others[0]}",
        )
    if reason := layout.refusal(scheme):
        able = [other.name for other in layouts.layouts().values() if not other.refusal(scheme)]
        hint = f"use --layout {' or '.join(able)}" if able else "no layout holds this scheme yet"
        raise UnsupportedError(f"layout {layout.name} cannot hold {scheme.name}: {reason}", hint=hint)


def default_layout(scheme: Scheme) -> str:
    """The layout for ``scheme`` where none is asked for: the first that holds it."""
    preferred = ["dense", "compressed-tensors", "quark"]
    for name in sorted(layouts.layouts(), key=lambda n: preferred.index(n) if n in preferred else len(preferred)):
        if not layouts.get(name).refusal(scheme):
            return name
    raise UnsupportedError(
        f"no layout holds {scheme.name} yet", hint="`halve schemes` lists which scheme goes into which layout"
    )


def _why(info: TensorInfo, scheme: Scheme, recipe: Recipe) -> str:
    if info.dtype not in FLOATS:
        return f"{info.dtype}, not a float that can be quantized"
    if pattern := matches(recipe.ignore, info.name):
        return f"--ignore {pattern}"
    if scheme.dense:
        return f"already {info.dtype}" if FLOATS[info.dtype] == scheme.weight.element else ""
    included = matches(recipe.include, info.name)
    why = why_kept(info.name, len(info.shape))
    if included and (len(info.shape) != 2 or why in ("not a weight", "embedding")):
        raise RecipeError(
            f"--include {included}: {info.name} is no linear layer ({why})",
            hint="engines read quantized linear layers only: matrices called *.weight that are no embedding",
        )
    return "" if included else why


def _check_patterns(recipe: Recipe, checkpoint: Checkpoint) -> None:
    for pattern in recipe.ignore + recipe.include:
        if not any(matches((pattern,), name) for name in checkpoint.tensors):
            raise RecipeError(
                f"{checkpoint.path}: {pattern!r} names no tensor",
                hint="`halve inspect` lists the tensors; a regular expression starts with re:",
            )


def _common_dtype(weights: list[TensorInfo]) -> str:
    dtypes = sorted(w.dtype for w in weights)
    return max(((len(list(same)), dtype) for dtype, same in groupby(dtypes)))[1]


def _check_names(tensors: tuple[TensorPlan, ...]) -> None:
    owners: dict[str, str] = {}
    for tensor in tensors:
        for entry in tensor.entries:
            owner = owners.setdefault(entry.name, tensor.source.name)
            if owner != tensor.source.name:
                raise UnsupportedError(
                    f"{tensor.source.name} and {owner} would both be stored as {entry.name}",
                    hint=f"leave one alone: --ignore {module(tensor.source.name)}",
                )


def _kept(info: TensorInfo, why: str) -> TensorPlan:
    return TensorPlan(info, "keep", why, module(info.name), (info,))


def _entries(layout: Layout, info: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
    try:
        return layout.entries(info, scheme)
    except FormatError as error:
        raise RecipeError(
            f"{info.name}: {error} ({scheme.name})",
            hint=f"--ignore 're:.*{module(info.name).rpartition('.')[2]}' or a per-row scheme (fp8_dynamic, w8a8)",
        ) from None
