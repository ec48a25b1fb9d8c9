"""What `halve.evaluate` measures, recomputed here with plain numpy from the runtime's logits."""

import json
import shutil
from math import exp, log10
from types import SimpleNamespace

import numpy as np
import pytest

import halve
from halve import schemes
from halve.errors import CheckpointError, UnknownNameError, UnsupportedError
from halve.evaluate import layers, passages, reference, subject
from halve.evaluate.evaluator import Evaluator, evaluate
from halve.evaluate.operands import rounded
from halve.evaluate.text import Text
from halve.runtime.load import load
from halve.runtime.packed.kernels import native
from halve.schemes.quantize import dequantize, quantize, tensor_scale
from tiny import llama, speaker
from tiny.gguf_models import TinyModel

TEXT = Text("rack", speaker.TEXT)
FEW = {"texts": [TEXT], "windows": 3, "window": 64}
SCHEMES = ("fp32", "bf16", "fp8_dynamic", "fp8_block", "w8a8", "nvfp4a16", "mxfp4", "mxfp4a16")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    base = speaker.write(root / "base")
    for scheme in SCHEMES:
        halve.quantize(base, root / scheme, scheme)
    return root


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made / "nvfp4a16", tmp_path / "copy")


def windows():
    return np.frombuffer(speaker.TEXT.encode(), np.uint8)[: 3 * 64].reshape(3, 64).astype(np.int64)


def log_softmax(logits):
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def predicted(model, tokens):
    """Log-probabilities that `model` gives to what may stand at positions 32 to 63."""
    return log_softmax(model.logits(tokens))[31:63]


def test_perplexity_and_divergence(made):
    found = halve.evaluate(made / "mxfp4a16", against=made / "base", **FEW)
    base, model = load(made / "base"), load(made / "mxfp4a16")
    p, q = (np.stack([predicted(m, tokens) for tokens in windows()]) for m in (base, model))
    targets = windows()[:, 32:, None]
    nll, base_nll = (-np.take_along_axis(x, targets, 2)[..., 0] for x in (q, p))
    kld = (np.exp(p) * (p - q)).sum(2)
    same = 100 * (p.argmax(2) == q.argmax(2))
    loss = found.weights
    assert loss.ppl.mean == pytest.approx(exp(nll.mean()), rel=1e-6)
    assert loss.ppl.error == pytest.approx(exp(nll.mean()) * nll.mean(1).std(ddof=1) / 3**0.5, rel=1e-5)
    assert found.base_ppl.mean == pytest.approx(exp(base_nll.mean()), rel=1e-6)
    assert loss.ppl_ratio.mean == pytest.approx(exp((nll - base_nll).mean()), rel=1e-6)
    assert loss.kld.mean == pytest.approx(kld.mean(), rel=1e-4)
    assert loss.kld.error == pytest.approx(kld.mean(1).std(ddof=1) / 3**0.5, rel=1e-3)
    assert loss.kld_99 == pytest.approx(np.quantile(kld, 0.99), rel=1e-4)
    assert loss.kld_max == pytest.approx(kld.max(), rel=1e-4)
    assert loss.same_top.mean == pytest.approx(same.mean())
    assert [p.kld for p in loss.passages] == pytest.approx(kld.mean(1).tolist(), rel=1e-4)
    assert found.scored == 3 * 32


def test_a_model_does_not_differ_from_itself(made):
    found = evaluate(made / "nvfp4a16", against=made / "nvfp4a16", **FEW)
    assert found.weights.kld.mean == found.weights.kld_max == 0
    assert found.weights.ppl_ratio.mean == 1
    assert found.weights.same_top.mean == 100
    assert found.layers == ()
    assert evaluate(made / "fp32", against=made / "base", **FEW).weights.kld.mean == 0


def test_without_a_base_there_is_only_a_perplexity(made):
    found = evaluate(made / "nvfp4a16", **FEW)
    assert found.weights.ppl == evaluate(made / "nvfp4a16", against=made / "base", **FEW).weights.ppl
    assert found.weights.kld is found.weights.same_top is found.base_ppl is found.against is None
    assert found.layers == ()
    assert found.to_json()["kld"] is None


def test_fewer_bits_lose_more(made):
    with Evaluator(made / "base", **FEW) as evaluator:
        kld = {s: evaluator.evaluate(made / s).weights.kld.mean for s in ("bf16", "w8a8", "fp8_dynamic", "nvfp4a16")}
    assert 0 < kld["bf16"] < kld["w8a8"] < kld["fp8_dynamic"] < kld["nvfp4a16"]


def test_a_base_that_is_kept_changes_nothing(made, monkeypatch):
    alone = [evaluate(made / s, against=made / "base", **FEW).losses for s in ("nvfp4a16", "w8a8")]
    calls = []
    forward = reference.forward
    monkeypatch.setattr(reference, "forward", lambda *args: calls.append(1) or forward(*args))
    with Evaluator(made / "base", **FEW) as evaluator:
        assert [evaluator.evaluate(made / s).losses for s in ("nvfp4a16", "w8a8")] == alone
    assert len(calls) == 3
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with Evaluator(made / "base", **FEW) as evaluator:
        assert [evaluator.evaluate(made / s).losses for s in ("nvfp4a16", "w8a8")] == alone
    assert len(calls) == 9


def test_the_loss_of_every_layer(made, monkeypatch):
    monkeypatch.setattr("halve.evaluate.evaluator.LAYER_PASSAGES", 3)
    found = evaluate(made / "nvfp4a16", against=made / "base", **FEW)
    base, model = load(made / "base"), load(made / "nvfp4a16")
    seen = {name: [] for name in base.linears}
    base.observe = lambda name, inputs, outputs: seen[name].append((inputs.copy(), outputs.copy()))
    for tokens in windows():
        base.logits(tokens[:-1])
    assert [layer.name for layer in found.layers] == [name for name in base.linears if name != "lm_head"]
    for layer in found.layers:
        inputs, outputs = (np.concatenate(parts).astype(np.float64) for parts in zip(*seen[layer.name], strict=True))
        w, v = (m.linears[layer.name].weight.astype(np.float64) for m in (base, model))
        assert layer.weight_db == pytest.approx(10 * log10((w**2).sum() / ((w - v) ** 2).sum()), abs=1e-4)
        noise = ((outputs - inputs @ v.T) ** 2).sum()
        assert layer.output_db == pytest.approx(10 * log10((outputs**2).sum() / noise), abs=1e-3)
        assert layer.operands_db is None
    assert found.worst[0] == min(found.layers, key=lambda layer: layer.output_db)


def test_observing_ends_with_the_measurement(made):
    base, model = load(made / "base"), load(made / "bf16")
    assert layers.layer_losses(base, model, passages.cut(TEXT, base.tokenizer, windows=1, window=64))
    assert base.observe is None


@pytest.mark.parametrize("scheme", ["fp8_dynamic", "fp8_block", "w8a8", "mxfp4"])
def test_activations_are_what_the_target_is_fed(made, scheme):
    found = evaluate(made / scheme, against=made / "base", activations=True, **FEW)
    weights, both = found.losses
    assert (weights.operands, both.operands) == ("weights", "weights + activations")
    assert weights == evaluate(made / scheme, against=made / "base", **FEW).weights
    assert both.kld.mean > weights.kld.mean
    model, block = load(made / scheme), schemes.get(scheme).activation
    for name, linear in model.linears.items():
        if name != "lm_head":
            linear.activation = lambda x: dequantize(quantize(block, x))
    nll = [-predicted(model, t)[np.arange(32), t[32:]].mean() for t in windows()]
    assert both.ppl.mean == pytest.approx(exp(np.mean(nll)), rel=1e-3)
    assert "accumulated in FP32" in both.about
    assert all(layer.operands_db < layer.output_db for layer in found.layers)


def test_a_static_scale_is_the_largest_in_the_text_and_said_so(made):
    found = evaluate(made / "nvfp4a16", against=made / "base", activations=True, scheme="nvfp4", **FEW)
    weights, both = found.losses
    assert both.kld.mean > weights.kld.mean
    assert "from the largest in these texts (not calibrated)" in both.about
    assert weights == evaluate(made / "nvfp4a16", against=made / "base", **FEW).weights  # watching changes nothing
    model, block, amax = load(made / "nvfp4a16"), schemes.get("nvfp4").activation, {}
    model.observe = lambda name, x, _: amax.update({name: max(amax.get(name, 0), float(np.abs(x).max()))})
    for tokens in windows():
        model.logits(tokens[:-1])
    model.observe = None
    for name, linear in model.linears.items():
        if name != "lm_head":
            scale = tensor_scale(block, amax[name])
            linear.activation = lambda x, scale=scale: dequantize(quantize(block, x, tensor_scale=scale))
    nll = [-predicted(model, t)[np.arange(32), t[32:]].mean() for t in windows()]
    assert both.ppl.mean == pytest.approx(exp(np.mean(nll)), rel=1e-3)


def test_one_scale_for_a_whole_tensor(made):
    found = evaluate(made / "fp8_dynamic", activations=True, scheme="fp8_static", **FEW)
    assert found.losses[1].ppl != found.losses[0].ppl
    assert "fp8_e4m3 under a tensor scale from the largest in these texts" in found.losses[1].about


def test_keys_and_values(made):
    found = evaluate(made / "base", kv="fp8", **FEW)
    assert [loss.operands for loss in found.losses] == ["weights", "weights + KV"]
    model, fp8 = load(made / "base"), halve.formats.get("fp8_e4m3")
    nll = []
    for tokens in windows():
        cache = model.new_cache(lambda _, k, v: (rounded(fp8, k), rounded(fp8, v)))
        nll.append(-log_softmax(model.logits(tokens, cache))[31:63][np.arange(32), tokens[32:]].mean())
    assert found.losses[1].ppl.mean == pytest.approx(exp(np.mean(nll)), rel=1e-4)
    assert "scale of 1" in found.losses[1].about
    both = evaluate(made / "w8a8", activations=True, kv="fp8", **FEW)
    assert both.losses[1].operands == "weights + activations + KV"
    assert both.elements == ("int8", "fp32", "fp8_e4m3")  # weights and activations, their scales, the cache


@pytest.mark.skipif(native is None, reason="packed models need the native module")
def test_the_kernels_that_run_it(made):
    found = evaluate(made / "nvfp4a16", against=made / "base", packed=("exact", "bf16", "int8"), **FEW)
    weights, exact, bf16, int8 = found.losses
    assert [loss.operands for loss in found.losses[1:]] == ["packed, exact", "packed, bf16", "packed, int8"]
    assert exact.kld.mean == pytest.approx(weights.kld.mean, rel=1e-3)  # a cache in FP16, and another order of sums
    apart = [abs(loss.kld.mean - weights.kld.mean) for loss in (exact, bf16, int8)]
    assert apart[0] < min(apart[1:])
    assert bf16.kld.mean == pytest.approx(weights.kld.mean, rel=0.05)
    assert int8.kld.mean == pytest.approx(weights.kld.mean, rel=0.25)


@pytest.mark.parametrize(
    ("path", "options", "message", "hint"),
    [
        ("nvfp4a16", {"activations": True}, "leaves activations in 16 bits", "--scheme nvfp4"),
        ("base", {"activations": True}, "is not quantized", "leave out --activations"),
        ("nvfp4a16", {"activations": True, "scheme": "w8a8"}, "they are not w8a8's", "--scheme nvfp4"),
        ("nvfp4a16", {"activations": True, "scheme": "mxfp4"}, "they are not mxfp4's", "--scheme nvfp4"),
        ("nvfp4a16", {"scheme": "nvfp4"}, "and they are not", "--activations"),
        ("nvfp4a16", {"kv": "fp3"}, "'fp3'", "known: fp8"),
        ("nvfp4a16", {"window": 4}, "windows of 4 tokens", "8 tokens or more"),
        ("nvfp4a16", {"windows": 0}, "0 windows", "at least one"),
        ("nvfp4a16", {"window": 256}, "more than the context of 128", "--window 128"),
    ],
)
def test_requests_that_make_no_sense(made, path, options, message, hint):
    with pytest.raises(UnsupportedError, match=message) as raised:
        evaluate(made / path, **FEW | options)
    assert hint in raised.value.hint


def test_an_unknown_scheme_lists_near_ones(made):
    with pytest.raises(UnknownNameError, match="nvfp5"):
        evaluate(made / "nvfp4a16", activations=True, scheme="nvfp5", **FEW)


def test_without_a_manifest_the_layout_says_the_scheme(copy):
    (copy / "halve.json").unlink()
    with pytest.raises(UnsupportedError, match="nvfp4a16 leaves activations in 16 bits") as raised:
        evaluate(copy, activations=True, **FEW)
    assert raised.value.hint == "say --scheme nvfp4"
    found = evaluate(copy, activations=True, scheme="nvfp4", **FEW)
    assert (found.label, len(found.losses)) == ("nvfp4a16", 2)


def test_blocks_that_do_not_divide_the_inputs(tmp_path):
    base = speaker.write(tmp_path / "base", hidden_size=64, head_dim=16)
    halve.quantize(base, tmp_path / "out", "fp8_block")
    with pytest.raises(UnsupportedError, match=r"fp8_block cannot feed .*64 columns is not a multiple"):
        evaluate(tmp_path / "out", activations=True, **FEW)


def test_models_that_do_not_compare(made, tmp_path):
    other = speaker.write(tmp_path / "vocabulary", vocab_size=300)
    with pytest.raises(UnsupportedError, match=r"vocabulary of 300 tokens .* one of 264"):
        evaluate(other, against=made / "base", **FEW)
    deep = speaker.write(tmp_path / "deep", num_hidden_layers=3)
    with pytest.raises(UnsupportedError, match=r"different models: model.layers.2"):
        evaluate(deep, against=made / "base", **FEW)


def test_another_tokenizer_is_noticed_and_none_is_not_needed(made, copy):
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedError, match="split rack differently"):
        evaluate(copy, against=made / "base", **FEW)
    (copy / "tokenizer.json").unlink()
    assert evaluate(copy, against=made / "base", **FEW).weights.kld.mean > 0
    with pytest.raises(CheckpointError, match=r"no tokenizer.json"):
        evaluate(copy, **FEW)
    with pytest.raises(CheckpointError, match=r"no tokenizer.json"):
        evaluate(copy, against=made / "base", prompt="Hi", **FEW)


def test_an_unknown_architecture(tmp_path):
    folder = speaker.write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba", "architectures": ["MambaLM"]}))
    with pytest.raises(UnsupportedError, match="run and eval do not know MambaLM"):
        evaluate(folder, **FEW)


def test_nan_names_the_layer(tmp_path):
    weights = llama.decoder_weights(speaker.config())
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    folder = speaker.write(tmp_path / "model")
    llama.write_decoder(folder, speaker.config(), weights)
    with pytest.raises(CheckpointError, match=r"model.layers.1.*up_proj.weight holds NaN"):
        evaluate(folder, **FEW)


def test_several_texts(made, tmp_path):
    (tmp_path / "other.txt").write_text("The quick brown fox jumps over the lazy dog. " * 9)
    found = evaluate(made / "base", texts=[TEXT, tmp_path / "other.txt"], windows=2, window=64)
    assert [(t.name, t.passages) for t in found.texts] == [("rack", 2), ("other.txt", 2)]
    assert [p.text for p in found.weights.passages] == ["rack", "rack", "other.txt", "other.txt"]
    assert found.texts[0].sha256 == TEXT.sha256


def test_two_texts_of_one_name_stay_apart(made, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.txt").write_text(f"{folder} quick brown fox jumps over the lazy dog. " * 9)
    found = evaluate(
        made / "base", texts=[tmp_path / "a" / "text.txt", tmp_path / "b" / "text.txt"], windows=2, window=64
    )
    assert [t.passages for t in found.texts] == [2, 2]


def test_progress_is_told(made):
    seen = []
    evaluate(made / "w8a8", activations=True, progress=lambda *state: seen.append(state), **FEW)
    assert seen[:4] == [("w8a8", done, 3) for done in range(4)]
    assert seen[4:] == [("w8a8, weights + activations", done, 3) for done in range(4)]


def test_results_render_everywhere(made):
    found = evaluate(made / "w8a8", against=made / "base", activations=True, prompt="Hi", **FEW)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {"scheme", "bytes", "bpw", "ppl", "kld", "same_top", "tokens_per_s"} <= content.keys()
    assert content["scheme"] == "w8a8"
    assert 8 < content["bpw"] < 8.3
    assert len(content["losses"]) == 2
    assert content["losses"][0]["kld"] == content["kld"]
    assert content["texts"] == [{"name": "rack", "sha256": TEXT.sha256, "passages": 3}]
    assert content["tokens_per_s"] > 0
    page = found._repr_html_()
    assert page.count("<table>") == 2
    assert "weights + activations" in page
    assert len(list(found.rows())) == 3
    assert {len(row) for row in found.rows()} == {len(found.columns)}
    assert {len(row) for row in found.worst_rows()} == {len(found.worst_columns)}
    assert any(TEXT.sha256[:16] in line for line in found.method)


def test_a_gguf_file_is_not_given_bits_that_it_does_not_have(tmp_path):
    file = TinyModel().write(tmp_path / "model.gguf")
    found = subject.describe(file)
    assert (found.label, found.bpw, found.bytes) == ("gguf", None, file.stat().st_size)
