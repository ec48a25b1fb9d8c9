"""What `inspect` finds, against plain float64 arithmetic over the whole weights; and the page that shows it."""

from contextlib import closing
from math import log2
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts
from halve.checkpoint.source import open_checkpoint
from halve.codecs.reference import value_table
from halve.errors import CheckpointError, OutputError
from halve.evaluate import inspection_page
from halve.evaluate.depth import kind, place, short
from halve.evaluate.inspection import InspectedTensor, Inspection
from halve.evaluate.weights import CodeCount, Size, Spread, Tails
from halve.pipeline import workers
from halve.pipeline.inspect import inspect
from halve.schemes import Block, get
from halve.schemes.quantize import dequantize, quantize
from tiny import gguf_models, llama
from tiny.page import Page

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'<b>"
SCHEMES = ["fp8_dynamic", "fp8_block", "mxfp8", "nvfp4a16", "mxfp4a16", "w8a8", "w4a16", "w4a16_asym", "mxfp6_e2m3a16"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    weights = llama.weights()
    weights["model.layers.0.mlp.up_proj.weight"][5] = 0
    weights["model.layers.1.mlp.down_proj.weight"][3, 7] = 4  # 200 standard deviations
    return llama.write(tmp_path_factory.mktemp("inspect") / "source", weights)


def by_name(found):
    return {t.name: t for t in found.tensors}


def straight(x):
    """What `Spread` says, in float64."""
    x = x.astype(np.float64).reshape(-1)
    rms = np.sqrt((x**2).mean())
    return {
        "count": x.size,
        "amax": np.abs(x).max(),
        "rms": rms,
        "kurtosis": (x**4).mean() / rms**4,
        "far": int((np.abs(x) > 6 * rms).sum()),
        "zeros": int((x == 0).sum()),
    }


def assert_spread(spread, x):
    for name, expected in straight(x).items():
        assert getattr(spread, name) == pytest.approx(expected, rel=1e-5), name


def test_headers_alone(source):
    found = inspect(source)
    assert found.measured == []
    assert (found.layout, found.schemes, found.element) == ("dense", (), "")
    assert found.detected == "dense, not quantized"
    assert found.parameters == sum(w.size for w in llama.weights().values())
    assert found.quantized_bpw is None
    json = found.to_json()
    assert (json["scheme"], json["quantized_bpw"], json["bpw"]) == (None, None, 16.0)
    assert "spread" not in json["tensors"][0]


def test_plain_weights(source):
    found = inspect(source, values=True)
    assert len(found.measured) == len(found.tensors)
    weights = llama.load(source / "model.safetensors")
    for tensor in found.tensors:
        assert_spread(tensor.spread, weights[tensor.name])
        assert tensor.codes is None
    assert found.worst[0].name == "model.layers.1.mlp.down_proj.weight"
    assert found.worst[0].spread.far == 1
    assert by_name(found)["model.layers.0.mlp.up_proj.weight"].spread.zeros == llama.HIDDEN


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantized_weights(source, tmp_path, scheme):
    halve.quantize(source, tmp_path / "out", scheme)
    found = inspect(tmp_path / "out", values=True)
    assert found.schemes == (scheme,)
    assert found.quantized_bpw == pytest.approx(get(scheme).bpw, rel=0.1)
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint:
        layout = layouts.detect(checkpoint)
        opened = layout.open(checkpoint)
        assert sorted(opened) == sorted(t.name for t in found.tensors if t.quantized)
        for name, stored in opened.items():
            q = layout.read(checkpoint, stored, 0, stored.shape[0])
            tensor, values = by_name(found)[name], dequantize(q)
            assert_spread(tensor.spread, values)
            codes, counts = np.unique(q.codes, return_counts=True)
            histogram = np.zeros(1 << stored.block.element_format.bits, int)
            histogram[codes] = counts
            assert tensor.codes.histogram == tuple(histogram)
            shares = counts / counts.sum()
            assert tensor.codes.entropy == pytest.approx(-(shares * np.log2(shares)).sum())
            assert tensor.codes.scales == (np.abs(q.scales).min(), np.abs(q.scales).max())
            assert tensor.codes.tensor_scale == q.tensor_scale
            height, width = stored.block.tile(*q.shape)
            empty = [
                not values[row : row + height, column : column + width].any()
                for row in range(0, q.shape[0], height)
                for column in range(0, q.shape[1], width)
            ]
            assert (tensor.codes.blocks, tensor.codes.zero_blocks) == (len(empty), sum(empty))
    if scheme != "fp8_block":
        assert by_name(found)["model.layers.0.mlp.up_proj.weight"].codes.zero_blocks > 0


def test_mixed_schemes_are_named(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "mxfp4a16", overrides=[("re:.*down_proj", "mxfp8a16")])
    found = inspect(tmp_path / "out")
    assert found.schemes == ("mxfp4a16", "mxfp8a16")
    assert found.detected == "compressed-tensors, mxfp4a16 + mxfp8a16"
    assert by_name(found)["model.layers.0.mlp.down_proj.weight"].scheme == "mxfp8a16"


def test_neither_bands_nor_threads_matter(source, tmp_path, monkeypatch):
    halve.quantize(source, tmp_path / "out", "nvfp4a16")
    for path in (source, tmp_path / "out"):
        expected = inspect(path, values=True, threads=1).to_json()
        with monkeypatch.context() as patched:
            patched.setattr(workers, "BAND_BYTES", 128 * 128 * 2)
            assert inspect(path, values=True, threads=4).to_json() == expected


def test_progress_ends_at_its_total(source):
    told = []
    inspect(source, values=True, progress=told.append)
    assert told[-1].done == told[-1].total == 2 * sum(w.nbytes for w in llama.weights().values())
    told.clear()
    inspect(source, progress=told.append)
    assert told == []


def test_layers_are_in_their_order(tmp_path):
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": np.ones((2, 4), np.float32) for i in (10, 9, 1)}
    found = inspect(llama.write(tmp_path / "m", tensors))
    assert [t.name.split(".")[2] for t in found.tensors] == ["1", "9", "10"]


def test_tensors_of_every_shape_and_type(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "experts": rng.standard_normal((3, 40, 24)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(2.5, np.float32),
        "half": rng.standard_normal((7, 5)).astype(np.float16),
        "double": rng.standard_normal((7, 5)),
        "counts": np.arange(12).reshape(3, 4),
        "empty": np.zeros((0, 8), np.float32),
        "dead": np.zeros((4, 8), np.float32),
    }
    found = by_name(inspect(llama.write(tmp_path / "m", tensors), values=True))
    for name in ("experts", "scalar", "half", "double"):
        assert_spread(found[name].spread, tensors[name])
    assert found["counts"].spread is None
    assert found["empty"].spread == Spread(0, 0.0, 0.0, None, 0, 0, 0)
    assert found["dead"].spread == Spread(32, 0.0, 0.0, None, 0, 32, 0)
    assert (found["empty"].spread.crest, found["empty"].spread.zero_share) == (None, 0.0)


def test_nan_and_inf_are_counted_and_left_out(tmp_path):
    w = np.ones((4, 8), np.float32)
    w[0, 0], w[1, 1], w[2, 2] = np.nan, np.inf, -np.inf
    (tensor,) = inspect(llama.write(tmp_path / "m", {"a.weight": w}), values=True).tensors
    assert (tensor.spread.nonfinite, tensor.spread.amax, tensor.spread.zeros) == (3, 1.0, 3)
    assert_spread(tensor.spread, np.where(np.isfinite(w), w, 0))


def test_gguf_blocks_are_read_as_what_they_stand_for(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_models.TinyModel(encoding="Q4_0").write(path)
    found = inspect(path, values=True)
    assert all(t.spread is not None and t.spread.nonfinite == 0 for t in found.tensors)


def test_a_file_that_ends_early(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "w8a8")
    file = tmp_path / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        inspect(tmp_path / "out", values=True)


def use(block, w, rule=None):
    q = quantize(block, w, rule=rule)
    found = CodeCount(block, w.shape)
    found.add(q, dequantize(q))
    return found.use()


@pytest.mark.parametrize(("rule", "ends"), [("max", (-7, 7)), ("signed", (-8, 7))])
def test_codes_at_either_end_of_integers(rule, ends):
    w = np.zeros((2, 32), np.float32)
    w[0, :6] = -7, 7, -7, 6.5, 3, 1
    block = Block(element="int4", scale="fp16", block_size=32)
    found = use(block, w, rule)
    used = dict(zip(value_table(block.element_format).tolist(), found.histogram, strict=True))
    assert found.saturated == sum(used[end] for end in ends) >= 2
    assert found.zero_blocks == 1


def test_codes_at_either_end_of_floats():
    w = np.zeros((1, 32), np.float32)
    w[0, :6] = 6, -6, 6, 4, 4, 1
    found = use(Block(element="fp4_e2m1", scale="e8m0", block_size=32), w)
    assert (found.saturated, found.saturated_share) == (3, 3 / 32)
    assert found.unused_bits == pytest.approx(4 - found.entropy)


def test_entropy_of_equally_frequent_codes():
    values = value_table(get("nf4").weight.element_format)
    found = use(Block(element="nf4", block_size=64), np.tile(values, (4, 4)))
    assert found.entropy == pytest.approx(log2(16))
    assert found.unused_bits == pytest.approx(0)


def test_one_block_a_tensor():
    block = Block(element="fp8_e4m3", block_size="tensor")
    assert (use(block, np.zeros((3, 8), np.float32)).blocks, use(block, np.zeros((3, 8), np.float32)).zero_blocks) == (
        1,
        1,
    )
    assert use(block, np.ones((3, 8), np.float32)).zero_blocks == 0


def test_elements_too_wide_to_count():
    found = use(Block(element="int16", block_size="row"), np.eye(8, dtype=np.float32))
    assert (found.histogram, found.entropy, found.saturated, found.unused_bits) == ((), None, None, None)
    assert found.zero_blocks == 0


def test_heavy_tails():
    rng = np.random.default_rng(1)
    for x in (rng.standard_normal(100_000), rng.standard_t(5, 100_000), rng.standard_normal(1001) * 1e-18):
        size = Size()
        size.add(x.astype(np.float32))
        tails = Tails(size)
        tails.add(x.astype(np.float32))
        assert_spread(tails.spread(), x.astype(np.float32))


def test_places_of_layers():
    assert place("model.layers.12.self_attn.q_proj.weight") == ("self_attn.q_proj", 12)
    assert place("model.layers.3.mlp.experts.77.down_proj") == ("mlp.experts.*.down_proj", 3)
    assert place("transformer.h.0.attn.c_attn.weight") == ("attn.c_attn", 0)
    assert place("lm_head.weight") is None
    assert (kind("lm_head.weight"), kind("model.layers.1.a.weight")) == ("lm_head", "a")
    assert short(["mlp.up", "mlp.experts.*.up", "attn.q", "q"]) == {
        "mlp.up": "mlp.up",
        "mlp.experts.*.up": "*.up",
        "attn.q": "attn.q",
        "q": "q",
    }


def test_the_page(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "mxfp4a16", overrides=[("re:.*down_proj", "mxfp8a16")])
    found = inspect(tmp_path / "out", values=True)
    inspection_page.write(tmp_path / "p.html", found)
    page = Page((tmp_path / "p.html").read_text())
    assert page.loads_nothing()
    assert page.plotted.keys() == {"crest", "kurtosis", "zeros", "saturated", "unused", "codes"}
    (crest,) = page.plotted["crest"]
    assert crest["x"] == list(range(llama.LAYERS))
    shown = dict(zip(crest["y"], crest["z"], strict=True))
    spread = by_name(found)["model.layers.1.mlp.down_proj.weight"].spread
    assert shown["down_proj"][1] == pytest.approx(np.log10(spread.crest))
    histograms = {len(trace["x"]): trace for trace in page.plotted["codes"]}
    assert set(histograms) == {253, 15}  # both zeros of FP8 and of FP4 are one number; NaN is none
    assert [float(v) for v in histograms[15]["customdata"]][:3] == [-6, -4, -3]
    assert sum(histograms[15]["y"]) == pytest.approx(100)
    for words in ("mxfp4a16 + mxfp8a16", "model.layers.1.mlp.down_proj.weight", "entropy, bits"):
        assert words in page.text
    assert inspection_page.render(found) == inspection_page.render(found)


def test_the_page_of_plain_weights(source):
    page = Page(inspection_page.render(inspect(source, values=True)))
    assert page.plotted.keys() == {"crest", "kurtosis"}
    assert "saturated" not in page.text


def test_the_page_cannot_be_written(source, tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        inspection_page.write(tmp_path, inspect(source, values=True))


def hostile():
    tensor = InspectedTensor(
        name=f"model.layers.0.{ATTACK}",
        shape=(2, 2),
        stored=("x F32 [2, 2]",),
        bytes=16,
        bpw=32.0,
        quantized=False,
        element=ATTACK,
        scheme=ATTACK,
        note=ATTACK,
        spread=Spread(4, 1.0, 1.0, 3.0, 0, 0, 0),
    )
    return Inspection(path=Path(ATTACK), architecture=ATTACK, layout=ATTACK, tensors=(tensor,))


def test_everything_is_escaped():
    page = Page(inspection_page.render(hostile()))
    assert not [tag for tag, attrs in page.tags if tag in ("img", "b") or "onerror" in attrs]
    assert page.text.count("alert(1)") >= 4
    assert not any("<script>" in script or "<img" in script for script in page.scripts[1:])
    assert "<img" not in hostile()._repr_html_()
    assert "<script" not in hostile()._repr_html_()


def test_in_a_notebook(source):
    assert "<th>amax/rms</th>" in inspect(source, values=True)._repr_html_()
    assert "<th>stored as</th>" in inspect(source)._repr_html_()
