"""What a job will do to every tensor, decided and sized before any weight is read."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, ClassVar, Literal

from halve import layouts, schemes
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.onnx_source import only_layout, remarks
from halve.errors import FormatError, RecipeError, UnsupportedError
from halve.layouts.base import Contents, Layout, module
from halve.models import arch
from halve.models.arch import Architecture
from halve.models.linear import OUTPUT_HEAD
from halve.pipeline import experts
from halve.schemes import Scheme
from halve.schemes.recipe import Recipe, matches

NOT_FINITE = "not finite"
SHARD_BYTES = 5_000_000_000  # Hugging Face's default, so that every file stays below their 5 GB upload limit


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the source: kept as it is, or quantized into ``entries``."""

    source: TensorInfo
    scheme: Scheme | None  # bound to the layout's scale type, block size resolved; None where it is kept
    why: str  # why it is kept; empty for quantized tensors
    group: str  # fused layer with a common tensor scale
    entries: tuple[TensorInfo, ...]

    @property
    def action(self) -> Literal["quantize", "keep"]:
        """What happens to it."""
        return "keep" if self.scheme is None else "quantize"

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return sum(entry.nbytes for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole job."""

    scheme: Scheme  # of what the recipe makes no exception for, bound
    recipe: Recipe
    tensors: tuple[TensorPlan, ...]
    config: dict[str, Any]  # the source's config.json, without its quantization_config
    auxiliary: dict[str, bytes]  # tokenizer files and the like
    warnings: tuple[str, ...]
    kv: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # attention -> scales of keys and of values

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

    @property
    def schemes(self) -> dict[str, Scheme]:
        """The schemes in use by name, the most frequent first."""
        names = Counter(t.scheme.name for t in self.quantized if t.scheme)
        by_name = {t.scheme.name: t.scheme for t in self.quantized if t.scheme}
        return {name: by_name[name] for name, _ in names.most_common()}

    @property
    def contents(self) -> Contents:
        """What the layout is told of the model."""
        quantized = {module(t.source.name): t.scheme for t in self.quantized if t.scheme}
        return Contents(self.config, self.auxiliary, quantized, self._kept_modules(), kv=bool(self.kv))

    def file_bytes(self, shard_bytes: int = SHARD_BYTES) -> int:
        """Bytes of the weight files, headers included: exact."""
        return self.layout.file_bytes(self.shard_entries(shard_bytes), self.contents)

    def shard_entries(self, shard_bytes: int) -> list[list[TensorInfo]]:
        """The tensors of each file."""
        shards = [[entry for tensor in shard for entry in tensor.entries] for shard in self.shards(shard_bytes)]
        shards[-1] += [entry for attention in self.kv for entry in self.layout.kv_entries(attention)]
        return shards

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
                _kept(
                    self.layout,
                    t.source,
                    NOT_FINITE if t.source.name in names else "fused with a tensor that is not finite",
                )
                if t.action == "quantize" and t.group in groups
                else t
                for t in self.tensors
            ),
        )

    def _kept_modules(self) -> list[str]:
        """Linear modules that engines must not expect to be quantized.

        The output head of a model with tied embeddings has no tensor of its own and is a linear module all the same.
        """
        architecture = arch.of(self.config)
        kept = [t.source for t in self.tensors if t.action == "keep"]
        names = [module(info.name) for info in kept if architecture.is_linear(info.name, len(info.shape))]
        names += () if self.scheme.dense else experts.modules(architecture, kept)
        tied = all(t.source.name != f"{OUTPUT_HEAD}.weight" for t in self.tensors)
        return [*names, OUTPUT_HEAD] if tied else names

    @property
    def summary(self) -> str:
        """What becomes of how many tensors, in a line."""
        counts = Counter(t.scheme for t in self.quantized if t.scheme)
        parts = [f"{count} tensors {_becomes(scheme)}" for scheme, count in counts.most_common()]
        bpw = "" if self.scheme.dense else f", {self.bpw:.3f} bpw"
        return f"{', '.join(parts)}{bpw}; {len(self.tensors) - len(self.quantized)} kept"

    columns: ClassVar[tuple[str, ...]] = ("tensor", "shape", "dtype", "becomes", "bytes", "why")

    def rows(self) -> Iterator[tuple[str | int, ...]]:
        """The cells of `columns`, a row a tensor."""
        for t in self.tensors:
            shape = "x".join(map(str, t.source.shape))
            becomes = t.scheme.weight.element if t.scheme else "kept"
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
                    "scheme": t.scheme.name if t.scheme else None,
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
    layout = layouts.get(recipe.layout)
    names = [recipe.scheme, *(name for _, name in recipe.overrides)]
    used = {name: schemes.get(name) for name in names}
    for scheme in used.values():
        check_scheme(scheme, layout, checkpoint, calibrated=bool(recipe.statistics))
    check_model(checkpoint, layout)
    _check_overrides(used)
    _check_patterns(recipe, checkpoint)
    main = used[recipe.scheme]
    architecture = arch.of(checkpoint.config)
    kept = {
        name: _why(info, main, recipe, architecture) or layout.why_kept(info)
        for name, info in checkpoint.tensors.items()
    }
    weights: dict[str, list[TensorInfo]] = {name: [] for name in used}
    for name, why in kept.items():
        if not why:
            weights[recipe.scheme_of(name)].append(checkpoint.tensors[name])
    if not any(weights.values()) and not main.dense:
        left = "".join(f"; {remark}" for remark in remarks(checkpoint))
        raise RecipeError(
            f"{checkpoint.path}: no tensor is left to quantize{left}",
            hint="`halve inspect` lists the tensors; name some with --include, or drop --ignore",
        )
    bound = {name: _bound(used[name], of_it, layout) for name, of_it in weights.items()}
    tensors = tuple(
        _kept(layout, info, kept[name])
        if kept[name]
        else _quantized(layout, architecture, info, bound[recipe.scheme_of(name)])
        for name, info in checkpoint.tensors.items()
    )
    _check_names(tensors)
    return assemble(checkpoint, bound[recipe.scheme], recipe, tensors)


def assemble(checkpoint: Checkpoint, scheme: Scheme, recipe: Recipe, tensors: tuple[TensorPlan, ...]) -> Plan:
    """A plan with what travels with the weights of ``checkpoint``, and warnings of what is missing."""
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    warnings = []
    try:
        files = checkpoint.auxiliary()
    except UnsupportedError as error:
        files = {}
        warnings.append(f"no tokenizer files are written: {error}")
    else:
        graph = only_layout(checkpoint) is not None
        if not graph and not any(name.startswith("tokenizer") or name == "vocab.json" for name in files):
            warnings.append(f"{checkpoint.path} has no tokenizer files; engines will ask for them")
    if "auto_map" in config:
        warnings.append(
            "config.json names Python code (auto_map), which is not copied: copy it from the source yourself"
        )
    architecture = arch.of(config)
    if architecture.warning and not scheme.dense:
        warnings.append(architecture.warning)
    whole = [t.source for t in tensors if t.why == experts.WHY]
    warnings += experts.warnings(architecture, layouts.get(recipe.layout), whole)
    warnings += [*remarks(checkpoint), *_fused_apart(architecture, tensors)]
    return Plan(scheme, recipe, tensors, config, files, tuple(warnings))


def _fused_apart(architecture: Architecture, tensors: tuple[TensorPlan, ...]) -> Iterator[str]:
    """Fused layers whose parts differ."""
    kinds: dict[str, set[str]] = {}
    for tensor in tensors:
        if tensor.scheme or tensor.why.startswith("--ignore"):
            kind = tensor.scheme.name if tensor.scheme else "ignored"
            kinds.setdefault(architecture.fused_group(tensor.source.name), set()).add(kind)
    for group, of_it in kinds.items():
        if len(of_it) > 1:
            yield f"the parts of {group} are {' and '.join(sorted(of_it))}: engines that fuse them refuse it"


def _bound(scheme: Scheme, weights: list[TensorInfo], layout: Layout) -> Scheme:
    """``scheme`` with the block size that fits all ``weights`` and the scale type that ``layout`` stores."""
    if scheme.dense or not weights:
        return scheme
    return layout.bind(scheme.fitted([w.columns for w in weights]), _common_dtype(weights))


def able_layouts(scheme: Scheme, checkpoint: Checkpoint) -> list[str]:
    """Layouts that hold ``scheme`` for such a model."""
    model_type = checkpoint.config.get("model_type")
    return [
        layout.name
        for layout in layouts.layouts().values()
        if not layout.supports(scheme).refused and (not layout.model_types or model_type in layout.model_types)
    ]


def check_model(checkpoint: Checkpoint, layout: Layout) -> None:
    """Raise UnsupportedError where engines do not look for ``layout`` in such a model, or it cannot hold one."""
    if (only := only_layout(checkpoint)) not in (None, layout.name):
        raise UnsupportedError(
            f"{checkpoint.path} is an ONNX graph, which layout {layout.name} cannot hold", hint=f"use --layout {only}"
        )
    model_type = checkpoint.config.get("model_type")
    if layout.model_types and model_type not in layout.model_types:
        raise UnsupportedError(
            f"layout {layout.name} is for {' and '.join(layout.model_types)} only; {checkpoint.path} is {model_type}",
            hint="name another layout; `halve schemes` lists them",
        )


def check_scheme(scheme: Scheme, layout: Layout, checkpoint: Checkpoint, *, calibrated: bool) -> None:
    """Raise UnsupportedError for a scheme that ``layout`` cannot hold, or that needs statistics which are not there."""
    if scheme.needs_calibration and not calibrated:
        others = [s.name for s in schemes.SCHEMES.values() if s.weight == scheme.weight and not s.needs_calibration]
        raise UnsupportedError(
            f"{scheme.name} needs the statistics of activations: their scales come from data",
            hint=f"add --calibrate builtin, or --stats FILE of `halve calibrate`; {' and '.join(others)} need none",
        )
    if reason := layout.supports(scheme).refused:
        able = able_layouts(scheme, checkpoint)
        hint = f"use --layout {' or '.join(able)}" if able else "no layout holds this scheme yet"
        raise UnsupportedError(f"layout {layout.name} cannot hold {scheme.name}: {reason}", hint=hint)


def default_layout(scheme: Scheme) -> str:
    """The layout for ``scheme`` where none is asked for: the first that holds it."""
    preferred = ["dense", "compressed-tensors", "quark", "gguf", "bitsandbytes"]
    for name in sorted(layouts.layouts(), key=lambda n: preferred.index(n) if n in preferred else len(preferred)):
        if not layouts.get(name).supports(scheme).refused:
            return name
    raise UnsupportedError(
        f"no layout holds {scheme.name} yet", hint="`halve schemes` lists which scheme goes into which layout"
    )


def _why(info: TensorInfo, scheme: Scheme, recipe: Recipe, architecture: Architecture) -> str:
    if info.dtype not in FLOATS:
        return f"{info.dtype}, not a float that can be quantized"
    if pattern := matches(recipe.ignore, info.name):
        return f"--ignore {pattern}"
    if scheme.dense:
        return f"already {info.dtype}" if FLOATS[info.dtype] == scheme.weight.element else ""
    included = matches(recipe.include, info.name)
    why = architecture.why_kept(info.name, len(info.shape))
    if included and (len(info.shape) != 2 or why in ("not a weight", "embedding")):
        raise RecipeError(
            f"--include {included}: {info.name} is no linear layer ({why})",
            hint="engines read quantized linear layers only: matrices called *.weight that are no embedding",
        )
    return "" if included else why


def _check_overrides(used: dict[str, Scheme]) -> None:
    dense = [name for name, scheme in used.items() if scheme.dense]
    if dense and len(used) > 1:
        raise RecipeError(
            f"{' and '.join(used)} do not go together: {dense[0]} is a cast of every tensor",
            hint="leave tensors in their source type with --ignore",
        )


def _check_patterns(recipe: Recipe, checkpoint: Checkpoint) -> None:
    for pattern in recipe.patterns:
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


def _kept(layout: Layout, info: TensorInfo, why: str) -> TensorPlan:
    return TensorPlan(info, None, why, module(info.name), (layout.kept(info),))


def _quantized(layout: Layout, architecture: Architecture, info: TensorInfo, scheme: Scheme) -> TensorPlan:
    return TensorPlan(info, scheme, "", architecture.fused_group(info.name), tuple(_entries(layout, info, scheme)))


def _becomes(scheme: Scheme) -> str:
    size = scheme.weight.block_size
    blocks = f"blocks of {size}" if isinstance(size, int) else f"a scale a {size}" if isinstance(size, str) else "tiles"
    return "cast" if scheme.dense else f"quantized to {scheme.weight.element}, {blocks}"


def _entries(layout: Layout, info: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
    try:
        return layout.entries(info, scheme)
    except FormatError as error:
        raise RecipeError(
            f"{info.name}: {error} ({scheme.name})",
            hint=f"--ignore 're:.*{module(info.name).rpartition('.')[2]}' or a per-row scheme (fp8_dynamic, w8a8)",
        ) from None
