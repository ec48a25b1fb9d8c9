"""AWQ beside auto-round, which has AutoAWQ's code: what it packs is read, what is written it dequantizes alike."""

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

LAYOUT = layouts.get("awq")
PARTS = ("qweight", "qzeros", "scales")
DTYPES = {torch.int32: "I32", torch.float16: "F16"}


@pytest.mark.parametrize("group_size", [32, 128, -1])
@pytest.mark.parametrize("seed", range(3))
def test_what_auto_round_packs_is_read(tmp_path, group_size, seed):
    from auto_round.export.export_to_awq.utils import WQLinear_GEMM, dequantize_gemm

    generator = torch.Generator().manual_seed(seed)
    rows, columns = 64, 256
    size = group_size if group_size > 0 else columns
    codes = torch.randint(0, 16, (rows, columns), generator=generator)
    scales = (torch.rand(columns // size, rows, generator=generator) * 0.01 + 1e-3).half().float()
    zeros = torch.randint(0, 16, scales.shape, generator=generator)
    linear = torch.nn.Linear(columns, rows, bias=False)
    spread = [numbers.T.repeat_interleave(size, 1) for numbers in (zeros, scales)]
    linear.weight.data = (codes - spread[0]) * spread[1]
    packed = WQLinear_GEMM.from_linear(linear, 4, group_size, scales=scales, zeros=zeros, device="cpu")
    tensors = {
        f"a.{part}": (DTYPES[t.dtype], tuple(t.shape), t.numpy().tobytes())
        for part in PARTS
        for t in [getattr(packed, part).contiguous()]
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm"}
    with closing(folders.write(tmp_path, {"quantization_config": config}, tensors)) as checkpoint:
        (stored,) = LAYOUT.open(checkpoint).values()
        found = LAYOUT.read(checkpoint, stored, 0, rows)
    np.testing.assert_array_equal(found.codes, codes.numpy())
    np.testing.assert_array_equal(found.zeros, zeros.T.numpy())
    theirs = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales.float(), 4, size).T
    np.testing.assert_array_equal(dequantize(found), theirs.numpy())


def test_auto_round_dequantizes_what_is_written(tmp_path):
    from auto_round.export.export_to_awq.utils import dequantize_gemm

    halve.quantize(llama.write(tmp_path / "source"), tmp_path / "out", "w4a16_asym", layout="awq")
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint:
        size = checkpoint.quantization["group_size"]
        for name, stored in LAYOUT.open(checkpoint).items():
            module = name.removesuffix(".weight")
            words, zeros, scales = (torch.from_numpy(read_array(checkpoint, f"{module}.{part}")) for part in PARTS)
            theirs = dequantize_gemm(words, zeros, scales.float(), 4, size).T.numpy()
            np.testing.assert_array_equal(dequantize(LAYOUT.read(checkpoint, stored, 0, stored.shape[0])), theirs)
