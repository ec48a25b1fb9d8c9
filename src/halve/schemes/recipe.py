"""A recipe: what to do with a checkpoint, complete enough that the same bytes come out again."""

import dataclasses
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from halve.errors import RecipeError

_YAML_LIMIT = 1 << 20  # bytes
_JSON_LIMIT = 64 << 20  # bytes; 200 000 tensors take 40 MB
_CONTAINERS = 1 << 20  # lists and objects, of which an empty one takes 64 bytes of memory for three of text

OnNonfinite = Literal["error", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Scheme, layout and the exceptions.

    ``ignore`` and ``include`` name tensors or modules: ``lm_head``, ``model.layers.0.mlp.up_proj`` or, with ``re:``, a
    regular expression that matches from the start (compressed-tensors' convention). ``ignore`` wins over ``include``,
    and ``include`` over the built-in choice of linear layers. ``overrides`` are pairs of such a name and the scheme of
    what it names; the last that names a tensor wins. ``algorithm`` chooses codes, with the statistics file whose
    sha256 is ``statistics``, on weights rewritten by ``transforms``.
    """

    scheme: str
    layout: str
    rule: str | None = None
    algorithm: str = "rtn"
    statistics: str = ""
    transforms: tuple[str, ...] = ()
    kv: str = ""  # "fp8": scales for keys and values are stored
    conform: str = ""  # the tool whose arithmetic is followed
    ignore: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    on_nonfinite: OnNonfinite = "error"

    def __post_init__(self) -> None:
        """Raise RecipeError for a pattern that is not a regular expression."""
        for pattern in self.patterns:
            _compiled(pattern)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every name and regular expression in the recipe."""
        return self.ignore + self.include + tuple(pattern for pattern, _ in self.overrides)

    def scheme_of(self, tensor: str) -> str:
        """Name of the scheme that ``tensor`` gets where it is quantized."""
        return next((name for pattern, name in reversed(self.overrides) if matches((pattern,), tensor)), self.scheme)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)


def read(path: Path) -> Recipe:
    """The recipe in a YAML or JSON file: one of its own, or the one in a halve.json.

    Raises RecipeError for a file that holds none.
    """
    import yaml  # noqa: PLC0415 - only here and in `_content`

    try:
        content = _content(path)
    # PyYAML's constructors raise the last three for tags on values that they do not expect, such as !!int ''.
    except (OSError, ValueError, RecursionError, yaml.YAMLError, LookupError, AttributeError, TypeError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML or JSON: {error}", hint=_EXAMPLE) from None
    found = content.get("recipe", content) if isinstance(content, dict) else content
    return parse(str(path), found)


def _content(path: Path) -> Any:
    """What the file says: JSON, of which a halve.json may have much, or YAML, which takes far more memory to read."""
    import yaml  # noqa: PLC0415 - only here and in `read`

    with path.open("rb") as file:
        raw = file.read(_JSON_LIMIT + 1)
    try:
        if len(raw) <= _JSON_LIMIT and raw.count(b"[") + raw.count(b"{") <= _CONTAINERS:
            return json.loads(raw)
    except ValueError:
        pass
    if len(raw) > _YAML_LIMIT:
        raise ValueError(f"more than the {_YAML_LIMIT} bytes that a recipe may have, or {_JSON_LIMIT} of a halve.json")
    return yaml.safe_load(raw.decode())


def parse(where: str, fields: object) -> Recipe:
    """A recipe from plain values, as `Recipe.to_json` gives them; ``where`` is what errors call them."""
    if not isinstance(fields, dict) or not isinstance(fields.get("scheme"), str):
        raise RecipeError(f"{where}: a recipe names at least a scheme", hint=_EXAMPLE)
    known = {field.name: field for field in dataclasses.fields(Recipe)}
    if unknown := fields.keys() - known.keys():
        raise RecipeError(
            f"{where}: no recipe has {', '.join(sorted(map(_shown, unknown)))}", hint=f"known: {', '.join(known)}"
        )
    values: dict[str, Any] = {"layout": "", **fields}
    for name in ("ignore", "include", "transforms"):
        values[name] = _strings(where, name, values.get(name, ()))
    pairs = values.get("overrides", ())
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list | tuple):
        raise RecipeError(f"{where}: overrides are pairs of a name and a scheme", hint=_EXAMPLE)
    values["overrides"] = tuple(_pair(where, pair) for pair in pairs)
    for name in ("layout", "algorithm", "statistics", "kv", "conform", "on_nonfinite", "rule"):
        if name in values and not isinstance(values[name], str) and not (name == "rule" and values[name] is None):
            raise RecipeError(f"{where}: {name} is {_shown(values[name])}, which is no name", hint=_EXAMPLE)
    if values.get("on_nonfinite", "error") not in get_args(OnNonfinite):
        raise RecipeError(f"{where}: on_nonfinite is {' or '.join(get_args(OnNonfinite))}", hint=_EXAMPLE)
    return Recipe(**values)


_EXAMPLE = "such as {scheme: nvfp4a16, ignore: ['re:.*down_proj'], overrides: {'re:.*layers.0.*': fp8_dynamic}}"


def _shown(value: object) -> str:
    """``value`` in an error: a string as it is, other things by their kind.

    A few lines of YAML aliases describe a list whose text fills the memory.
    """
    return value[:80] if isinstance(value, str) else f"a {type(value).__name__}"


def _strings(where: str, name: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise RecipeError(f"{where}: {name} is a list of names", hint=_EXAMPLE)
    return tuple(values)


def _pair(where: str, pair: object) -> tuple[str, str]:
    match pair:
        case [str(name), str(scheme)] | (str(name), str(scheme)):
            return name, scheme
    raise RecipeError(f"{where}: {_shown(pair)} is no pair of a name and a scheme", hint=_EXAMPLE)


def matches(patterns: tuple[str, ...], tensor: str) -> str | None:
    """The first of ``patterns`` that names ``tensor`` or its module, or None."""
    module = tensor.removesuffix(".weight")
    for pattern in patterns:
        compiled = _compiled(pattern)
        if pattern in (tensor, module) if compiled is None else compiled.match(tensor) or compiled.match(module):
            return pattern
    return None


def _compiled(pattern: str) -> re.Pattern[str] | None:
    if not pattern.startswith("re:"):
        return None
    try:
        return re.compile(pattern[3:])
    except (re.error, OverflowError, RecursionError) as error:
        raise RecipeError(
            f"{pattern[:80]!r} is not a regular expression: {error}",
            hint="escape dots and brackets, or name the tensor",
        ) from None
