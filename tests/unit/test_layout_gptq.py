"""GPTQModel's own weights, the golden files: read with its values, and refused where they contradict each other."""

import hashlib
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import halve
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.schemes import Block
from halve.schemes.quantize import dequantize, quantize
from tiny import folders, llama

LAYOUT = layouts.get("gptq")
GOLDEN = Path(__file__).parents[1] / "golden" / "layouts" / "gptq"
THEIRS = json.loads((GOLDEN / "theirs.json").read_text())["cases"]
OURS = json.loads((GOLDEN / "ours.json").read_text())
MODULE = "model.layers.0.mlp.up_proj"
PLAIN = "4 bits, groups of 32, symmetric, plain, gptq"
ASYMMETRIC = "4 bits, groups of 32, asymmetric, plain, gptq"
BY_ACTIVATION = "4 bits, groups of 32, symmetric, by activation, gptq"
WORDS = {True: {"4": 0x77777777, "8": 0x7F7F7F7F}, False: {"4": 0x88888888, "8": 0x80808080}}


def opened(tmp_path, case, *, change=None, **config):
    """A golden case as a folder; ``change`` is applied to its tensors, ``config`` to its quantization_config."""
    golden = THEIRS[case]
    tensors = {f"{MODULE}.{name}": tensor for name, tensor in folders.tensors(golden["tensors"]).items()}
    if change:
        change(tensors)
    quantization = {k: v for k, v in (golden["quantization_config"] | config).items() if v is not None}
    return folders.write(tmp_path / "model", {"quantization_config": quantization}, tensors)


def values(checkpoint, step=128):
    (stored,) = LAYOUT.open(checkpoint).values()
    bands = range(0, stored.shape[0], step)
    return np.concatenate(
        [dequantize(LAYOUT.read(checkpoint, stored, a, min(a + step, stored.shape[0]))) for a in bands]
    )


def refused(tmp_path, why, case=PLAIN, **changes):
    with closing(opened(tmp_path, case, **changes)) as checkpoint, pytest.raises(CheckpointError, match=why) as raised:
        values(checkpoint)
    assert raised.value.hint
    assert str(tmp_path) in str(raised.value)


# Reading


@pytest.mark.parametrize("case", sorted(THEIRS))
def test_values_are_those_of_gptqmodel(tmp_path, case):
    with closing(opened(tmp_path, case)) as checkpoint:
        assert layouts.detect(checkpoint) is LAYOUT
        (stored,) = LAYOUT.open(checkpoint).values()
        assert stored.name == f"{MODULE}.weight"
        assert list(stored.shape) == THEIRS[case]["shape"]
        assert set(stored.entries) == set(checkpoint.tensors)
        found = values(checkpoint)
        np.testing.assert_array_equal(values(checkpoint, step=8), found)  # bands that are not whole strips
    assert hashlib.sha256(found.tobytes()).hexdigest() == THEIRS[case]["sha256"]


@pytest.mark.parametrize(
    ("case", "scheme", "size"),
    [
        (PLAIN, "int4_g32", 32),
        (ASYMMETRIC, "w4a16_asym", 32),
        ("4 bits, groups of 32, symmetric, whole groups moved, gptq", "int4_g32", 32),
        ("8 bits, groups of -1, symmetric, plain, gptq", "w8a16", "row"),
        ("8 bits, groups of 32, asymmetric, plain, gptq_v2", "", 32),
        ("a partial group", "int4_g32", 32),
        (BY_ACTIVATION, "", 1),
    ],
)
def test_schemes(tmp_path, case, scheme, size):
    """A weight whose groups are no runs of columns has no scheme with a name, so that naming one quantizes again."""
    with closing(opened(tmp_path, case)) as checkpoint:
        (stored,) = LAYOUT.open(checkpoint).values()
    assert (stored.scheme.name, stored.block.block_size) == (scheme, size)
    assert stored.block.zero_point == ("asymmetric" in case)


def test_without_group_indices_groups_follow_each_other(tmp_path):
    with closing(opened(tmp_path / "with", PLAIN)) as checkpoint:
        expected = values(checkpoint)
    with closing(opened(tmp_path / "without", PLAIN, change=lambda t: t.pop(f"{MODULE}.g_idx"))) as checkpoint:
        np.testing.assert_array_equal(values(checkpoint), expected)


def test_without_zero_points_a_symmetric_weight_is_whole(tmp_path):
    with closing(opened(tmp_path, PLAIN, change=lambda t: t.pop(f"{MODULE}.qzeros"))) as checkpoint:
        assert hashlib.sha256(values(checkpoint).tobytes()).hexdigest() == THEIRS[PLAIN]["sha256"]


def test_no_format_is_the_old_one(tmp_path):
    with closing(opened(tmp_path, ASYMMETRIC, checkpoint_format=None)) as checkpoint:
        assert hashlib.sha256(values(checkpoint).tobytes()).hexdigest() == THEIRS[ASYMMETRIC]["sha256"]


def test_exceptions_by_name(tmp_path):
    eight = "8 bits, groups of -1, symmetric, plain, gptq"
    rule = {r"-:.*up_proj": {}, r"+:.*\.mlp\.": {"bits": 8, "group_size": -1}}
    with closing(opened(tmp_path, eight, bits=4, group_size=32, dynamic=rule)) as checkpoint:
        assert hashlib.sha256(values(checkpoint).tobytes()).hexdigest() == THEIRS[eight]["sha256"]


def test_a_config_in_a_file_of_its_own(tmp_path):
    """As AutoGPTQ wrote it before transformers knew of GPTQ."""
    opened(tmp_path, PLAIN).close()
    folder = tmp_path / "model"
    config = json.loads((folder / "config.json").read_text()).pop("quantization_config")
    (folder / "config.json").write_text("{}")
    (folder / "quantize_config.json").write_text(json.dumps({k: config[k] for k in ("bits", "group_size", "sym")}))
    with closing(open_checkpoint(folder)) as checkpoint:
        assert layouts.detect(checkpoint) is LAYOUT
        assert hashlib.sha256(values(checkpoint).tobytes()).hexdigest() == THEIRS[PLAIN]["sha256"]


# Contradictions


def put(name, position, value, dtype):
    """A change of one number of a tensor."""

    def change(tensors):
        kind, shape, data = tensors[f"{MODULE}.{name}"]
        numbers = np.frombuffer(data, dtype).copy()
        numbers[position] = value
        tensors[f"{MODULE}.{name}"] = kind, shape, numbers.tobytes()

    return change


def test_4_bits_claimed_over_8(tmp_path):
    refused(tmp_path, "its layout needs", "8 bits, groups of 32, symmetric, plain, gptq", bits=4)


def test_8_bits_claimed_over_4(tmp_path):
    refused(tmp_path, "its layout needs", bits=8)


@pytest.mark.parametrize("size", [16, 64, -1])
def test_another_group_size(tmp_path, size):
    refused(tmp_path, "its layout needs", group_size=size)


@pytest.mark.parametrize("bits", [2, 3])
def test_2_and_3_bits(tmp_path, bits):
    refused(tmp_path, f"{bits} bits, which halve does not read", bits=bits)


@pytest.mark.parametrize(
    "change", [{"bits": "4"}, {"bits": 16}, {"group_size": 0}, {"group_size": None}, {"sym": "yes"}]
)
def test_a_config_that_makes_no_sense(tmp_path, change):
    refused(tmp_path, "which halve does not read", **change)


@pytest.mark.parametrize("name", ["marlin", "gptq_p", 7])
def test_another_format(tmp_path, name):
    refused(tmp_path, "is not one that halve reads", checkpoint_format=name)


def test_a_rule_that_is_no_regular_expression(tmp_path):
    refused(tmp_path, "not a regular expression", dynamic={"+:(": {"bits": 8}})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_that_are_no_numbers(tmp_path, value):
    refused(tmp_path, "scales holds NaN or Inf", change=put("scales", 5, value, np.float16))


def test_symmetric_claimed_over_zero_points(tmp_path):
    refused(tmp_path, "qzeros differs from 8", ASYMMETRIC, sym=True)


@pytest.mark.parametrize("index", [-1, 2, 2**31 - 1])
def test_a_group_that_is_not(tmp_path, index):
    refused(tmp_path, "names a group of 2", change=put("g_idx", 3, index, np.int32))


@pytest.mark.parametrize("name", ["qweight", "scales"])
def test_a_missing_tensor(tmp_path, name):
    refused(tmp_path, f"{name} is missing", change=lambda t: t.pop(f"{MODULE}.{name}"))


def test_missing_zero_points(tmp_path):
    refused(tmp_path, "qzeros is missing", ASYMMETRIC, change=lambda t: t.pop(f"{MODULE}.qzeros"))


def test_a_weight_of_another_kind(tmp_path):
    def change(tensors):
        _, shape, data = tensors[f"{MODULE}.qweight"]
        tensors[f"{MODULE}.qweight"] = "F32", shape, data

    refused(tmp_path, "its layout needs I32", change=change)


# Writing


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = llama.decoder_config("llama", vocab_size=128, head_dim=64, **wide)
    return llama.write_decoder(tmp_path_factory.mktemp("gptq") / "source", config)


@pytest.mark.parametrize("scheme", sorted(OURS))
def test_what_is_written_is_read_code_for_code(source, tmp_path, scheme):
    halve.quantize(source, tmp_path / "out", scheme, layout="gptq")
    with closing(open_checkpoint(tmp_path / "out")) as checkpoint, closing(open_checkpoint(source)) as original:
        found = LAYOUT.open(checkpoint)
        for name, stored in found.items():
            info = original.tensors[name]
            data = np.empty(info.nbytes, np.uint8)
            original.read(name, 0, info.rows, data.data)
            expected = quantize(LAYOUT.bind(schemes.get(scheme), "F32").weight, data.view("f4").reshape(info.shape))
            q = LAYOUT.read(checkpoint, stored, 0, stored.shape[0])
            np.testing.assert_array_equal(q.codes, expected.codes)
            np.testing.assert_array_equal(q.scales, expected.scales)
            if expected.zeros is not None:
                np.testing.assert_array_equal(q.zeros, expected.zeros)
        assert len(found) == 21


def test_the_golden_bytes():
    """Made by `python tests/golden/layouts/ours.py gptq`."""
    from golden.layouts.ours import build

    assert build("gptq") == OURS


@pytest.mark.parametrize("scheme", sorted(OURS))
def test_symmetric_zero_points_are_the_middle_less_one(scheme):
    """And asymmetric ones are stored as they are, in the format that says so."""
    config = OURS[scheme]["config"]["quantization_config"]
    zeros = np.frombuffer(bytes.fromhex(OURS[scheme]["tensors"][f"{MODULE}.qzeros"]["hex"]), np.uint32)
    assert config["checkpoint_format"] == ("gptq" if config["sym"] else "gptq_v2")
    if config["sym"]:
        assert set(zeros) == {WORDS[True][str(config["bits"])]}


def test_two_schemes_and_a_module_left_alone(source, tmp_path):
    out = tmp_path / "out"
    halve.quantize(
        source,
        out,
        "w4a16",
        layout="gptq",
        overrides=[("re:.*down_proj", "w8a16")],
        ignore=["model.layers.0.mlp.up_proj"],
    )
    with closing(open_checkpoint(out)) as checkpoint:
        found = {name: stored.scheme.name for name, stored in LAYOUT.open(checkpoint).items()}
        dynamic = checkpoint.quantization["dynamic"]
    assert {found[f"model.layers.{i}.mlp.down_proj.weight"] for i in range(3)} == {"w8a16"}
    assert found["model.layers.0.mlp.gate_proj.weight"] == "w4a16"
    assert dynamic[r"-:^model\.layers\.0\.mlp\.up_proj$"] == {}
    assert dynamic[r"+:^model\.layers\.1\.mlp\.down_proj$"] == {"bits": 8, "group_size": -1, "sym": True}
    assert halve.verify(out, against=source).ok


def test_symmetric_and_asymmetric_do_not_go_together(source, tmp_path):
    with pytest.raises(UnsupportedError, match="symmetric or asymmetric as a whole"):
        halve.quantize(source, tmp_path / "out", "w4a16", layout="gptq", overrides=[("re:.*down_proj", "w4a16_asym")])
    assert not (tmp_path / "out").exists()


def test_a_weight_by_activation_dequantizes(source, tmp_path):
    with closing(opened(tmp_path, BY_ACTIVATION)) as checkpoint:
        expected, path = values(checkpoint), checkpoint.path
    halve.convert(path, tmp_path / "dense", "dense", scheme="fp32")
    with closing(open_checkpoint(tmp_path / "dense")) as checkpoint:
        found = np.empty(expected.shape, np.float32)
        checkpoint.read(f"{MODULE}.weight", 0, len(found), found.reshape(-1).view(np.uint8).data)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("scheme", "rows", "columns", "why"),
    [
        ("w4a16", 12, 128, "12 rows of 4 bits"),
        ("w8a16", 8, 130, "130 columns of 8 bits"),
        ("w4a16", 16, 96, "multiple"),
    ],
)
def test_shapes_that_do_not_fit(scheme, rows, columns, why):
    with pytest.raises(FormatError, match=why):
        LAYOUT.entries(TensorInfo("a.weight", "BF16", (rows, columns)), schemes.get(scheme))


@pytest.mark.parametrize(
    "block",
    [
        Block(element="fp8_e4m3"),
        Block(element="int4", block_size=1),
        Block(element="int4", block_size=(32, 32)),
        Block(element="int4", block_size="tensor"),
        Block(element="int4", scale="e8m0", block_size=32),
        Block(element="uint4", scale="fp16", block_size=32, minimum=True),
    ],
)
def test_blocks_that_it_does_not_hold(block):
    assert LAYOUT.supports(schemes.find(block)).refused


@pytest.mark.parametrize("name", ["w8a8", "nvfp4a16", "mxfp4", "fp8_dynamic"])
def test_schemes_that_it_does_not_hold(name):
    assert LAYOUT.supports(schemes.get(name)).refused
