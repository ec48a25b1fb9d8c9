"""Schemes and the layouts that hold them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from halve import layouts
from halve.layouts.base import Support
from halve.schemes import SCHEMES, Block, Scheme, get
from halve.schemes.quantize import scale_rules


@dataclass(frozen=True, slots=True)
class SchemeInfo:
    """A scheme, and of every layout whether it holds it."""

    scheme: Scheme
    support: dict[str, Support]  # layout -> what it says of the scheme

    columns: ClassVar[tuple[str, ...]] = ("fact", "value")

    @property
    def layouts(self) -> list[str]:
        """Layouts that hold the scheme."""
        return [layout for layout, support in self.support.items() if not support.refused]

    @property
    def engines(self) -> list[str]:
        """Programs that load the scheme in one of its layouts."""
        return list(dict.fromkeys(engine for layout in self.layouts for engine in self.support[layout].engines))

    def rows(self) -> Iterator[tuple[str, str | int | float | None]]:
        """The cells of `columns`, a row for each fact."""
        weight = self.scheme.weight
        yield "scheme", self.scheme.name
        yield "about", self.scheme.about
        yield "weights", _operand(weight)
        yield "activations", _activation(self.scheme)
        yield "bits per weight", self.scheme.bpw
        yield "block sizes tried", ", ".join(map(str, self.scheme.block_sizes)) or None
        yield "scale rules", None if self.scheme.dense else ", ".join(scale_rules(weight))
        yield "healthy SQNR", f"at least {self.scheme.floor_db:g} dB"
        yield "calibration", "needed" if self.scheme.needs_calibration else "not needed"
        for layout, support in self.support.items():
            yield f"layout {layout}", _support(support)

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "name": self.scheme.name,
            "weight": _operand_json(self.scheme.weight),
            "activation": None if self.scheme.activation is None else _operand_json(self.scheme.activation),
            "activation_static": self.scheme.activation_static,
            "bpw": self.scheme.bpw,
            "block_sizes": list(self.scheme.block_sizes),
            "scale_rules": [] if self.scheme.dense else list(scale_rules(self.scheme.weight)),
            "floor_db": self.scheme.floor_db,
            "needs_calibration": self.scheme.needs_calibration,
            "layouts": self.layouts,
            "refusals": {layout: support.refused for layout, support in self.support.items() if support.refused},
            "lossy": {layout: support.lossy for layout, support in self.support.items() if support.lossy},
            "engines": {layout: list(self.support[layout].engines) for layout in self.layouts},
            "about": self.scheme.about,
        }


@dataclass(frozen=True, slots=True)
class SchemeTable:
    """All schemes."""

    schemes: tuple[SchemeInfo, ...]

    columns: ClassVar[tuple[str, ...]] = (
        "scheme",
        "element",
        "block",
        "scale",
        "bpw",
        "layouts",
        "activations",
        "calibration",
        "about",
    )

    def rows(self) -> Iterator[tuple[str | float | None, ...]]:
        """The cells of `columns`, a row for each scheme."""
        for info in self.schemes:
            scheme = info.scheme
            yield (
                scheme.name,
                scheme.weight.element,
                _size(scheme.weight),
                _scale(scheme.weight),
                f"{scheme.bpw:.3f}",
                ", ".join(f"{name}~" if info.support[name].lossy else name for name in info.layouts) or None,
                _activation(scheme),
                "needed" if scheme.needs_calibration else None,
                scheme.about,
            )

    def to_json(self) -> list[dict[str, Any]]:
        """One object a scheme."""
        return [info.to_json() for info in self.schemes]


def describe(name: str) -> SchemeInfo:
    """One scheme. Raises UnknownNameError."""
    scheme = get(name)
    return SchemeInfo(scheme, {layout.name: layout.supports(scheme) for layout in layouts.layouts().values()})


def describe_all() -> SchemeTable:
    """Every scheme, in the order of the table."""
    return SchemeTable(tuple(describe(name) for name in SCHEMES))


def _support(support: Support) -> str:
    if support.refused:
        return f"refused: {support.refused}"
    kind = f"lossy ({support.lossy})" if support.lossy else "lossless"
    return f"{kind}; loaded by {', '.join(support.engines)}" if support.engines else kind


def _size(block: Block) -> str | None:
    match block.block_size, block.scale:
        case _, None:
            return None
        case (height, width), _:
            return f"{height}x{width}"
        case size, _:
            return str(size)


def _scale(block: Block) -> str | None:
    if block.scale is None:
        return None
    extras = [" + tensor"] * block.tensor_scale + [" + zero point"] * block.zero_point
    extras += [" + minimum"] * block.minimum
    return block.scale + "".join(extras)


def _activation(scheme: Scheme) -> str | None:
    if scheme.activation is None:
        return None
    per = {"row": "token"}.get(str(scheme.activation.block_size), _size(scheme.activation))
    return f"{scheme.activation.element} per {per}{', static' if scheme.activation_static else ''}"


def _operand(block: Block) -> str:
    scale, size = _scale(block), _size(block)
    return block.element if scale is None else f"{block.element}, a {scale} scale per {size}"


def _operand_json(block: Block) -> dict[str, Any]:
    size = block.block_size
    return {
        "element": block.element,
        "scale": block.scale,
        "block_size": list(size) if isinstance(size, tuple) else size,
        "tensor_scale": block.tensor_scale,
        "zero_point": block.zero_point,
        "minimum": block.minimum,
    }
