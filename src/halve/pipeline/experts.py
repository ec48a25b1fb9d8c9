"""Packed experts as a job sees them: a matrix each where engines read the layout so, and else as they are stored."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from halve import layouts, schemes
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.experts import UnpackedExperts
from halve.layouts.base import Layout, module
from halve.models import arch
from halve.models.arch import Architecture, Stack
from halve.schemes import Scheme
from halve.schemes.recipe import Recipe, matches

WHY = "packed experts"  # what `Architecture.why_kept` says of a stack


def unpacked(checkpoint: Checkpoint, scheme: Scheme, layout: Layout, ignore: Iterable[str]) -> Checkpoint:
    """``checkpoint`` with the experts that ``scheme`` will quantize as a matrix each, by the names of ``layout``.

    A stack that ``ignore`` names stays whole. Raises CheckpointError for shapes that are no experts, and for
    an expert that is there twice.
    """
    if scheme.dense or checkpoint.quantization is not None:
        return checkpoint
    if arch.of(checkpoint.config).whole_experts and not layout.whole_experts:
        return checkpoint  # engines would not find them
    found = [stack for stack in _stacks(checkpoint) if not matches(tuple(ignore), stack.tensor)]
    return UnpackedExperts(checkpoint, found) if found else checkpoint


def seen(checkpoint: Checkpoint, recipe: Recipe) -> Checkpoint:
    """``checkpoint`` as the job of ``recipe`` sees it. Raises as `unpacked` does."""
    return unpacked(checkpoint, schemes.get(recipe.scheme), layouts.get(recipe.layout), recipe.ignore)


def unpacked_as(checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
    """``checkpoint`` with a matrix an expert, but for stacks among ``names``, which another checkpoint has whole."""
    found = [stack for stack in _stacks(checkpoint) if stack.tensor not in names]
    return UnpackedExperts(checkpoint, found) if found else checkpoint


def modules(architecture: Architecture, kept: Iterable[TensorInfo]) -> Iterator[str]:
    """The modules in stacks that are ``kept``, by all names that engines ask for: the layer's, and each expert's."""
    by_name = {info.name: info for info in kept if architecture.why_kept(info.name, len(info.shape)) == WHY}
    yield from dict.fromkeys(name.rpartition(".")[0] for name in by_name)
    for stack in architecture.stacks(by_name):
        for expert in range(by_name[stack.tensor].rows):
            yield from (module(stack.weight(expert, part)) for part in stack.parts)


def warnings(architecture: Architecture, layout: Layout, whole: Sequence[TensorInfo]) -> Iterator[str]:
    """Why the experts of the stacks ``whole`` are not quantized, and what to do."""
    if not whole:
        return
    count = f"{whole[0].name} and {len(whole) - 1} more" if len(whole) > 1 else whole[0].name
    if architecture.whole_experts and not layout.whole_experts:
        able = " or ".join(other.name for other in layouts.layouts().values() if other.whole_experts)
        yield (
            f"{count} hold packed experts and stay as they are: engines read those of {architecture.model_type} in one "
            f"tensor where the layout is {layout.name}. Use --layout {able} to quantize them"
        )
    else:
        yield (
            f"{count} hold packed experts and stay as they are: halve does not know by what names engines look for the "
            f"experts of {architecture.model_type or 'a model without model_type'}"
        )


def _stacks(checkpoint: Checkpoint) -> list[Stack]:
    floats = {name: info for name, info in checkpoint.tensors.items() if info.dtype in FLOATS}
    return arch.of(checkpoint.config).stacks(floats)
