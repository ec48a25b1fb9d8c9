"""Data of the page Report: result files that the browser has opened, checked and made ready to be drawn."""

from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from halve import formats
from halve.codecs.reference import value_table
from halve.errors import UnsupportedError
from halve.evaluate.depth import place, short
from halve.evaluate.pareto import front
from halve.web import result

router = APIRouter(prefix="/report")

_HINT = "open what halve eval, halve inspect or halve plan printed with --json"
_MOST_RESULTS = 256  # of one file


class File(BaseModel):
    """A file by its name, and the JSON in it."""

    name: Annotated[str, Field(max_length=1024)]
    content: JsonValue


class Points(BaseModel):
    """Sizes and losses."""

    model_config = ConfigDict(allow_inf_nan=False)

    points: Annotated[list[tuple[float, float]], Field(max_length=4096)]


@router.post("")
def opened(file: File) -> list[dict[str, Any]]:
    """The results in a file: `halve eval` of several checkpoints writes a list. An error in words for other files."""
    contents = file.content if isinstance(file.content, list) else [file.content]
    if not 0 < len(contents) <= _MOST_RESULTS:
        raise UnsupportedError(f"{file.name} holds {len(contents)} results", hint=f"1 to {_MOST_RESULTS} can be shown")
    return [_shown(file.name, content) for content in contents]


@router.post("/front")
def best(asked: Points) -> list[int]:
    """Indices of the points that lose least for their size."""
    return front(asked.points)


def _shown(name: str, content: JsonValue) -> dict[str, Any]:
    """Raises UnsupportedError for what is no result."""
    found = next((known for key, known in result.KINDS.items() if isinstance(content, dict) and key in content), None)
    if found is None:
        raise UnsupportedError(f"{name} is JSON, but no result that can be shown", hint=_HINT)
    kind, model = found
    try:
        parsed = model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UnsupportedError(
            f"{name} is damaged, or of another version of halve: {where}: {first['msg']}", hint=_HINT
        ) from None
    match parsed:
        case result.Evaluation():
            more: dict[str, Any] = {"map": _map(parsed.layers)}
        case result.Inspection():
            more = {"histograms": _histograms(parsed.tensors), "elements": _elements(parsed.tensors)}
        case result.Plan():
            more = {}
    return {"kind": kind, "name": name, **parsed.model_dump(exclude={"layers", "tensors"}), **more}


def _map(layers: Iterable[result.Layer]) -> list[dict[str, Any]]:
    """Of each kind of layer at each depth the one that lost most: experts are many. None: nothing was lost."""
    worst: dict[tuple[str, int], result.Layer] = {}
    for layer in layers:
        at = place(layer.name)
        if at and layer.output_db is not None and _less(layer, worst.get(at)):
            worst[at] = layer
    words = short(kind for kind, _ in worst)
    return [
        {"kind": words[kind], "depth": depth, **layer.model_dump(include={"name", "output_db", "weight_db"})}
        for (kind, depth), layer in worst.items()
    ]


def _less(layer: result.Layer, other: result.Layer | None) -> bool:
    return other is None or other.output_db is None or (layer.output_db or 0) < other.output_db


def _elements(tensors: Iterable[result.Tensor]) -> list[dict[str, Any]]:
    """Weights and bytes by number format, the largest first."""
    found: dict[str, list[int]] = {}
    for tensor in tensors:
        of_it = found.setdefault(tensor.element, [0, 0])
        of_it[0] += 1
        of_it[1] += tensor.bytes
    rows = [{"element": name, "tensors": count, "bytes": size} for name, (count, size) in found.items()]
    return sorted(rows, key=lambda row: -row["bytes"])


def _histograms(tensors: Iterable[result.Tensor]) -> list[dict[str, Any]]:
    """How often each number of a format is used over all weights of it; both zeros share one place."""
    summed: dict[str, list[int]] = {}
    for tensor in tensors:
        if tensor.codes and tensor.codes.histogram:
            counts = summed.setdefault(tensor.codes.element, [0] * len(tensor.codes.histogram))
            if len(counts) != len(tensor.codes.histogram):
                raise UnsupportedError(f"{tensor.name}: codes of {tensor.codes.element} differ in number", hint=_HINT)
            summed[tensor.codes.element] = [a + b for a, b in zip(counts, tensor.codes.histogram, strict=True)]
    return [_histogram(element, counts) for element, counts in summed.items()]


def _histogram(element: str, counts: list[int]) -> dict[str, Any]:
    fmt = formats.get(element)
    if len(counts) != 1 << fmt.bits:
        raise UnsupportedError(f"{element} has {1 << fmt.bits} codes, the file counts {len(counts)}", hint=_HINT)
    values = value_table(fmt).tolist()
    used: dict[float, int] = {}
    for value, count in zip(values, counts, strict=True):
        if isfinite(value):
            used[value] = used.get(value, 0) + count
    total = sum(counts)
    rows = [{"value": value, "count": used[value], "share": used[value] / max(total, 1)} for value in sorted(used)]
    return {"element": element, "weights": total, "numbers": rows}
