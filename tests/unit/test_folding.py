"""A smoothed model computes what it computed; its norms are rounded, and consumers multiply back what that left."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import algorithms
from halve.checkpoint.base import read_array
from halve.checkpoint.source import open_checkpoint
from halve.errors import UnsupportedError
from halve.pipeline.calibrate import calibrate
from halve.pipeline.folded import Folded
from halve.pipeline.making import make_plan
from halve.pipeline.smoothing import fold
from halve.pipeline.statistics import StatisticsFile
from halve.pipeline.workers import Crew
from halve.runtime.load import Loader
from halve.schemes.quantize import absmax, dequantize, tensor_scale
from halve.transforms import TRANSFORMS, awq, smoothquant
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


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transformed_model_computes_what_it_did(made, transform):
    source, stats = made
    checkpoint, statistics = open_checkpoint(source), StatisticsFile(stats)
    job = make_plan(checkpoint, "nvfp4", algorithm="rtn", statistics=statistics, transforms=(transform,))
    folding = fold(checkpoint, statistics, job, Crew(1))
    of_layer = {"smoothquant": 5, "awq": 7}  # smoothing goes through norms only: not into o and down
    assert len(folding.columns) == of_layer[transform] * Loader(checkpoint).decoder.geometry.layers
    changed = Folded(checkpoint, folding)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not np.allclose(read_array(changed, name), read_array(checkpoint, name).astype(np.float32))
    tokens = np.arange(20)
    before, after = Loader(checkpoint).model().logits(tokens), Loader(changed).model().logits(tokens)
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    checkpoint.close()


def test_statistics_follow(made):
    source, stats = made
    checkpoint, statistics = open_checkpoint(source), StatisticsFile(stats)
    job = make_plan(checkpoint, "nvfp4", algorithm="rtn", statistics=statistics, transforms=("smoothquant",))
    folding = fold(checkpoint, statistics, job, Crew(1))
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


def output_errors(job, checkpoint, statistics, transforms):
    """By weight, the mean square error of the outputs under hessian_diag."""
    folding = fold(checkpoint, statistics, replace(job, recipe=replace(job.recipe, transforms=transforms)), Crew(1))
    amax, found = {}, {}
    seen = {t.source.name: read_array(Folded(checkpoint, folding), t.source.name).astype("f4") for t in job.quantized}
    for t in job.quantized:
        amax[t.group] = max(amax.get(t.group, 0), absmax(seen[t.source.name]))
    for t in job.quantized:
        w, known = seen[t.source.name], statistics.of(t.source.name, t.source.columns)
        known = folding.statistics(t.source.name, known)
        q = algorithms.get("hessian_diag").prepared(t.scheme.weight, known)
        error = w - dequantize(q.quantize(w, tensor_scale=tensor_scale(t.scheme.weight, amax[t.group])))
        found[t.source.name] = np.einsum("oi,ij,oj->", error, known.hessian, error)
    return found


@pytest.mark.parametrize("scheme", ["nvfp4a16", "w4a16", "mxfp4a16"])
def test_awq_raises_no_error_of_outputs(made, scheme):
    checkpoint, statistics = open_checkpoint(made[0]), StatisticsFile(made[1])
    job = make_plan(checkpoint, scheme, algorithm="hessian_diag", statistics=statistics)
    before = output_errors(job, checkpoint, statistics, ())
    after = output_errors(job, checkpoint, statistics, ("awq",))
    alone = [
        name for name in before if name.endswith(("o_proj.weight", "down_proj.weight"))
    ]  # their outputs keep units
    assert all(after[name] <= 1.0001 * before[name] for name in alone)
    assert any(after[name] < before[name] for name in alone)
    checkpoint.close()


def test_awq_is_deterministic_and_verifies(made, tmp_path):
    for out, threads in (("a", 1), ("b", 3)):
        halve.quantize(made[0], tmp_path / out, "nvfp4a16", stats=made[1], transforms=["awq"], threads=threads)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert halve.verify(tmp_path / "a").problems == ()


def test_candidates_begin_with_no_change_and_ignore_what_is_unused():
    first, *others = awq.candidates(np.array([4, 1, 0, 0.25], np.float32))
    np.testing.assert_array_equal(first, 1)
    for alpha, factors in zip(awq.ALPHAS[1:], others, strict=True):
        np.testing.assert_allclose(factors, [4**alpha, 1, 1, 0.25**alpha], rtol=1e-6)
    assert all((f == 1).all() for f in awq.candidates(np.zeros(3, np.float32)))


def test_two_transforms_move_the_same_channels(made, tmp_path):
    with pytest.raises(UnsupportedError, match="move the same channels"):
        halve.quantize(made[0], tmp_path / "out", "nvfp4a16", stats=made[1], transforms=["smoothquant", "awq"])
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
