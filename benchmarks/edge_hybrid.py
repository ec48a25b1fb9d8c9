"""How many multiplications need 16 bits, and whether our integers are those of ONNX Runtime.

    pip install 'halve[edge]' scikit-image
    python benchmarks/edge_hybrid.py [--model NAME] [--judging 100] [--within 3] [--json]

`hybrid`: the part of the multiplications that `halve edge quantize --activations mixed` raises to come within 3 dB of
all activations in 16 bits on calibration inputs kept aside; beside it what INT8, the mix and INT16 leave of the outputs
on inputs of other photographs, where the mix must hold, too. `integer_exact`: codes out of our integer simulation of
each product that differ from ONNX Runtime's, for the same codes in.
"""

import argparse
import warnings
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from edge_models import MODELS, EdgeModel, Sample
from halve.edge import hybrid, ptq
from halve.edge.integer import integer_products
from halve.edge.model import FloatModel, load
from halve.edge.ptq import Calibrated
from halve.edge.qdq import quantized
from halve.edge.running import Session, compared
from measure import Figure

MUST = 0.25


def left(exact: FloatModel, found: Calibrated, samples: Sequence[Sample]) -> float:
    """SQNR in dB of the outputs."""
    names = ptq.judged(exact)
    one, other = Session(exact.proto, names), Session(quantized(found.model, found.integers), names)
    reference = [one.run(sample, names) for sample in samples]
    return compared(reference, (other.run(sample, names) for sample in samples))


def differing(proto: ModelProto, sample: Sample) -> tuple[int, int, int]:
    """Codes that differ, codes, products."""
    products = list(integer_products(proto))
    taps = list(dict.fromkeys(name for one in products for name in (one.source.codes, one.target.codes)))
    codes = dict(zip(taps, Session(proto, taps).run(sample, taps), strict=True)) if taps else {}
    wrong = total = 0
    for one in products:
        expected = codes[one.target.codes]
        wrong += int(np.count_nonzero(one.run(codes[one.source.codes]) != expected))
        total += expected.size
    return wrong, total, len(products)


def measure(model: EdgeModel, calibrating: int, judging: int, within: float, *, as_json: bool) -> None:
    """Print the figures of a model."""
    exact = load(model.path())
    samples, judges = model.samples(calibrating, judging=False), model.samples(judging, judging=True)
    found = hybrid.mixed(exact, samples, hybrid.Goal(within=within))
    narrow, widest = found.starts
    three = [left(exact, one, judges) for one in (narrow, found.calibrated, widest)]
    Figure(
        metric=f"hybrid_{model.name}",
        value=100 * found.part,
        unit="% of MACs",
        goal=f"<= {MUST:.0%} (stretch 15 %), less than {within:g} dB lost: {', '.join(f'{db:.1f}' for db in three)} dB",
        met=found.part <= MUST and three[1] >= three[2] - within,
    ).print(as_json=as_json)
    wrong, total, count = differing(quantized(narrow.model, narrow.integers), judges[0])
    Figure(
        metric=f"integer_exact_{model.name}",
        value=wrong,
        unit="codes",
        goal=f"0 of {total} differ, {count} products",
        met=wrong == 0,
    ).print(as_json=as_json)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", action="append", choices=[model.name for model in MODELS], help="repeatable")
    parser.add_argument("--calibrating", type=int, default=64, help="inputs to calibrate with")
    parser.add_argument("--judging", type=int, default=100, help="inputs to judge by")
    parser.add_argument("--within", type=float, default=hybrid.WITHIN, help="dB below all activations in 16 bits")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for model in MODELS:
        if not args.model or model.name in args.model:
            measure(model, args.calibrating, args.judging, args.within, as_json=args.json)


if __name__ == "__main__":
    main()
