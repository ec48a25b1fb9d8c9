"""Between layouts: codes survive every lossless pair there and back, and what is lost is said."""

import json
from contextlib import closing
from itertools import count, permutations
from math import inf

import numpy as np
import pytest

import halve
from halve import layouts
from halve.checkpoint.source import open_checkpoint
from halve.errors import OutputError, UnsupportedError
from halve.pipeline import journal
from halve.pipeline.convert import recode
from halve.schemes import SCHEMES, Block, get
from halve.schemes.quantize import dequantize, quantize
from tiny import llama

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
EXPERTS_ONLY = "gpt-oss-mxfp4"


def holds(layout, scheme):
    support = layouts.get(layout).supports(get(scheme))
    return not support.refused and not get(scheme).needs_calibration


PAIRS = [
    (scheme, one, other)
    for scheme in SCHEMES
    for one, other in permutations([name for name in layouts.layouts() if name not in ("dense", EXPERTS_ONLY)], 2)
    if not SCHEMES[scheme].dense and holds(one, scheme) and holds(other, scheme)
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    config = llama.decoder_config("llama", vocab_size=128, head_dim=64, **WIDE)
    return llama.write_decoder(tmp_path_factory.mktemp("convert") / "source", config)


def weights(path):
    """Every quantized weight of a checkpoint, by name."""
    with closing(open_checkpoint(path)) as checkpoint:
        layout = layouts.detect(checkpoint)
        found = layout.open(checkpoint)
        return {name: layout.read(checkpoint, stored, 0, stored.shape[0]) for name, stored in found.items()}


@pytest.mark.parametrize(("scheme", "one", "other"), PAIRS)
def test_there_and_back_the_codes_are_the_same(source, tmp_path, scheme, one, other):
    halve.quantize(source, tmp_path / "a", scheme, layout=one)
    there = halve.convert(tmp_path / "a", tmp_path / "b", other)
    back = halve.convert(tmp_path / "b", tmp_path / "c", one)
    assert (there.source_layout, there.layout, back.layout) == (one, other, one)
    first, middle, last = (weights(tmp_path / name) for name in "abc")
    assert first.keys() == middle.keys() == last.keys() != set()
    for name, q in first.items():
        np.testing.assert_array_equal(middle[name].codes, q.codes, err_msg=name)
        np.testing.assert_array_equal(last[name].codes, q.codes, err_msg=name)
        assert last[name].tensor_scale == middle[name].tensor_scale == q.tensor_scale
    if not there.losses:
        assert there.kept_codes == len(first)
        for name, q in first.items():
            np.testing.assert_array_equal(dequantize(middle[name]), dequantize(q), err_msg=name)
    else:
        assert all(30 < loss.sqnr_db < inf for loss in there.losses)


def test_dense_gives_the_values(source, tmp_path):
    halve.quantize(source, tmp_path / "q", "mxfp4a16")
    result = halve.convert(tmp_path / "q", tmp_path / "plain", "dense", scheme="fp32")
    assert result.scheme == "fp32"
    plain = llama.load(tmp_path / "plain" / "model.safetensors")
    for name, q in weights(tmp_path / "q").items():
        np.testing.assert_array_equal(plain[name], dequantize(q), err_msg=name)
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_another_scheme_quantizes_again_and_says_what_it_costs(source, tmp_path):
    halve.quantize(source, tmp_path / "q", "nvfp4a16")
    result = halve.convert(tmp_path / "q", tmp_path / "again", "quark", scheme="mxfp6_e2m3a16")
    assert result.losses
    assert all(20 < loss.sqnr_db < 60 for loss in result.losses)
    assert "dB at worst" in result.loss
    assert halve.verify(tmp_path / "again").ok


def test_two_schemes_survive(source, tmp_path):
    mixed = [("re:.*down_proj", "mxfp8a16")]
    halve.quantize(source, tmp_path / "a", "mxfp4a16", overrides=mixed)
    halve.convert(tmp_path / "a", tmp_path / "b", "quark")
    halve.convert(tmp_path / "b", tmp_path / "c", "compressed-tensors")
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ac"]
    assert same[0] == same[1]


def test_a_layout_that_cannot_hold_it_is_refused_and_others_named(source, tmp_path):
    halve.quantize(source, tmp_path / "q", "mxfp6_e2m3a16")
    with pytest.raises(UnsupportedError) as raised:
        halve.convert(tmp_path / "q", tmp_path / "out", "compressed-tensors")
    assert "quark" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_a_plain_source_is_refused(source, tmp_path):
    with pytest.raises(UnsupportedError, match="not quantized"):
        halve.convert(source, tmp_path / "out", "quark")


def test_a_taken_folder_is_refused(source, tmp_path):
    halve.quantize(source, tmp_path / "q", "mxfp4a16")
    with pytest.raises(OutputError):
        halve.convert(tmp_path / "q", tmp_path / "q", "quark")


def test_scales_are_rounded_and_codes_stay():
    w = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    q = quantize(Block(element="int4", scale="fp32", block_size=32), w)
    new = recode(q, Block(element="int4", scale="fp16", block_size=32))
    np.testing.assert_array_equal(new.codes, q.codes)
    np.testing.assert_array_equal(new.scales, q.scales.astype(np.float16).astype(np.float32))
    with pytest.raises(UnsupportedError):
        recode(q, Block(element="int4", scale="fp16", block_size=16))


@pytest.mark.parametrize("after", [2, 9])
@pytest.mark.parametrize("layout", ["modelopt", "gguf", "dense"])
def test_an_interrupted_conversion_goes_on(source, tmp_path, monkeypatch, layout, after):
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    (tmp_path / "peace").mkdir()
    halve.quantize(source, tmp_path / "quantized", "nvfp4a16")
    (tmp_path / "quantized" / "tokenizer.json").unlink(missing_ok=True)  # GGUF has no name for how it splits
    halve.convert(tmp_path / "quantized", tmp_path / "peace" / "out", layout)
    events = count(1)

    def stop(_):
        if next(events) >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halve.convert(tmp_path / "quantized", tmp_path / "out", layout, threads=1, progress=stop)
    with pytest.raises(OutputError, match="not empty"):
        halve.convert(tmp_path / "quantized", tmp_path / "out", layout)
    result = halve.convert(tmp_path / "quantized", tmp_path / "out", layout, memory=1 << 30, resume=True)
    made, expected = ({p.name: p.read_bytes() for p in (tmp_path / x).iterdir()} for x in ("out", "peace/out"))
    assert made == expected
    again = halve.convert(tmp_path / "quantized", tmp_path / "out", layout, resume=True)
    assert again.bytes == result.bytes
    assert "finished before" in again.warnings[0]
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == expected
