"""Statements in circulation that are loose, each beside what the tables say."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from halve import schemes
from halve.hardware import find
from halve.models import catalog
from halve.plan.memory import weight_bytes
from halve.plan.precision import Precision

_NOMINAL = 7e9


@dataclass(frozen=True, slots=True)
class Claims:
    """Pairs of a statement and what holds."""

    pairs: tuple[tuple[str, str], ...]

    columns: ClassVar[tuple[str, ...]] = ("said", "what the tables say")

    def rows(self) -> Iterator[tuple[str, str]]:
        """The cells of `columns`."""
        yield from self.pairs

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON-ready values."""
        return [{"said": said, "holds": holds} for said, holds in self.pairs]


def claims() -> Claims:
    """All of them. Numbers come out of the tables of machines, schemes and models."""
    gb = {name: _NOMINAL * schemes.get(name).bpw / 8e9 for name in ("nvfp4", "mxfp4")}
    llama = weight_bytes(catalog.find("Llama-3.1-8B"), Precision(schemes.get("nvfp4"))) / 1e9
    rubin, b200, b300 = find("VR200"), find("B200"), find("B300")
    fp4 = {name: _peta(name, "nvfp4") for name in ("B200", "B300", "GB200", "GB300", "VR200")}
    return Claims(
        (
            (
                "A 7B model in FP4 is 3.5 GB",
                (
                    f"with scales {gb['nvfp4']:.2f} (NVFP4) or {gb['mxfp4']:.2f} GB (MXFP4); "
                    f"Llama-3.1-8B in NVFP4 with 16-bit embeddings {llama:.2f}"
                ),
            ),
            ("Ada emulates FP8", f"RTX-4090: FP8 {find('RTX-4090').formats['fp8'].level}"),
            ("RTX 50 emulates FP4", f"RTX-5090: NVFP4 {find('RTX-5090').formats['nvfp4'].level}"),
            ("A100 has no INT4", f"A100: INT4 {find('A100').formats['int4'].level}; H100 dropped it"),
            (
                "B300 is faster than B200 throughout",
                f"INT8 fell from {_tera(b200.rate('int8'))} to {_tera(b300.rate('int8'))} T/s",
            ),
            ("Rubin does 50 PFLOPS of NVFP4", f"dense {fp4['VR200']}; 50 counts sparsity"),
            (
                "Blackwell does 10 PFLOPS of FP4",
                f"GB200 {fp4['GB200']}, B200 {fp4['B200']}, B300 {fp4['B300']}, GB300 {fp4['GB300']} (dense)",
            ),
            ("Rubin reads 22 TB/s", next(note for note in rubin.notes if "contested" in note)),
            (
                "Rubin doubles the exponentials",
                (
                    f"per clock and SM: B200 {b200.exp2_per_clk_sm.text}, B300 {b300.exp2_per_clk_sm.text}, "
                    f"Rubin {rubin.exp2_per_clk_sm.text} (FP32)"
                ),
            ),
            (
                "Tokens are 10x cheaper on Rubin",
                "of one large mixture at high interactivity: `halve plan MODEL --html` draws where, and what it takes",
            ),
        )
    )


def _peta(name: str, fmt: str) -> str:
    rate = find(name).rate(fmt)
    return "unknown" if rate is None else f"{rate / 1e15:g} PFLOPS"


def _tera(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate / 1e12:g}"
