"""State dicts beside torch: what it saves is read, what is written it loads, value for value."""

import json
from contextlib import closing

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import halve
from halve import layouts
from halve.checkpoint.base import DTYPES, TensorInfo, read_array
from halve.checkpoint.hf import HfCheckpoint
from halve.checkpoint.source import open_checkpoint
from halve.checkpoint.torch_file import TorchWriter
from halve.schemes import SCHEMES
from halve.schemes.quantize import dequantize
from tiny import llama

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def raw(tensor):
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize("seed", range(20))
def test_state_dicts_of_torch_are_read(tmp_path, seed):
    generator = torch.Generator().manual_seed(seed)

    def tensor():
        shape = torch.randint(
            1, 7, (int(torch.randint(0, 5, (1,), generator=generator)),), generator=generator
        ).tolist()
        found = torch.randn(shape, generator=generator)
        if found.ndim > 1 and seed % 2:
            found = found.transpose(0, -1)[..., : max(shape[0] - 1, 1)]
        dtypes = (
            torch.float32,
            torch.bfloat16,
            torch.float16,
            torch.int8,
            torch.float8_e4m3fn,
            torch.float64,
            torch.bool,
        )
        return found.to(dtypes[int(torch.randint(0, len(dtypes), (1,), generator=generator))])

    state = {f"layer.{i}.weight": tensor() for i in range(30)}
    (tmp_path / "config.json").write_text("{}")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with closing(HfCheckpoint(tmp_path)) as checkpoint:
        assert set(checkpoint.tensors) == set(state)
        for name, expected in state.items():
            found = read_array(checkpoint, name)
            assert (found.shape, found.tobytes()) == (tuple(expected.shape), raw(expected)), name


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_written_loads(tmp_path, mmap):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 2 if name == "BOOL" else 120, (3, 4)).astype(np.uint8).astype(dtype)
        for name, dtype in DTYPES.items()
        if name != "F8_E8M0"
    }
    arrays["F8_E8M0"] = rng.integers(0, 255, (3, 4)).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
    arrays |= {"scalar": np.array(1.5, np.float32), "empty": np.empty((0, 5), np.float16)}
    known = {dtype: name for name, dtype in DTYPES.items()}
    writer = TorchWriter(tmp_path / "x.pt", [TensorInfo(n, known[a.dtype], a.shape) for n, a in arrays.items()])
    for name, array in arrays.items():
        writer.write(name, 0, array.tobytes())
    writer.finish()
    loaded = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert (tuple(loaded[name].shape), raw(loaded[name])) == (array.shape, array.tobytes()), name
        assert str(loaded[name].dtype) == f"torch.{array.dtype.name}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return llama.write(tmp_path_factory.mktemp("torch") / "source")


@pytest.mark.parametrize("shard_bytes", [10**9, 100_000])
def test_transformers_loads_a_cast(source, tmp_path, shard_bytes):
    halve.quantize(source, tmp_path / "out", "fp16", layout="torch", shard_bytes=shard_bytes)
    mine = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float16).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16).state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_transformers_does_not_take_codes_for_weights(source, tmp_path):
    halve.quantize(source, tmp_path / "out", "fp8", layout="torch")
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def unpacked(codes, bits):
    """Codes of fewer than 8 bits, lowest bits first, by the layout's documentation."""
    bit = (codes[..., None].int() >> torch.arange(8)) & 1
    rows = bit.reshape(len(codes), -1, bits)
    return (rows << torch.arange(bits)).sum(-1)


def elements(codes, block):
    """Values of stored codes in plain torch."""
    bits = block.element_format.bits
    if bits == 8:
        return codes.float()
    numbers = unpacked(codes, bits)
    match block.element:
        case "fp4_e2m1":
            return E2M1[numbers]
        case "nf4":
            return torch.tensor(block.element_format.values)[numbers]
        case "int4":
            return ((numbers ^ 8) - 8).float()
        case "uint4":
            return numbers.float()
        case name:
            return torch.from_numpy(
                numbers.byte().numpy().view(getattr(ml_dtypes, f"float6_{name[4:]}fn")).astype("f4")
            )


@pytest.mark.parametrize("scheme", [s.name for s in SCHEMES.values() if not s.dense and not s.needs_calibration])
def test_codes_and_scales_are_weights_by_the_documentation(source, tmp_path, scheme):
    """(element(code) - zero_point) * weight_scale * weight_tensor_scale + weight_minimum, in plain torch."""
    halve.quantize(source, tmp_path / "out", scheme, layout="torch")
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["quant_method"] == "halve"
    layout = layouts.get("torch")
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint:
        for name, stored in layout.open(checkpoint).items():
            module, block = name.removesuffix(".weight"), stored.block
            height, width = block.tile(*stored.shape)

            def spread(part, height=height, width=width, shape=stored.shape, module=module):
                found = state[f"{module}.weight_{part}"].float()
                return found.repeat_interleave(height, 0).repeat_interleave(width, 1)[: shape[0], : shape[1]]

            w = elements(state[name], block)
            if block.zero_point:
                w = w - spread("zero_point")
            w = w * spread("scale")
            if block.tensor_scale:
                w = w * state[f"{module}.weight_tensor_scale"]
            if block.minimum:
                w = w + spread("minimum")
            expected = dequantize(layout.read(checkpoint, stored, 0, stored.shape[0]))
            np.testing.assert_allclose(w.numpy(), expected, rtol=2**-22, atol=0)
