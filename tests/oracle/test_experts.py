"""Experts that transformers' classes hold in one tensor a layer, quantized as what each of them is by itself."""

import json
import runpy
from contextlib import closing

import numpy as np
import pytest

import halve
from golden.arch.weights import FOLDER
from halve import layouts, schemes
from halve.checkpoint.base import DTYPES
from halve.checkpoint.hf import HfCheckpoint
from halve.models import arch
from halve.schemes.quantize import absmax, dequantize, quantize, tensor_scale
from tiny import folders

MODELS = ("qwen3_moe", "qwen2_moe", "mixtral", "llama4_text", "qwen3_vl_moe", "deepseek_v3", "minimax_m2")

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


@pytest.fixture(scope="module")
def build():
    """What makes a tiny model of a type, with random weights."""
    pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    transformers.logging.set_verbosity_error()
    return runpy.run_path(str(FOLDER / "generate.py"))["build"]


def write(folder, model, dtype="BF16"):
    """Save ``model`` under the names that its classes use, experts packed; its parameters and buffers, by name."""
    tensors = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in model.state_dict()}
    arrays = {name: tensor.detach().numpy().astype(DTYPES[dtype]) for name, tensor in tensors.items()}
    config = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    folders.write(folder, config, {name: (dtype, a.shape, a.tobytes()) for name, a in arrays.items()}).close()
    return arrays


def by_expert(config, arrays):
    """Matrices [out, in] cut out of the parameters, name -> matrix: what shares a tensor scale at a time."""
    for stack in arch.of(config).stacks(arrays):
        for expert, matrix in enumerate(arrays[stack.tensor]):
            parts = np.split(matrix.T if stack.transposed else matrix, len(stack.parts))
            yield {stack.weight(expert, part): rows for part, rows in zip(stack.parts, parts, strict=True)}


@pytest.mark.parametrize("scheme", ["nvfp4a16", "fp8_dynamic"])
@pytest.mark.parametrize("model_type", MODELS)
def test_experts_become_what_each_of_them_becomes_alone(build, model_type, scheme, tmp_path):
    model = build(model_type)
    arrays = write(tmp_path / "source", model)
    ragged = [name for name, array in arrays.items() if array.ndim == 2 and array.shape[1] % 16]
    result = halve.quantize(tmp_path / "source", tmp_path / "out", scheme, ignore=ragged)
    assert not any("packed experts" in warning for warning in result.warnings)
    layout = layouts.get("compressed-tensors")
    block = layout.bind(schemes.get(scheme), "BF16").weight
    with closing(HfCheckpoint(tmp_path / "out")) as checkpoint:
        stored = layout.open(checkpoint)
        groups = list(by_expert(json.loads(model.config.to_json_string()), arrays))
        assert groups
        for group in groups:
            scale = tensor_scale(block, max(absmax(w) for w in group.values())) if block.tensor_scale else None
            for name, w in group.items():
                alone = quantize(block, np.ascontiguousarray(w), tensor_scale=scale)
                found = layout.read(checkpoint, stored[name], 0, len(w))
                np.testing.assert_array_equal(found.codes, alone.codes, err_msg=name)
                np.testing.assert_array_equal(dequantize(found), dequantize(alone), err_msg=name)
        assert not {name for name in checkpoint.tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))}
    assert counts(tmp_path, result) == {len(result.plan.quantized)}


@pytest.mark.parametrize("model_type", [name for name in MODELS if name != "qwen3_vl_moe"])
def test_transformers_computes_with_the_values_that_halve_means(build, model_type, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    pytest.importorskip("compressed_tensors", reason="the extra `oracle` is not installed")
    model = build(model_type).eval()
    arrays = write(tmp_path / "source", model, "F32")
    ragged = [name for name, array in arrays.items() if array.ndim == 2 and array.shape[1] % 16]
    halve.quantize(tmp_path / "source", tmp_path / "out", "w8a16", ignore=ragged)
    layout = layouts.get("compressed-tensors")
    with closing(HfCheckpoint(tmp_path / "out")) as checkpoint, torch.no_grad():
        held = {n: dequantize(layout.read(checkpoint, w, 0, w.shape[0])) for n, w in layout.open(checkpoint).items()}
        for name, matrix in matrices(json.loads(model.config.to_json_string()), dict(model.named_parameters())):
            if name in held:
                matrix.copy_(torch.from_numpy(held.pop(name)))
        assert not held
        tokens = torch.tensor([[7 + 37 * i % 79 for i in range(24)]])
        wanted = model(input_ids=tokens).logits.numpy()
        loaded, said = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "out", dtype=torch.float32, output_loading_info=True
        )
        assert not any(said.values()), said
        found = loaded.eval()(input_ids=tokens).logits.numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def matrices(config, parameters):
    """Name and memory of each parameter, an expert's part by itself."""
    for stack in arch.of(config).stacks(parameters):
        for expert, matrix in enumerate(parameters.pop(stack.tensor)):
            parts = (matrix.T if stack.transposed else matrix).chunk(len(stack.parts))
            yield from ((stack.weight(expert, part), rows) for part, rows in zip(stack.parts, parts, strict=True))
    yield from parameters.items()


def counts(folder, result):
    """How many weights each command takes for quantized."""
    proof = halve.verify(folder / "out", against=folder / "source")
    assert proof.problems == ()
    listed = [tensor for tensor in halve.inspect(folder / "out").tensors if tensor.quantized]
    there = halve.convert(folder / "out", folder / "modelopt", "modelopt")
    assert halve.verify(folder / "modelopt", against=folder / "source").problems == ()
    return {len(result.losses), len(proof.losses), len(listed), there.kept_codes}


def test_gpt_oss_stays_packed_in_its_own_layout(tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `oracle` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `oracle` is not installed")
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=5,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    )
    model = transformers.GptOssForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    arrays = write(tmp_path / "source", model)
    out = tmp_path / "out"
    result = halve.quantize(tmp_path / "source", out, "mxfp4a16", layout="gpt-oss-mxfp4")
    assert len(result.plan.quantized) == len(result.losses) == 2 * 5 * 2
    assert halve.verify(out, against=tmp_path / "source").problems == ()
    settings = transformers.Mxfp4Config(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out, quantization_config=settings, dtype=torch.bfloat16)
    held = loaded.state_dict()
    block = layouts.get("gpt-oss-mxfp4").bind(schemes.get("mxfp4a16"), "BF16").weight
    for name, array in arrays.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            for expert, matrix in enumerate(array):
                alone = dequantize(quantize(block, np.ascontiguousarray(matrix.T))).T
                np.testing.assert_array_equal(held[name][expert].float().numpy(), alone, err_msg=name)
        else:
            np.testing.assert_array_equal(held[name].float().numpy(), array.astype(np.float32), err_msg=name)
