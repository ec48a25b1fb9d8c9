"""INT8 models of `halve edge quantize` beside those of ONNX Runtime's own quantizer, by what is left of the outputs.

    pip install 'halve[edge]' scikit-image
    python benchmarks/edge_ptq.py [--model NAME] [--judging 100] [--json]

Both get the same calibration inputs; both are judged on inputs of other photographs, by the SQNR of the outputs. The
peer is `quantize_static` with asymmetric UINT8 activations and INT8 weights for each channel, on the model that its own
`quant_pre_process` makes, by each of its three calibrators; the best of them counts.
"""

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edge_models import MODELS, EdgeModel, Sample
from halve.edge import ptq
from halve.edge.model import FloatModel, load
from halve.edge.qdq import quantized
from halve.edge.running import Session, compared
from measure import Figure

CALIBRATING = 64
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
MUST, LEAST = 3.0, -0.5  # dB: median gain, and the least of any model


class Reader(CalibrationDataReader):
    """Samples one by one."""

    def __init__(self, samples: list[Sample]) -> None:
        self._left: Iterator[Sample] = iter(samples)

    def get_next(self) -> Sample | None:
        """The next."""
        return next(self._left, None)


def theirs(model: EdgeModel, samples: list[Sample], method: CalibrationMethod, work: Path) -> onnx.ModelProto:
    """The peer's model."""
    whole, ready, out = (work / name for name in ("whole.onnx", "ready.onnx", "out.onnx"))
    proto = onnx.load(str(model.path()))
    if proto.opset_import[0].version < 13:
        proto = onnx.version_converter.convert_version(proto, 13)
    onnx.save(proto, str(whole))
    few = {} if method is CalibrationMethod.MinMax else {"CalibMaxIntermediateOutputs": 8}  # or memory runs out
    with contextlib.redirect_stdout(io.StringIO()):
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(out),
            Reader(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True, **few},
        )
    return onnx.load(str(out))


def left(exact: FloatModel, found: onnx.ModelProto, samples: list[Sample]) -> float:
    """SQNR in dB of the outputs of ``found``."""
    one, other = Session(exact.proto), Session(found)
    reference = [one.run(sample, exact.outputs) for sample in samples]
    return compared(reference, (other.run(sample, exact.outputs) for sample in samples))


def measure(model: EdgeModel, judging: int, *, as_json: bool) -> float | None:
    """Print the figures of a model; its gain in dB."""
    calibrating, judges = model.samples(CALIBRATING, judging=False), model.samples(judging, judging=True)
    exact = load(model.path())
    peer: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, method in METHODS.items():
            try:
                peer[name] = left(exact, theirs(model, calibrating, method, Path(work)), judges)
            except Exception as error:  # noqa: BLE001 - the peer's; said, and not counted
                print(f"{model.name}: onnxruntime {name} failed: {str(error)[:160]}", flush=True)
    began = perf_counter()
    found = ptq.calibrate(exact, calibrating)
    seconds = perf_counter() - began
    ours = left(exact, quantized(found.model, found.integers), judges)
    best = max(peer, key=lambda name: peer[name]) if peer else ""
    gain = ours - peer[best] if peer else None
    Figure(
        metric=f"int8_sqnr_{model.name}",
        value=ours,
        unit="dB",
        goal=f"no more than {-LEAST} below the best of {len(peer)}; {seconds:.0f} s",
        met=gain is not None and gain >= LEAST,
        peer=f"onnxruntime {best}",
        peer_value=peer.get(best),
        ratio=gain,
    ).print(as_json=as_json)
    return gain


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", action="append", choices=[model.name for model in MODELS], help="repeatable")
    parser.add_argument("--judging", type=int, default=100, help="inputs to judge by")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    wanted = [model for model in MODELS if not args.model or model.name in args.model]
    gains = [gain for model in wanted if (gain := measure(model, args.judging, as_json=args.json)) is not None]
    middle = statistics.median(gains) if gains else None
    Figure(
        metric="int8_sqnr_gain",
        value=middle,
        unit="dB",
        goal=f"median >= {MUST} (stretch 5) of {len(gains)} models",
        met=middle is not None and middle >= MUST and min(gains) >= LEAST,
    ).print(as_json=args.json)


if __name__ == "__main__":
    main()
