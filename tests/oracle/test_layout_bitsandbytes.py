"""NF4 beside bitsandbytes and transformers: what is written they load, with the same values."""

from contextlib import closing

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import halve
from halve import layouts
from halve.checkpoint.source import open_checkpoint
from halve.schemes.quantize import dequantize
from tiny import llama

functional = pytest.importorskip("bitsandbytes.functional", reason='nox -s "oracles(quantizers)" installs it')
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bitsandbytes")
    halve.quantize(llama.write(path / "source"), path / "out", "nf4", layout="bitsandbytes")
    return path


def test_transformers_loads_what_is_written(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "out", device_map="cpu")
    layout, modules = layouts.get("bitsandbytes"), dict(model.named_modules())
    with closing(open_checkpoint(folder / "out")) as checkpoint:
        found = layout.open(checkpoint)
        assert len(found) == 14
        for name, stored in found.items():
            weight = modules[name.removesuffix(".weight")].weight
            theirs = functional.dequantize_4bit(weight.data, weight.quant_state).float().numpy()
            mine = dequantize(layout.read(checkpoint, stored, 0, stored.shape[0]))
            np.testing.assert_array_equal(mine.astype(ml_dtypes.bfloat16).astype(np.float32), theirs)
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_codes_and_scales_are_theirs(folder):
    weights, layout = llama.weights(), layouts.get("bitsandbytes")
    with closing(open_checkpoint(folder / "out")) as checkpoint:
        for name, stored in layout.open(checkpoint).items():
            w = torch.from_numpy(weights[name].astype(np.float32)).bfloat16()
            packed, state = functional.quantize_4bit(w, quant_type="nf4", blocksize=64)
            mine = layout.read(checkpoint, stored, 0, stored.shape[0])
            theirs = torch.stack([packed >> 4, packed & 15], -1).reshape(stored.shape).numpy()
            np.testing.assert_array_equal(mine.scales.reshape(-1), state.absmax.numpy())
            np.testing.assert_array_equal(mine.codes, theirs)


@pytest.mark.parametrize("kind", ["nf4", "nf4, double"])
def test_what_transformers_quantizes_is_read(folder, tmp_path, kind):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant="double" in kind
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder / "source", quantization_config=config, device_map="cpu", dtype=torch.bfloat16
    )
    model.save_pretrained(tmp_path / "theirs")
    layout, modules = layouts.get("bitsandbytes"), dict(model.named_modules())
    with closing(open_checkpoint(tmp_path / "theirs")) as checkpoint:
        assert layouts.detect(checkpoint) is layout
        for name, stored in layout.open(checkpoint).items():
            weight = modules[name.removesuffix(".weight")].weight
            theirs = functional.dequantize_4bit(weight.data, weight.quant_state).float().numpy()
            mine = dequantize(layout.read(checkpoint, stored, 0, stored.shape[0]))
            np.testing.assert_array_equal(mine.astype(ml_dtypes.bfloat16).astype(np.float32), theirs)
