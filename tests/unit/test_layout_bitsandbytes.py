"""bitsandbytes' own weights, the golden files: read with its values, refused where they contradict each other."""

import hashlib
import json
from contextlib import closing
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo
from halve.errors import CheckpointError, FormatError
from halve.schemes import Block
from halve.schemes.quantize import dequantize
from tiny import folders, llama

LAYOUT = layouts.get("bitsandbytes")
GOLDEN = Path(__file__).parents[1] / "golden" / "layouts" / "bitsandbytes"
THEIRS = json.loads((GOLDEN / "theirs.json").read_text())["cases"]
OURS = json.loads((GOLDEN / "ours.json").read_text())
MODULE = "model.layers.0.mlp.up_proj"
WEIGHT = f"{MODULE}.weight"
STATE = f"{WEIGHT}.quant_state.bitsandbytes__nf4"
NF4 = sorted(case for case in THEIRS if case.startswith("nf4"))
FP4 = sorted(case for case in THEIRS if case.startswith("fp4"))


def opened(tmp_path, case, *, change=None, state=None, **config):
    """A golden case as a folder; ``change`` is applied to its tensors, ``state`` to its description."""
    golden = THEIRS[case]
    tensors = {f"{MODULE}.{name}": tensor for name, tensor in folders.tensors(golden["tensors"]).items()}
    if change:
        change(tensors)
    if state is not None:
        facts = json.loads(tensors[STATE][2]) | state
        data = json.dumps(facts).encode()
        tensors[STATE] = "U8", (len(data),), data
    quantization = {k: v for k, v in (golden["quantization_config"] | config).items() if v is not None}
    return folders.write(tmp_path / "model", {"quantization_config": quantization}, tensors)


def values(checkpoint, step=128):
    (stored,) = LAYOUT.open(checkpoint).values()
    bands = range(0, stored.shape[0], step)
    return np.concatenate(
        [dequantize(LAYOUT.read(checkpoint, stored, a, min(a + step, stored.shape[0]))) for a in bands]
    )


def refused(tmp_path, why, case="nf4, double", **changes):
    with closing(opened(tmp_path, case, **changes)) as checkpoint, pytest.raises(CheckpointError, match=why) as raised:
        values(checkpoint)
    assert raised.value.hint
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("case", NF4)
def test_values_are_those_of_bitsandbytes(tmp_path, case):
    with closing(opened(tmp_path, case)) as checkpoint:
        assert layouts.detect(checkpoint) is LAYOUT
        (stored,) = LAYOUT.open(checkpoint).values()
        assert stored.name == WEIGHT
        assert list(stored.shape) == THEIRS[case]["shape"]
        assert set(stored.entries) == set(checkpoint.tensors)
        found = values(checkpoint)
        np.testing.assert_array_equal(values(checkpoint, step=2), found)
    digest = hashlib.sha256(found.astype(ml_dtypes.bfloat16).tobytes()).hexdigest()
    assert digest == THEIRS[case]["sha256"]


@pytest.mark.parametrize(
    ("case", "size"),
    [("nf4, double", 64), ("nf4, blocks of 128", 128), ("nf4, blocks across rows", 32), ("nf4, rows of 50", 2)],
)
def test_blocks(tmp_path, case, size):
    with closing(opened(tmp_path, case)) as checkpoint:
        (stored,) = LAYOUT.open(checkpoint).values()
    assert stored.block == Block(element="nf4", block_size=size)


@pytest.mark.parametrize("case", FP4)
def test_fp4_of_bitsandbytes_is_refused(tmp_path, case):
    refused(tmp_path, "own FP4, which is not E2M1", case)


def test_int8(tmp_path):
    """bitsandbytes multiplies by 1/127 in FP32, last: the same but for the last bit."""
    with closing(opened(tmp_path, "int8")) as checkpoint:
        (stored,) = LAYOUT.open(checkpoint).values()
        assert stored.scheme.name == "w8a16"
        assert set(stored.entries) == set(checkpoint.tensors)
        found = values(checkpoint)
    expected = np.frombuffer(bytes.fromhex(THEIRS["int8"]["values"]), np.float32).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=2**-22, atol=0)


@pytest.mark.parametrize("case", ["nf4", "int8"])
def test_an_older_config_names_no_method(tmp_path, case):
    with closing(opened(tmp_path, case, quant_method=None)) as checkpoint:
        assert layouts.detect(checkpoint) is LAYOUT


# Contradictions


def put(name, position, value, dtype=np.float32):
    """A change of one number of a tensor."""

    def change(tensors):
        kind, shape, data = tensors[f"{MODULE}.{name}"]
        numbers = np.frombuffer(data, dtype).copy()
        numbers[position] = value
        tensors[f"{MODULE}.{name}"] = kind, shape, numbers.tobytes()

    return change


def test_another_shape(tmp_path):
    refused(tmp_path, "takes 10240 bytes, and .* 12288", state={"shape": [192, 128]})


def test_another_block_size(tmp_path):
    refused(tmp_path, "its layout needs", state={"blocksize": 128})


@pytest.mark.parametrize(
    "state",
    [
        {"quant_type": "int4"},
        {"quant_type": "fp4"},
        {"shape": [20480]},
        {"shape": [-160, -128]},
        {"shape": "160x128"},
        {"blocksize": 0},
        {"blocksize": None},
    ],
)
def test_a_description_that_makes_no_sense(tmp_path, state):
    refused(tmp_path, "does not describe a weight", state=state)


@pytest.mark.parametrize("state", [{"nested_blocksize": 0}, {"nested_offset": float("nan")}, {"nested_offset": "0"}])
def test_double_quantization_that_makes_no_sense(tmp_path, state):
    refused(tmp_path, "absmax is U8 .* needs F32", state=state)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 4000, b"null", b"9" * 5000, b" " * 5000])
def test_a_description_that_is_no_object(tmp_path, content):
    def change(tensors):
        tensors[STATE] = "U8", (len(content),), content

    refused(tmp_path, "does not describe a weight|takes 5000 bytes", change=change)


def test_8_bits_under_a_description_of_4(tmp_path):
    def change(tensors):
        kind, (rows, columns), data = tensors[WEIGHT]
        tensors[WEIGHT] = kind, (rows * 2, columns), data * 2

    refused(tmp_path, "takes 20480 bytes, and .* 10240", change=change)


def test_another_codebook(tmp_path):
    refused(tmp_path, "quant_map is not that of nf4", change=put("weight.quant_map", 3, 0.5))


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [
        ("nf4", "weight.absmax", np.nan),
        ("nf4", "weight.absmax", np.inf),
        ("nf4, double", "weight.nested_absmax", np.nan),
        ("nf4, double", "weight.nested_quant_map", np.nan),
        ("int8", "SCB", np.nan),
    ],
)
def test_scales_that_are_no_numbers(tmp_path, case, name, value):
    position = slice(None) if "map" in name else 0
    refused(tmp_path, "its scales hold NaN or Inf", case, change=put(name, position, value))


@pytest.mark.parametrize("name", ["weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax"])
def test_a_missing_tensor(tmp_path, name):
    refused(tmp_path, f"{MODULE}.{name} is missing", change=lambda t: t.pop(f"{MODULE}.{name}"))


def test_a_missing_description(tmp_path):
    refused(tmp_path, "bitsandbytes__nf4 is missing", change=lambda t: t.pop(STATE))


def test_int8_in_tiles(tmp_path):
    refused(tmp_path, "stored in tiles", "int8", change=put("weight_format", 0, 2, np.uint8))


def test_int8_of_another_shape(tmp_path):
    def change(tensors):
        kind, (rows, columns), data = tensors[WEIGHT]
        tensors[WEIGHT] = kind, (rows * 2, columns // 2), data

    refused(tmp_path, "its layout needs F32", "int8", change=change)


def test_int8_of_another_type(tmp_path):
    def change(tensors):
        _, shape, data = tensors[WEIGHT]
        tensors[WEIGHT] = "U8", shape, data

    refused(tmp_path, "its layout needs I8", "int8", change=change)


# Writing


def test_what_is_written_is_healthy(tmp_path):
    source = llama.write(tmp_path / "source")
    halve.quantize(source, tmp_path / "out", "nf4", layout="bitsandbytes")
    result = halve.verify(tmp_path / "out", against=source)
    assert result.ok
    assert result.mean_sqnr_db > 20


def test_the_golden_bytes():
    """Made by `python tests/golden/layouts/ours.py bitsandbytes`."""
    from golden.layouts.ours import build

    assert build("bitsandbytes") == OURS


def test_the_tensors_are_those_that_bitsandbytes_writes():
    """Names, types, shapes and the codebook of its golden file, for the same shape."""
    ours, theirs = OURS["nf4"]["tensors"], THEIRS["nf4"]["tensors"]
    assert set(ours) == {f"{MODULE}.{name}" for name in theirs}
    for name, tensor in theirs.items():
        mine = ours[f"{MODULE}.{name}"]
        assert (mine["dtype"], mine["shape"]) == (tensor["dtype"], tensor["shape"])
        if name.endswith(("quant_map", "nf4")):
            assert bytes.fromhex(mine["hex"]) == bytes.fromhex(tensor["hex"])


def test_rows_that_blocks_do_not_divide():
    with pytest.raises(FormatError, match="96 columns"):
        LAYOUT.entries(TensorInfo("a.weight", "BF16", (8, 96)), schemes.get("nf4"))


@pytest.mark.parametrize(
    "block",
    [Block(element="nf4", block_size=32), Block(element="nf4", scale="bf16", block_size=64), Block(element="nf4")],
)
def test_blocks_that_it_does_not_hold(block):
    assert LAYOUT.supports(schemes.find(block)).refused
