"""Statistics of models with experts, and of the other families: what each layer is fed, and who was never chosen."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import halve
from halve.models.fused import fused_group
from halve.pipeline.calibrate import calibrate
from halve.pipeline.statistics import StatisticsFile
from tiny import families, llama

TEXT = "the quick brown fox jumps over the lazy dog. " * 40
NEVER = 4  # the expert that the router of layer 1 never chooses


def model(folder, name, *, packed=False, **changes):
    """A tiny model that reads bytes; ``packed``: its experts in one tensor."""
    sizes = {"vocab_size": 264, "max_position_embeddings": 128}
    config = families.config_of(name, **sizes, **changes)
    tensors = families.weights(config)
    for part in ("gate.weight", "router.weight"):
        if (router := f"model.layers.1.mlp.{part}") in tensors:
            tensors[router][NEVER] = 0
            tensors["model.layers.1.post_attention_layernorm.weight"] += 1
            bias = tensors.get("model.layers.1.mlp.router.bias")
            if bias is None:  # more than zero wins: two others are opposites, and one of them is above it
                tensors[router][1], tensors[router][3] = -tensors[router][0], -tensors[router][2]
            else:
                bias[NEVER] = -1e4
    families.write(folder, config, families.stacked(config, tensors) if packed or name == "gpt_oss" else tensors)
    llama._byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder.parent / "text.txt").write_text(TEXT)
    return folder


def observed(source):
    """Inputs of every linear layer over the same windows, from the whole model."""
    found = halve.load(source)
    seen = {name: [np.zeros((0, linear.weight.shape[1]), np.float32)] for name, linear in found.linears.items()}
    found.observe = lambda name, inputs, _: seen[name].append(inputs.copy())
    for window in found.tokenizer.encode(TEXT, special=False)[: 3 * 32].reshape(3, 32):
        found.logits(window)
    kept = ("lm_head", "mlp.gate", "mlp.router")
    return {name: np.concatenate(parts) for name, parts in seen.items() if not name.endswith(kept)}


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_moe_mixed", "gpt_oss", "gemma3", "phi3"])
def test_they_are_the_moments_of_the_inputs(tmp_path, name):
    source = model(tmp_path / "source", name)
    result = calibrate(source, tmp_path / "stats", texts=[str(tmp_path / "text.txt")], windows=3, window=32)
    file, inputs = StatisticsFile(result.path), observed(source)
    for layer, x in inputs.items():
        found = file.of(f"{layer}.weight", x.shape[1])
        count = max(len(x), 1)
        np.testing.assert_allclose(found.mean_square, np.square(x).sum(0) / count, rtol=1e-3, atol=1e-6, err_msg=layer)
        np.testing.assert_allclose(found.amax, np.abs(x).max(0, initial=0), rtol=1e-4, atol=1e-6, err_msg=layer)
        np.testing.assert_allclose(found.hessian, x.T @ x / count, rtol=1e-3, atol=1e-4, err_msg=layer)
    groups = {key.rpartition(".")[0] for key in load_file(result.path) if key.endswith("mean_square")}
    assert groups == {fused_group(layer) for layer in inputs}
    assert len(groups) == result.groups
    assert set(result.unreached) == {layer.rpartition(".")[0] for layer, x in inputs.items() if not len(x)}


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_experts_that_the_text_never_reached_are_named(tmp_path, name):
    source = model(tmp_path / "source", name)
    result = calibrate(source, tmp_path / "stats", texts=[str(tmp_path / "text.txt")], windows=3, window=32)
    expert = f"model.layers.1.mlp.experts.{NEVER}"
    assert expert in result.unreached
    assert expert in json.loads(json.dumps(result.to_json()))["unreached"]
    told = dict(result.facts_told())["never reached"]
    assert f"model.layers.1.mlp.experts {NEVER}" in told.replace(", ", " ")
    assert (
        not StatisticsFile(result.path).of(f"{expert}.down_proj.weight", 24 if name == "qwen3_moe" else 64).amax.any()
    )


def test_a_model_without_experts_names_none(tmp_path):
    source = model(tmp_path / "source", "llama")
    result = calibrate(source, tmp_path / "stats", texts=[str(tmp_path / "text.txt")], windows=1, window=32)
    assert result.unreached == ()
    assert "never reached" not in dict(result.facts_told())


@pytest.mark.parametrize("algorithm", ["hessian_diag", "gptq"])
@pytest.mark.parametrize("packed", [False, True])
def test_unreached_experts_are_quantized_all_the_same(tmp_path, algorithm, packed):
    source = model(tmp_path / "source", "qwen3_moe", packed=packed, moe_intermediate_size=32)
    stats = calibrate(source, tmp_path / "stats", texts=[str(tmp_path / "text.txt")], windows=3, window=32).path
    halve.quantize(source, tmp_path / "out", "nvfp4", stats=stats, algorithm=algorithm)
    problems = halve.verify(tmp_path / "out", against=source).problems
    assert all(
        "SQNR" in problem.what for problem in problems
    )  # what calibrated codes of random numbers are free to have
    tensors = llama.load(tmp_path / "out" / "model.safetensors")
    for part in ("gate", "down"):
        scale = tensors[f"model.layers.1.mlp.experts.{NEVER}.{part}_proj.input_global_scale"]
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
    found = halve.evaluate(
        tmp_path / "out", against=source, texts=[tmp_path / "text.txt"], windows=1, window=32, activations=True
    )
    assert [np.isfinite(loss.kld.mean) for loss in found.losses] == [True, True]
    layers = {layer.name: layer for layer in found.layers}
    assert len(layers) == 3 * (4 + 6 * 3)
    assert layers[f"model.layers.1.mlp.experts.{NEVER}.down_proj"].to_json()["output_db"] is None


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "phi3", "phi3_long", "qwen3_moe", "gpt_oss", "mistral"])
def test_every_family_generates_what_its_logits_say(tmp_path, name):
    found = halve.load(model(tmp_path / "source", name))
    answer = found.generate("Numbers of fewer bits", max_tokens=6, chat=False)
    tokens = found.tokenizer.encode("Numbers of fewer bits").tolist()
    for token in answer.tokens:
        assert token == found.logits(np.array(tokens))[-1].argmax()
        tokens.append(token)
