"""GPTQ beside auto-round: what it packs is read, what is written it multiplies with, value for value."""

from contextlib import closing

import numpy as np
import pytest
import torch

import halve
from halve import layouts
from halve.checkpoint.base import read_array
from halve.checkpoint.source import open_checkpoint
from halve.schemes.quantize import dequantize
from tiny import folders, llama

pytest.importorskip("auto_round", reason='nox -s "oracles(quantizers)" installs it')
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

LAYOUT = layouts.get("gptq")
PARTS = ("qweight", "qzeros", "scales")
DTYPES = {torch.int32: "I32", torch.float16: "F16"}


def values(packed):
    """The weight [out, in] of auto-round's module: what it makes of the identity."""
    packed.scales = packed.scales.float()
    return packed(torch.eye(packed.infeatures)).T.numpy()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, -1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_auto_round_packs_is_read(tmp_path, bits, group_size, symmetric):
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear

    generator = torch.Generator().manual_seed(bits)
    rows, columns = 64, 128
    size = group_size if group_size > 0 else columns
    codes = torch.randint(0, 2**bits, (rows, columns), generator=generator)
    scales = (torch.rand(rows, columns // size, generator=generator) * 0.01 + 1e-3).half().float()
    zeros = torch.randint(1, 2**bits, scales.shape, generator=generator)  # its kernel misreads what borrows at 0
    if symmetric:
        zeros = torch.full_like(zeros, 2 ** (bits - 1))
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = (codes - zeros.repeat_interleave(size, 1)) * scales.repeat_interleave(size, 1)
    packed = QuantLinear(bits, group_size, columns, rows, bias=False)
    packed.pack(linear, scales, zeros.clone(), device="cpu")
    tensors = {
        f"a.{part}": (DTYPES[t.dtype], tuple(t.shape), t.numpy().tobytes())
        for part in PARTS
        for t in [getattr(packed, part).contiguous()]
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": symmetric, "desc_act": False}
    with closing(folders.write(tmp_path, {"quantization_config": config}, tensors)) as checkpoint:
        (stored,) = LAYOUT.open(checkpoint).values()
        np.testing.assert_array_equal(dequantize(LAYOUT.read(checkpoint, stored, 0, rows)), values(packed))


@pytest.mark.parametrize("scheme", ["w4a16", "w8a16", "int4_g32", "int8_g32"])
def test_auto_round_multiplies_with_what_is_written(tmp_path, scheme):
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear

    halve.quantize(llama.write(tmp_path / "source"), tmp_path / "out", scheme, layout="gptq")
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint:
        config = checkpoint.quantization
        for name, stored in LAYOUT.open(checkpoint).items():
            rows, columns = stored.shape
            packed = QuantLinear(config["bits"], config["group_size"], columns, rows, bias=False)
            for part in PARTS:
                array = read_array(checkpoint, f"{name.removesuffix('.weight')}.{part}")
                setattr(packed, part, torch.from_numpy(array))
            np.testing.assert_array_equal(values(packed), dequantize(LAYOUT.read(checkpoint, stored, 0, rows)))
