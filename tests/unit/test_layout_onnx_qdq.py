"""Prefill graphs of the Llama family: checker, reference evaluator and halve's runtime agree on every scheme."""

import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import halve
from golden.layouts import ours_onnx
from halve import layouts, schemes
from halve.checkpoint.base import TensorInfo, read_array
from halve.checkpoint.onnx_source import open_onnx
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.evaluate.operands import Operands, attached, quantizers
from halve.layouts.base import Contents, module
from halve.pipeline.calibrate import calibrate
from halve.pipeline.quantize import planned, quantize
from halve.runtime.load import Loader
from halve.schemes import SCHEMES, Block
from halve.schemes.quantize import absmax, dequantize, tensor_scale
from halve.schemes.quantize import quantize as quantize_block
from tiny import llama, onnx_models

LAYOUT = layouts.get("onnx-qdq")
HELD = [name for name, scheme in SCHEMES.items() if not LAYOUT.supports(scheme).refused]
QUANTIZED = [name for name in HELD if not SCHEMES[name].dense]
WEIGHT_ONLY = [name for name in QUANTIZED if SCHEMES[name].activation is None]
OPSETS = {"w8a16": 19, "fp8": 19, "w8a8": 21, "w4a16": 21, "fp8_block": 21, "nvfp4a16": 23, "mxfp8a16": 24, "mxfp4": 24}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny Llama with a tokenizer, and statistics of its activations."""
    root = tmp_path_factory.mktemp("onnx")
    folder = llama.write(root / "source")
    (root / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20)
    calibrate(folder, root / "stats", texts=[str(root / "text.txt")], windows=1, window=32, hessians=False)
    return folder


def options(source, scheme):
    return {"stats": source.parent / "stats", "algorithm": "rtn"} if SCHEMES[scheme].needs_calibration else {}


def written(source, out, scheme, **more):
    quantize(source, out, scheme, layout="onnx-qdq", **options(source, scheme), **more)
    return out


def evaluated(folder, tokens):
    """What onnx's reference evaluator makes of tokens [batch, sequence]."""
    (logits,) = ReferenceEvaluator(str(folder / "model.onnx")).run(None, {"input_ids": np.atleast_2d(tokens)})
    return logits


def computed(folder, tokens):
    """What halve's runtime makes of the weights that it reads back, activations rounded as the graph does."""
    with closing(open_onnx(folder)) as checkpoint:
        loader = Loader(checkpoint)
        model = loader.model()
        stored = {module(name): weight for name, weight in loader.stored.items()}
        blocks = {name: w.scheme.activation for name, w in stored.items() if w.scheme.activation is not None}
        scales = {name: LAYOUT.input_scale(checkpoint, w) for name, w in stored.items() if w.scheme.activation_static}
    with attached(model, blocks, quantizers(Operands(blocks, scales), {})):
        return model.logits(tokens)


def distance(found, wanted):
    """Relative rms error."""
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


@pytest.mark.parametrize("name", llama.DECODERS)
def test_every_member_of_the_family(tmp_path, name):
    config = llama.decoder_config(name)
    folder = written(llama.write_decoder(tmp_path / "source", config), tmp_path / "out", "fp32")
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    tokens = llama.decoder_tokens(config, 40)
    model = halve.load(tmp_path / "source")
    logits = evaluated(folder, np.stack([tokens, tokens[::-1]]))
    assert distance(logits[0], model.logits(tokens)) < 1e-5
    assert distance(logits[1], model.logits(tokens[::-1])) < 1e-5


@pytest.mark.parametrize("scheme", HELD)
def test_checker_evaluator_and_runtime_agree(source, tmp_path, scheme):
    folder = written(source, tmp_path / "out", scheme)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    tokens = np.arange(48) * 7 % llama.VOCAB
    ours = computed(folder, tokens)
    # A rounded activation that lies at the middle between two codes may fall to either side.
    bound = 1e-5 if SCHEMES[scheme].activation is None else 0.01
    assert distance(evaluated(folder, tokens)[0], ours) < bound
    assert distance(ours, halve.load(source).logits(tokens)) < 0.5


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_codes_scales_and_scheme_are_read_back(source, tmp_path, scheme):
    folder = written(source, tmp_path / "out", scheme)
    with closing(open_onnx(folder)) as checkpoint, closing(open_checkpoint(source)) as origin:
        assert layouts.detect(checkpoint) is LAYOUT
        found = LAYOUT.open(checkpoint)
        assert {weight.scheme.name for weight in found.values()} == {scheme}
        assert len(found) == 7 * llama.LAYERS
        for name, weight in found.items():
            w = read_array(origin, name)
            q = LAYOUT.read(checkpoint, weight, 0, len(w))
            again = quantize_block(weight.block, w, tensor_scale=q.tensor_scale)
            np.testing.assert_array_equal(q.codes, again.codes)
            np.testing.assert_array_equal(q.scales, again.scales)
            scale = LAYOUT.input_scale(checkpoint, weight)
            assert (scale is not None) == SCHEMES[scheme].activation_static
        for name in origin.tensors.keys() - found.keys():
            np.testing.assert_array_equal(read_array(checkpoint, name), read_array(origin, name))


@pytest.mark.parametrize("scheme", QUANTIZED)
@pytest.mark.parametrize(("rows", "columns"), [(300, 256), (301, 128)])
def test_bands_of_any_height(tmp_path, scheme, rows, columns):
    """Of 301 rows the last packs with none: codes of 4 bits stay [out, in] and a Transpose follows."""
    row = LAYOUT.bind(SCHEMES[scheme], "F32")
    info = TensorInfo("w.weight", "F32", (rows, columns))
    w = onnx_models.random(rows, columns)
    whole = quantize_block(row.weight, w, tensor_scale=tensor_scale(row.weight, absmax(w)))
    if scheme == "w4a16_asym" and rows % 2:
        with pytest.raises(FormatError, match="301 rows of 4-bit codes do not end on a byte"):
            LAYOUT.entries(info, row)
        return
    built = onnx_models.one_weight(rows, columns)
    path = onnx_models.save(tmp_path / "m.onnx", built)
    with closing(open_onnx(path)) as checkpoint:
        contents = Contents({}, checkpoint.auxiliary(), {"w": row}, [])
    entries = LAYOUT.entries(info, row)
    files = LAYOUT.weight_files(tmp_path, [entries], contents)
    assert sum(file.nbytes for file in files) == LAYOUT.file_bytes([entries], contents)
    at = dict.fromkeys((entry.name for entry in entries), 0)
    for start in (0, 128, 256):
        band = slice(start, min(start + 128, rows))
        part = quantize_block(row.weight, w[band], tensor_scale=whole.tensor_scale)
        for name, array in LAYOUT.write(info, row, part, start, 0.5 if row.activation_static else None).items():
            data = np.ascontiguousarray(array).tobytes()
            files[0].write(name, at[name], data)
            at[name] += len(data)
    for file in files:
        file.finish()
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    with closing(open_onnx(tmp_path)) as checkpoint:
        (stored,) = LAYOUT.open(checkpoint).values()
        assert (stored.name, stored.shape, stored.scheme.name) == ("w.weight", (rows, columns), scheme)
        for start, stop in ((0, rows), (128, 256), (256, rows)):
            q = LAYOUT.read(checkpoint, stored, start, stop)
            np.testing.assert_array_equal(q.codes, whole.codes[start:stop])
            height = row.weight.tile(rows, columns)[0]
            np.testing.assert_array_equal(q.scales, whole.scales[start // height : -(-stop // height)])
        assert LAYOUT.input_scale(checkpoint, stored) == (0.5 if row.activation_static else None)
    if row.activation is None:
        x = onnx_models.random(3, columns, seed=1)
        (y,) = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"x": x})
        np.testing.assert_allclose(y, x @ dequantize(whole).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "block",
    [
        Block(element="int8", block_size="tensor"),
        Block(element="fp8_e5m2", scale="fp16", block_size="tensor"),
        Block(element="uint8", scale="bf16", block_size=64, zero_point=True),
        Block(element="uint4", scale="fp16", block_size="row", zero_point=True),
        Block(element="int16", scale="fp32", block_size=32),
        Block(element="int2", scale="fp32", block_size=32),
        Block(element="fp8_e4m3", scale="e8m0", block_size="row"),
        Block(element="int4", scale="fp32", block_size=(64, 32)),
    ],
)
def test_blocks_beyond_the_table(tmp_path, block):
    scheme = schemes.find(block)
    assert not LAYOUT.supports(scheme).refused
    info = TensorInfo("w.weight", "F32", (64, 128))
    w = onnx_models.random(64, 128)
    q = quantize_block(block, w)
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.one_weight(64, 128))
    with closing(open_onnx(path)) as checkpoint:
        contents = Contents({}, checkpoint.auxiliary(), {"w": scheme}, [])
    files = LAYOUT.weight_files(tmp_path, [LAYOUT.entries(info, scheme)], contents)
    for name, array in LAYOUT.write(info, scheme, q, 0).items():
        files[0].write(name, 0, np.ascontiguousarray(array).tobytes())
    for file in files:
        file.finish()
    x = onnx_models.random(3, 128, seed=1)
    (y,) = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ dequantize(q).T, rtol=1e-4, atol=1e-5)
    with closing(open_onnx(tmp_path)) as checkpoint:
        (stored,) = LAYOUT.open(checkpoint).values()
        assert stored.block == block
        np.testing.assert_array_equal(LAYOUT.read(checkpoint, stored, 0, 64).codes, q.codes)


def operators(folder):
    """The graph, without its data."""
    return onnx.load(folder / "model.onnx", load_external_data=False)


@pytest.mark.parametrize(("scheme", "opset"), OPSETS.items())
def test_the_opset_is_the_lowest_that_has_the_types(source, tmp_path, scheme, opset):
    model = operators(written(source, tmp_path / "out", scheme))
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)


def test_layers_that_are_fed_the_same_share_its_rounding(source, tmp_path):
    nodes = operators(written(source, tmp_path / "out", "w8a8")).graph.node
    rounding = [node for node in nodes if node.op_type == "QuantizeLinear"]
    assert len(rounding) == 4 * llama.LAYERS  # into q, k, v; o; gate, up; down


def test_weights_are_stored_as_matmul_takes_them(source, tmp_path):
    """onnxruntime fuses DequantizeLinear into MatMulNBits where it feeds MatMul, axis 0 being the inputs'."""
    model = operators(written(source, tmp_path / "out", "w4a16"))
    dims = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    up = "model.layers.0.mlp.up_proj.weight"
    assert dims[f"{up}_quantized"] == [llama.HIDDEN, llama.INTER]
    assert dims[f"{up}_scale"] == [llama.HIDDEN // 128, llama.INTER]
    product = next(node for node in model.graph.node if up in node.input)
    assert product.op_type == "MatMul"
    assert product.input[1] == up


def test_tensors_lie_at_multiples_of_their_alignment(source, tmp_path):
    folder = written(source, tmp_path / "out", "nvfp4a16")
    ends = []
    for tensor in operators(folder).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert place["location"] == "model.onnx.data"
        offset, length = int(place["offset"]), int(place["length"])
        assert offset % (4096 if length >= 1 << 16 else 64) == 0
        ends.append((offset, offset + length))
    assert all(end <= start for (_, end), (start, _) in zip(sorted(ends), sorted(ends)[1:], strict=False))
    assert max(end for _, end in ends) == (folder / "model.onnx.data").stat().st_size


def test_what_stands_beside(source, tmp_path):
    folder = written(source, tmp_path / "out", "w8a16")
    names = {path.name for path in folder.iterdir()} - {"README.md"}
    assert names == {"model.onnx", "model.onnx.data", "config.json", "tokenizer.json", "halve.json"}
    assert json.loads((folder / "config.json").read_text()) == llama.config()
    files = json.loads((folder / "halve.json").read_text())["files"]
    assert files["model.onnx.data"]["bytes"] == (folder / "model.onnx.data").stat().st_size


def test_sizes_are_known_beforehand_and_bytes_do_not_depend_on_threads(source, tmp_path):
    first = written(source, tmp_path / "1", "nvfp4a16", threads=1)
    second = written(source, tmp_path / "4", "nvfp4a16", threads=4)
    names = ("model.onnx", "model.onnx.data")
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]
    plan = planned(source, "nvfp4a16", layout="onnx-qdq")
    assert plan.file_bytes() == sum((first / name).stat().st_size for name in names)


def test_mixed_schemes_and_what_is_left_alone(source, tmp_path):
    folder = written(
        source,
        tmp_path / "out",
        "w4a16",
        ignore=["re:.*q_proj"],
        overrides=[("re:.*down_proj", "fp8_dynamic")],
    )
    with closing(open_onnx(folder)) as checkpoint:
        found = LAYOUT.open(checkpoint)
    names = {name.rsplit(".", 2)[1]: weight.scheme.name for name, weight in found.items()}
    others = dict.fromkeys(("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"), "w4a16")
    assert names == {"down_proj": "fp8_dynamic", **others}
    tokens = np.arange(20)
    assert distance(evaluated(folder, tokens)[0], computed(folder, tokens)) < 0.01


@pytest.mark.parametrize(
    ("scheme", "why"),
    [
        ("mxfp6_e2m3a16", "ONNX's DequantizeLinear knows no fp6_e2m3"),
        ("mxfp6_e3m2", "ONNX's DequantizeLinear knows no fp6_e3m2"),
        ("nf4", "ONNX's DequantizeLinear knows no nf4"),
    ],
)
def test_schemes_that_onnx_has_no_type_for(source, tmp_path, scheme, why):
    with pytest.raises(UnsupportedError, match=why) as raised:
        written(source, tmp_path / "out", scheme)
    assert "use --layout" in raised.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (Block(element="uint4", scale="fp16", block_size=32, minimum=True), "adds no minimum"),
        (Block(element="int4", scale="fp16", block_size=32, tensor_scale=True), "only there"),
        (Block(element="fp8_e4m3", scale="ue4m3", block_size=32), "only there"),
        (Block(element="int4", scale="fp16", block_size=32, zero_point=True), "belong to unsigned"),
        (Block(element="uint8", block_size=(128, 128), zero_point=True), "no zero points for tiles"),
        (Block(element="int8", scale="fp8_e5m2", block_size=32), "no type for fp8_e5m2 scales"),
    ],
)
def test_blocks_that_are_not_expressed(block, why):
    assert why in LAYOUT.supports(schemes.find(block)).refused


def test_fp4_is_for_the_reference_evaluator():
    assert LAYOUT.supports(SCHEMES["nvfp4a16"]).engines == ("onnx 1.23 (reference evaluator)",)
    assert LAYOUT.supports(SCHEMES["w4a16"]).engines[0] == "onnxruntime 1.32"
    assert all(not LAYOUT.supports(SCHEMES[name]).lossy for name in HELD)


def test_activations_in_blocks_that_do_not_divide(source, tmp_path):
    config = llama.decoder_config("llama", hidden_size=96, num_attention_heads=4, head_dim=24, intermediate_size=128)
    folder = llama.write_decoder(tmp_path / "source", config)
    with pytest.raises(halve.HalveError, match="96 columns is not a multiple of the block size 128"):
        written(folder, tmp_path / "out", "fp8_block")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model_type": "gemma3"}, UnsupportedError, "cannot make this model's graph: .*gemma3"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act 'gelu'"),
        ({"model_type": "gemma2"}, UnsupportedError, "cannot make this model's graph: .*no ONNX graph of gemma2"),
        ({"hidden_act": "gelu_pytorch_tanh"}, UnsupportedError, "no ONNX graph of gelu_tanh"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4}}, UnsupportedError, "rope scaling 'dynamic'"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1] * 4, "long_factor": [2] * 4}},
            UnsupportedError,
            "no ONNX graph of rope scaling 'longrope'",
        ),
        ({"num_hidden_layers": 10**12}, CheckpointError, "1000000000000 layers, and there are"),
        ({"num_hidden_layers": 4}, CheckpointError, "model.layers.3.input_layernorm.weight is missing"),
        ({"intermediate_size": 64}, CheckpointError, r"mlp\.gate_proj\.weight_quantized is not the I8 \[32, 64\]"),
        ({"vocab_size": 81}, CheckpointError, r"\[80, 32\], config.json says \[81, 32\]"),
    ],
)
def test_models_whose_graph_cannot_be_made(tmp_path, changes, error, says):
    folder = llama.write_decoder(tmp_path / "source", llama.decoder_config("llama"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(error, match=says) as raised:
        written(folder, tmp_path / "out", "w8a16")
    assert raised.value.hint
    assert not (tmp_path / "out").exists()


def test_tensors_that_no_layer_uses_are_kept(tmp_path):
    config = llama.decoder_config("llama")
    extra = {"model.rotary_emb.inv_freq": np.ones(4, np.float32)}
    folder = llama.write_decoder(tmp_path / "source", config, llama.decoder_weights(config) | extra)
    with closing(open_onnx(written(folder, tmp_path / "out", "w8a16"))) as checkpoint:
        np.testing.assert_array_equal(read_array(checkpoint, "model.rotary_emb.inv_freq"), np.ones(4, np.float32))


def test_without_the_package(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UnsupportedError, match="need the package onnx") as raised:
        written(source, tmp_path / "out", "w8a16")
    assert raised.value.hint == "pip install 'halve[onnx]'"
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnsupportedError, match="need the package onnx"):
        open_onnx(tmp_path / "model.onnx")


def test_a_file_of_data_that_is_cut_short(source, tmp_path):
    folder = written(source, tmp_path / "out", "w8a16")
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"lie outside of model\.onnx\.data"):
        open_onnx(folder)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden/layouts/onnx-qdq/ours.json").read_text())


@pytest.mark.parametrize("scheme", GOLDEN["schemes"])
def test_golden_bytes(tmp_path, scheme):
    """Made by `python tests/golden/layouts/ours_onnx.py`."""
    assert ours_onnx.scheme(tmp_path, scheme) == GOLDEN["schemes"][scheme]


def test_golden_graph(tmp_path):
    """Made by `python tests/golden/layouts/ours_onnx.py`."""
    assert ours_onnx.prefill(tmp_path) == GOLDEN["prefill"]


def test_every_quantized_scheme_has_golden_bytes():
    assert [name for name in QUANTIZED if not SCHEMES[name].needs_calibration] == list(GOLDEN["schemes"])
