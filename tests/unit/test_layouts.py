"""Every layout x scheme: what is written band by band is read back code for code, and contradictions are refused."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from halve import layouts, schemes
from halve.checkpoint.base import DTYPES, TensorInfo
from halve.errors import CheckpointError, UnknownNameError
from halve.layouts.base import Contents, Layout
from halve.schemes.quantize import absmax, dequantize, quantize, tensor_scale

ROWS, COLUMNS = 300, 256
WHOLE_TILES = {"hf-fp8": 384}  # rows of layouts that have no partial tiles
INPUT_SCALE = 0.03125
HELD = [  # those in files of their own kind (GGUF, ONNX ...) have tests of their own
    (layout.name, scheme.name)
    for layout in layouts.layouts().values()
    for scheme in schemes.SCHEMES.values()
    if layout.name != "dense"
    and type(layout).weight_files is Layout.weight_files
    and not layout.supports(scheme).refused
]


class Memory:
    """A checkpoint held in memory."""

    path = Path("memory")

    def __init__(self, entries, pieces, config):
        self.tensors = {entry.name: entry for entry in entries}
        self.data = {name: b"".join(p.tobytes() for p in parts) for name, parts in pieces.items()}
        self.config = config

    @property
    def quantization(self):
        return self.config.get("quantization_config")

    def read(self, name, start, stop, buffer):
        info = self.tensors[name]
        buffer[:] = self.data[name][start * info.row_bytes : stop * info.row_bytes]
        return buffer


def bands(layout_name):
    return ((0, 128), (128, 256), (256, WHOLE_TILES.get(layout_name, ROWS)))


def stored(layout_name, scheme_name, dtype="BF16"):
    layout, rows = layouts.get(layout_name), WHOLE_TILES.get(layout_name, ROWS)
    scheme = layout.bind(schemes.get(scheme_name), dtype)
    w = np.random.default_rng(0).normal(size=(rows, COLUMNS)).astype(DTYPES[dtype])
    weight = TensorInfo("model.layers.0.mlp.up_proj.weight", dtype, w.shape)
    scale = tensor_scale(scheme.weight, absmax(w))
    parts = [quantize(scheme.weight, w[a:b], tensor_scale=scale) for a, b in bands(layout_name)]
    pieces: dict[str, list[np.ndarray]] = {}
    for (first_row, _), q in zip(bands(layout_name), parts, strict=True):
        input_scale = INPUT_SCALE if scheme.activation_static else None
        for name, array in layout.write(weight, scheme, q, first_row, input_scale).items():
            pieces.setdefault(name, []).append(np.ascontiguousarray(array))
    config = layout.config(Contents({}, {}, {"model.layers.0.mlp.up_proj": scheme}, ["lm_head"]))
    return layout, scheme, parts, Memory(layout.entries(weight, scheme), pieces, config)


@pytest.mark.parametrize(("layout_name", "scheme_name"), HELD)
def test_bands_are_read_back_code_for_code(layout_name, scheme_name):
    layout, scheme, parts, checkpoint = stored(layout_name, scheme_name)
    for name, info in checkpoint.tensors.items():
        assert len(checkpoint.data[name]) == info.nbytes, name
    assert layouts.detect(checkpoint) is layout
    (found,) = layout.open(checkpoint).values()
    assert (found.name, found.shape) == (
        "model.layers.0.mlp.up_proj.weight",
        (sum(len(q.codes) for q in parts), COLUMNS),
    )
    assert found.scheme == scheme
    assert layout.input_scale(checkpoint, found) == (INPUT_SCALE if scheme.activation_static else None)
    assert set(found.entries) == set(checkpoint.tensors)
    for (start, stop), q in zip(bands(layout_name), parts, strict=True):
        r = layout.read(checkpoint, found, start, stop)
        np.testing.assert_array_equal(r.codes, q.codes)
        np.testing.assert_array_equal(r.scales, q.scales)
        assert r.tensor_scale == q.tensor_scale
        np.testing.assert_array_equal(dequantize(r), dequantize(q))


@pytest.mark.parametrize(
    ("layout_name", "one", "other"),
    [("compressed-tensors", "nvfp4a16", "fp8_dynamic"), ("quark", "mxfp4", "mxfp6_e2m3")],
)
def test_two_schemes_in_one_checkpoint(layout_name, one, other):
    layout = layouts.get(layout_name)
    entries, pieces, quantized = [], {}, {}
    for name, scheme_name in (("a.q_proj", one), ("a.down_proj", other), ("b.q_proj", one)):
        scheme = quantized[name] = layout.bind(schemes.get(scheme_name), "BF16")
        w = np.random.default_rng(len(pieces)).normal(size=(16, 64)).astype(ml_dtypes.bfloat16)
        weight = TensorInfo(f"{name}.weight", "BF16", w.shape)
        entries += layout.entries(weight, scheme)
        pieces |= {n: [array] for n, array in layout.write(weight, scheme, quantize(scheme.weight, w), 0).items()}
    checkpoint = Memory(entries, pieces, layout.config(Contents({}, {}, quantized, [])))
    found = layout.open(checkpoint)
    assert {name.removesuffix(".weight"): stored.scheme for name, stored in found.items()} == quantized
    for stored in found.values():
        assert layout.read(checkpoint, stored, 0, 16).block == stored.block


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_row_scales_take_the_checkpoints_dtype(dtype):
    _, scheme, parts, checkpoint = stored("compressed-tensors", "fp8_dynamic", dtype)
    assert checkpoint.tensors["model.layers.0.mlp.up_proj.weight_scale"].dtype == dtype
    exact = parts[0].scales.astype(DTYPES[dtype]).astype(np.float32)
    np.testing.assert_array_equal(exact, parts[0].scales)
    assert scheme.weight.scale == {"F16": "fp16", "F32": "fp32"}[dtype]


@pytest.mark.parametrize(("layout_name", "scheme_name"), HELD)
def test_a_missing_tensor_is_named(layout_name, scheme_name):
    layout, _, _, checkpoint = stored(layout_name, scheme_name)
    for name in [n for n in checkpoint.tensors if not n.endswith("weight_scale")]:
        info = checkpoint.tensors.pop(name)
        with pytest.raises(CheckpointError, match=name.rpartition(".")[0]):
            layout.open(checkpoint)
        checkpoint.tensors[name] = info


@pytest.mark.parametrize(
    ("claimed", "held"),
    [("nvfp4a16", "w4a16"), ("w4a16", "nvfp4a16"), ("mxfp4a16", "fp8_dynamic"), ("fp8_dynamic", "w8a8")],
)
def test_a_config_that_claims_another_scheme_is_refused(claimed, held):
    layout, _, _, checkpoint = stored("compressed-tensors", held)
    checkpoint.config = stored("compressed-tensors", claimed)[3].config
    with pytest.raises(CheckpointError):
        layout.open(checkpoint)


@pytest.mark.parametrize(
    "damage",
    [
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}},
        {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": None}}},
        {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": []}}}},
        {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {}}}}},
    ],
)
def test_a_damaged_config_is_an_error(damage):
    layout, _, _, checkpoint = stored("compressed-tensors", "nvfp4a16")
    checkpoint.config = damage
    with pytest.raises(CheckpointError):
        layout.open(checkpoint)


def test_nvfp4_bytes_are_those_of_the_field():
    """One block by hand: even column in the low nibble, E4M3 scale, reciprocal of the tensor scale."""
    layout = layouts.get("compressed-tensors")
    scheme = schemes.get("nvfp4a16")
    w = np.array([[6, -6, 0.5, 1, 1.5, 2, 3, 4, 0, -0.5, -1, -1.5, -2, -3, -4, 6]], np.float32) * 448
    q = quantize(scheme.weight, w.astype(ml_dtypes.bfloat16))
    band = layout.write(TensorInfo("a.weight", "BF16", w.shape), scheme, q, 0)
    assert band["a.weight_packed"].tobytes() == bytes.fromhex("f721436590badc7e")
    assert band["a.weight_scale"].tobytes() == bytes([0x7E])
    assert band["a.weight_global_scale"].tolist() == [1.0]


def test_unknown_layout_names_near_ones():
    with pytest.raises(UnknownNameError) as raised:
        layouts.get("compressed-tensor")
    assert "compressed-tensors" in raised.value.hint
