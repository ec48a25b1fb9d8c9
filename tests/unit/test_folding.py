"""A smoothed model computes what it computed; its norms are rounded, and consumers multiply back what that left."""

import ml_dtypes
import numpy as np
import pytest

import halve
from halve.checkpoint.base import read_array
from halve.checkpoint.source import open_checkpoint
from halve.errors import UnsupportedError
from halve.pipeline.calibrate import calibrate
from halve.pipeline.folded import Folded
from halve.pipeline.quantize import make_plan
from halve.pipeline.smoothing import fold
from halve.pipeline.statistics import StatisticsFile
from halve.runtime.load import Loader
from halve.transforms import smoothquant
from halve.transforms.folding import Folding, through_norm
from tiny import speaker


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("folding")
    source = speaker.write(root / "source")
    text = root / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    calibrate(source, root / "stats.safetensors", texts=[str(text)], windows=2, window=64)
    return source, root / "stats.safetensors"


def test_a_smoothed_model_computes_what_it_did(made):
    source, stats = made
    checkpoint, statistics = open_checkpoint(source), StatisticsFile(stats)
    job = make_plan(checkpoint, "nvfp4", algorithm="rtn", statistics=statistics, transforms=("smoothquant",))
    folding = fold(checkpoint, statistics, job, 1)
    assert len(folding.columns) == 7 * Loader(checkpoint).decoder.geometry.layers
    changed = Folded(checkpoint, folding)
    name = "model.layers.0.mlp.down_proj.weight"
    assert not np.allclose(read_array(changed, name), read_array(checkpoint, name).astype(np.float32))
    tokens = np.arange(20)
    before, after = Loader(checkpoint).model().logits(tokens), Loader(changed).model().logits(tokens)
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    checkpoint.close()


def test_statistics_follow(made):
    source, stats = made
    checkpoint, statistics = open_checkpoint(source), StatisticsFile(stats)
    job = make_plan(checkpoint, "nvfp4", algorithm="rtn", statistics=statistics, transforms=("smoothquant",))
    folding = fold(checkpoint, statistics, job, 1)
    for name, columns in folding.columns.items():
        before = statistics.of(name, len(columns))
        after = folding.statistics(name, before)
        np.testing.assert_allclose(after.amax * columns, before.amax, rtol=1e-5)
        np.testing.assert_allclose(after.hessian.diagonal(), after.mean_square, rtol=1e-4, atol=1e-9)
    checkpoint.close()


def test_transforms_need_statistics(made, tmp_path):
    with pytest.raises(UnsupportedError, match="smoothquant needs the statistics"):
        halve.quantize(made[0], tmp_path / "out", "nvfp4a16", transforms=["smoothquant"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_norms_are_rounded_and_compensated(dtype, offset):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=512)
    weight[:4] = 0, 1e-38, -1, -0.9921875
    weight = weight.astype(dtype).astype(np.float32)
    wanted = np.exp(rng.normal(size=512)).astype(np.float32) * 100
    norm, columns = through_norm(weight, wanted, np.dtype(dtype), offset)
    np.testing.assert_array_equal(norm.astype(dtype).astype(np.float32), norm)
    np.testing.assert_allclose((norm + np.float32(offset)) * columns, weight + np.float32(offset), rtol=3e-7)
    assert np.isfinite(columns).all()
    assert (columns > 0).all()
    assert np.mean(np.abs(columns / wanted - 1) < 0.25) > 0.5
    still = 2 if offset else 0  # the channel that is 0 stays
    assert (norm[still], columns[still]) == (weight[still], 1)


def test_factors_balance_and_ignore_what_is_unused():
    x, w = np.array([100, 1, 0, 5], np.float32), np.array([1, 1, 3, 0], np.float32)
    s = smoothquant.factors(x, w)
    np.testing.assert_allclose(s, [10**0.5, 10**-0.5, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(smoothquant.factors(np.zeros(3, np.float32), np.ones(3, np.float32)), 1)


def test_a_folding_is_applied_by_bands():
    rng = np.random.default_rng(1)
    w, rows, columns = (
        rng.normal(size=(6, 4)).astype("f4"),
        rng.normal(size=6).astype("f4"),
        rng.normal(size=4).astype("f4"),
    )
    folding = Folding({"a": rows}, {"a": columns})
    whole = folding.apply("a", w, 0)
    np.testing.assert_array_equal(np.concatenate([folding.apply("a", w[:4], 0), folding.apply("a", w[4:], 4)]), whole)
    np.testing.assert_allclose(whole, w * rows[:, None] * columns, rtol=1e-6)
    assert folding.apply("b", w, 0) is w
