"""Measures every packaged unit again: as quickly as promised, equal to the package, and with nothing wrong.

    pip install '.[silicon]'
    python benchmarks/silicon.py [--quick] [--json] [--write]

``--quick`` takes what continuous integration takes: units of one pair of at most 8 bits, and the FP16 multiplier.
``--write`` replaces the packaged file by what has been measured. Ratios are FP32 : FP16 : E4M3 : E2M1.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import halve.silicon
from halve.silicon import liberty
from halve.silicon.designs import packaged_designs, quick_designs
from halve.silicon.measurement import measure_all
from halve.silicon.record import Record, packaged, record, text
from measure import Figure

CORES = 2
SECONDS, QUICK_SECONDS = 300, 40
VECTORS = 3_000_000
WITHIN = 0.15
FORMATS = ("fp16", "fp8_e4m3", "fp4_e2m1")
RATIOS = {"multiplier": (4.1, 19, 110), "dot16": (3.4, 7.3, 21)}  # measured with Nangate's 45 nm library


def ratios(found: Record) -> Iterator[Figure]:
    """Area of FP32 over that of the others."""
    for unit, expected in RATIOS.items():
        base = found.find(unit, "fp32")
        for fmt, goal in zip(FORMATS, expected, strict=True):
            other = found.find(unit, fmt)
            value = base.area / other.area if base and other else None
            met = value is not None and abs(value / goal - 1) <= WITHIN
            yield Figure(metric=f"{unit} fp32:{fmt}", value=value, unit="", goal=f"{goal} within 15 %", met=met)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    designs = quick_designs() if args.quick else packaged_designs()
    begun = time.perf_counter()
    measured = measure_all(designs, liberty.own(), at_once=CORES)
    seconds = time.perf_counter() - begun
    found = record(liberty.own(), measured)
    if args.write:
        path = Path(halve.silicon.__file__).with_name("data") / "silicon.json"
        path.write_text(text(found))
    before = packaged()
    same = before.made == found.made and before.of(designs) == measured
    most = QUICK_SECONDS if args.quick else SECONDS
    figures = [
        Figure(
            metric="remeasure_quick" if args.quick else "remeasure_all",
            value=seconds,
            unit="s",
            goal=f"<= {most}",
            met=seconds <= most,
        ),
        Figure(metric="equal to the package", value=float(same), unit="", goal="1", met=same),
        Figure(metric="mismatches", value=found.mismatches, unit="", goal="0", met=found.mismatches == 0),
    ]
    if not args.quick:
        enough = found.vectors >= VECTORS
        figures.append(Figure(metric="vectors", value=found.vectors, unit="", goal=f">= {VECTORS}", met=enough))
        figures.extend(ratios(found))
    for figure in figures:
        figure.print(as_json=args.json)


if __name__ == "__main__":
    main()
