"""A model from a package registry, as `halve edge quantize` leaves it on photographs and text that it has not seen."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the extra edge has it")
pytest.importorskip("skimage", reason="pip install scikit-image")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from edge_hybrid import left
from edge_models import MODELS
from halve.edge import hybrid
from halve.edge.model import load


def test_direction():
    """What docs/how-to/edge.md says of it, with room for other processors: INT8 below the mix below INT16."""
    model = next(one for one in MODELS if one.name == "ppocr_cls")
    exact = load(model.path())
    found = hybrid.mixed(exact, model.samples(64, judging=False), hybrid.Goal())
    narrow, mixed, widest = (
        left(exact, one, model.samples(100, judging=True))
        for one in (found.starts[0], found.calibrated, found.starts[1])
    )
    assert found.score >= found.goal
    assert 20 < narrow < mixed - 8
    assert widest - 6 < mixed < widest
    assert widest > 37
    assert 0.4 < found.part < 0.8
