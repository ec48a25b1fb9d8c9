"""What others say that bits cost: a rule of thumb in circulation, and figures with their sources."""

from dataclasses import dataclass

# "Wider numbers cost more circuit": one unit of FP32 for so many of these. It is the square of the ratio of the bits.
RULE_OF_THUMB = {"fp32": 1, "fp16": 4, "bf16": 4, "fp8_e4m3": 16, "fp8_e5m2": 16, "fp4_e2m1": 64}
RULE = "rule of thumb"


@dataclass(frozen=True, slots=True)
class Figure:
    """A published cost of a format relative to a reference, as "1 / ratio", with what was counted and where."""

    unit: str  # the nearest unit here
    format: str
    reference: str
    ratio: float
    counted: str
    source: str


HOROWITZ = "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014"
VAN_BAALEN = "M. van Baalen et al., FP8 versus INT8 for efficient deep learning inference, arXiv 2303.17951"
MXFP4 = "Unveiling the Potential of Quantization with MXFP4, arXiv 2603.08713"
_AREA, _ENERGY = "area of a multiplier, 45 nm", "energy of a multiplication, 45 nm"

FIGURES = (
    Figure("multiplier", "fp16", "fp32", 7700 / 1640, f"{_AREA} (7700 and 1640 um2)", HOROWITZ),
    Figure("multiplier", "int8", "fp32", 7700 / 282, f"{_AREA} (7700 and 282 um2)", HOROWITZ),
    Figure("multiplier", "fp16", "fp32", 3.7 / 1.1, f"{_ENERGY} (3.7 and 1.1 pJ)", HOROWITZ),
    Figure("multiplier", "int8", "fp32", 3.7 / 0.2, f"{_ENERGY} (3.7 and 0.2 pJ)", HOROWITZ),
    Figure("mac", "fp8_e4m3", "int8", 1 / 1.5, "gates, the least of FP8's designs: 50 % more than INT8", VAN_BAALEN),
    Figure("mac", "fp8_e4m3", "int8", 1 / 2.8, "gates, the most of FP8's designs: 180 % more than INT8", VAN_BAALEN),
    Figure("dot16_mx", "fp4_e2m1", "fp4_e2m1 in dot16_nvfp4", 1 / 0.88, "area of a tensor core, 12 % less", MXFP4),
)
