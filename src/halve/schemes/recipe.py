"""A recipe: what to do with a checkpoint, complete enough that the same bytes come out again."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from halve.errors import RecipeError

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
    except re.error as error:
        raise RecipeError(
            f"{pattern!r} is not a regular expression: {error}", hint="escape dots and brackets, or name the tensor"
        ) from None
