"""Every scheme as ONNX: the checker takes it, and what runs it computes what halve's own runtime computes.

    python benchmarks/peers.py onnxruntime --prepare    # once
    python benchmarks/onnx_types.py [--quick] [--json]

A random Llama and SmolLM2 are written as `onnx-qdq` in every scheme that this layout holds. ``onnx.checker`` looks at
each with shape inference. Then the reference evaluator of onnx, and onnxruntime's CPU provider where it has the
operators (it has no DequantizeLinear for FP4), run it on one text, and two things are compared with halve, as the rms
of the difference over the rms:

- ``layers``: the outputs of the worst linear layer, against those that halve computes from the same inputs with the
  weight read back from the file, dequantized, and with the inputs rounded as the scheme says;
- ``logits``: against those of halve's runtime. Where activations are rounded, sums in another order move some over the
  middle between two codes, and later layers move more: two right results differ about as much as rounding changes them.
  So the bound is twice what rounding activations changes at all; for weight-only schemes it is WEIGHTS.

``--quick`` takes the random Llama only.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HALVE_REQUIRE_NATIVE", "1")

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

import halve
import peers
import synthetic
from halve import layouts
from halve.checkpoint.onnx_checkpoint import OnnxCheckpoint
from halve.evaluate.operands import Operands, attached, quantizers
from halve.layouts.base import module
from halve.models.fused import fused_group
from halve.pipeline import smollm2
from halve.pipeline.calibrate import calibrate
from halve.pipeline.quantize import quantize
from halve.runtime.load import Loader
from halve.schemes import SCHEMES, Scheme
from measure import Figure

PEER, EVALUATOR = "onnxruntime", "reference evaluator"
LAYOUT = layouts.get("onnx-qdq")
WEIGHTS, LAYERS = 1e-4, 1e-3
TINY = synthetic.Shape(hidden=256, intermediate=512, layers=2, heads=4, kv_heads=2, vocab=512)
TEXT = (
    "The quick brown fox jumps over the lazy dog. In 1865 the chemist wrote to his brother that the water of the lake, "
    "cold and clear, held more salt than the sea; nobody believed him."
)
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A source, a text for it, and statistics where it has a tokenizer to make them with."""

    name: str
    source: Path
    tokens: npt.NDArray[np.int64]
    statistics: Path | None = None

    @property
    def schemes(self) -> list[Scheme]:
        """Those that the layout holds, that the statistics suffice for, and whose blocks fit."""
        held = [scheme for scheme in SCHEMES.values() if not LAYOUT.supports(scheme).refused]
        fitting = [scheme for scheme in held if scheme.name != "fp8_block" or self.name != "SmolLM2"]  # 576 columns
        return [scheme for scheme in fitting if self.statistics or not scheme.needs_calibration]


def models(folder: Path, *, quick: bool) -> Iterator[Model]:
    """What to try."""
    synthetic.write(folder / "tiny", TINY)
    yield Model("random Llama", folder / "tiny", np.random.default_rng(0).integers(0, TINY.vocab, 64))
    if quick:
        return
    source = smollm2.fetch()
    calibrate(source, folder / "statistics", texts=["builtin"], windows=1, window=128, hessians=False)
    tokens = np.array(halve.load(source).tokenizer.encode(TEXT))
    yield Model("SmolLM2", source, tokens, folder / "statistics")


class Expected:
    """What halve makes of a written model."""

    def __init__(self, folder: Path, tokens: npt.NDArray[np.int64]) -> None:
        with closing(OnnxCheckpoint(folder)) as checkpoint:
            loader = Loader(checkpoint)
            self._model = loader.model()
            stored = {module(name): weight for name, weight in loader.stored.items()}
            blocks = {name: w.scheme.activation for name, w in stored.items() if w.scheme.activation is not None}
            scales = {name: s for name, w in stored.items() if (s := LAYOUT.input_scale(checkpoint, w)) is not None}
            self._rounding = quantizers(Operands(blocks, scales), {})
            self.watched = {name: _operands(checkpoint, f"{name}.weight") for name in stored}
        plain = self._model.logits(tokens)
        with attached(self._model, blocks, self._rounding):
            self._logits = self._model.logits(tokens)
        self.rounding = distance(self._logits, plain)
        self.bound = 2 * self.rounding if blocks else WEIGHTS

    def logits(self, found: Mapping[str, Array]) -> float:
        """How far logits are from ours."""
        return distance(found["logits"], self._logits)

    def layers(self, found: Mapping[str, Array]) -> float:
        """How far the outputs of linear layers are from ours, at worst."""
        worst = 0.0
        for name, (inputs, outputs) in self.watched.items():
            group = fused_group(name)
            operand = self._rounding[group](found[inputs]) if group in self._rounding else found[inputs]
            worst = max(worst, distance(found[outputs], operand @ self._model.linears[name].weight.T))
        return worst


def _operands(checkpoint: OnnxCheckpoint, name: str) -> tuple[str, str]:
    """The values that go into the product with a weight, before they are rounded, and come out of it."""
    (product,) = checkpoint.graph.linears[name].products
    value = product.input[0]
    for operator in ("DequantizeLinear", "QuantizeLinear"):
        node = checkpoint.graph.producers.get(value)
        if node is not None and node.op_type == operator:
            value = node.input[0]
    return value, product.output[0]


def distance(found: Array, wanted: Array) -> float:
    """Relative rms difference."""
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


def watched(folder: Path, expected: Expected) -> tuple[Path, list[str]]:
    """The model in ``folder`` with the operands of its linear layers among its outputs, and all outputs' names."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    values = dict.fromkeys(value for pair in expected.watched.values() for value in pair)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(v, onnx.TensorProto.FLOAT, None) for v in values)
    path = folder / "watched.onnx"
    path.write_bytes(model.SerializeToString())
    return path, ["logits", *values]


def by_evaluator(path: Path, tokens: npt.NDArray[np.int64]) -> list[Array]:
    """Outputs of onnx's reference evaluator."""
    return [output[0] for output in ReferenceEvaluator(str(path)).run(None, {"input_ids": tokens[None]})]


def by_onnxruntime(path: Path, tokens: npt.NDArray[np.int64]) -> list[Array] | None:
    """Outputs of onnxruntime; None where it lacks an operator."""
    given, out = path.with_name("tokens.npy"), path.with_name("outputs.npz")
    np.save(given, tokens)
    if json.loads(peers.run(PEER, "onnxruntime_outputs.py", path, given, out).stdout)["missing"]:
        return None
    with np.load(out) as outputs:
        return [outputs[name][0] for name in outputs.files]


def accepted(folder: Path) -> bool:
    """Whether onnx's checker takes the model."""
    try:
        onnx.checker.check_model(folder / "model.onnx", full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def tried(model: Model, scheme: Scheme, folder: Path) -> Iterator[Figure]:
    """The figures of ``model`` in ``scheme``."""
    choices = {"stats": model.statistics, "algorithm": "rtn"} if scheme.needs_calibration else {}
    quantize(model.source, folder, scheme.name, layout=LAYOUT.name, **choices)
    label = f"onnx_types {model.name} {scheme.name}"
    taken = accepted(folder)
    yield Figure(metric=f"{label} checker", value=float(taken), unit="accepted", goal="1", met=taken)
    expected = Expected(folder, model.tokens)
    path, names = watched(folder, expected)
    runs: dict[str, list[Array] | None] = {EVALUATOR: by_evaluator(path, model.tokens)}
    if peers.python(PEER) is None:
        yield Figure(metric=f"{label} {PEER}", value=None, unit="rms", peer=PEER, goal="is there", met=False)
    else:
        runs[PEER] = by_onnxruntime(path, model.tokens)
    for program, outputs in runs.items():
        if outputs is None:
            claimed = any(engine.startswith(program) for engine in LAYOUT.supports(scheme).engines)
            if claimed:
                yield Figure(metric=f"{label} {program}", value=None, unit="rms", goal="runs, as claimed", met=False)
            continue
        found = dict(zip(names, outputs, strict=True))
        errors = [("logits", expected.logits(found), expected.bound)]
        if expected.watched:  # a cast has no quantized layers
            errors.insert(0, ("layers", expected.layers(found), LAYERS))
        for what, error, bound in errors:
            metric = f"{label} {program} {what}"
            yield Figure(metric=metric, value=error, unit="rms", goal=f"<= {bound:.2g}", met=error <= bound)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="the random Llama only")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    met = []
    with tempfile.TemporaryDirectory() as name:
        for model in models(Path(name), quick=args.quick):
            for scheme in model.schemes:
                with tempfile.TemporaryDirectory(dir=name) as out:
                    for figure in tried(model, scheme, Path(out) / "out"):
                        figure.print(as_json=args.json)
                        met.append(figure.met)
    Figure(
        metric="onnx_types",
        value=sum(met),
        unit="checks",
        peer=PEER,
        peer_value=len(met),
        ratio=sum(met) / len(met),
        goal="all, of every scheme in every program that has its operators",
        met=all(met),
    ).print(as_json=args.json)


if __name__ == "__main__":
    main()
