"""ONNX files that are damaged, hostile or strange: a clear error, before anything is read or allocated, or no harm."""

import os
from contextlib import closing

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from halve import layouts
from halve.checkpoint.base import read_array
from halve.checkpoint.onnx_source import open_onnx
from halve.errors import CheckpointError, HalveError, UnsupportedError
from halve.pipeline.quantize import quantize
from tiny import llama, onnx_models

LAYOUT = layouts.get("onnx-qdq")


def refused(path, match, error=CheckpointError):
    with pytest.raises(error, match=match) as raised:
        open_onnx(path)
    assert raised.value.hint
    assert path.name in str(raised.value)


def external(tmp_path, **changes):
    """A model with a weight in ``data.bin``, whose place is changed; None takes an entry away."""
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.one_weight(32, 64), external=True)
    model = onnx.load(path, load_external_data=False)
    (tensor,) = model.graph.initializer
    place = {entry.key: entry.value for entry in tensor.external_data} | changes
    del tensor.external_data[:]
    for key, value in place.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08", bytes(100), b"\xff" * 100, b'{"a": 1}'])
def test_files_that_are_no_models(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", "not an ONNX model")


def test_a_model_without_a_graph(tmp_path):
    (tmp_path / "m.onnx").write_bytes(onnx.ModelProto(ir_version=10).SerializeToString())
    refused(tmp_path / "m.onnx", "it has no graph")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model(tmp_path, share):
    path = onnx_models.save(tmp_path / "m.onnx", onnx_models.every_form())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "not an ONNX model")


def test_a_pipe_and_a_missing_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "not a regular file")
    refused(tmp_path / "none.onnx", "cannot be opened")


def test_other_operators_than_onnxs(tmp_path):
    model = onnx_models.one_weight(32, 64)
    model.opset_import[0].domain = "ai.onnx.ml"
    refused(onnx_models.save(tmp_path / "m.onnx", model), "none of ONNX's own operators", UnsupportedError)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"location": "../data.bin"}, "refused: its data is to be in '../data.bin'"),
        ({"location": "a/../../data.bin"}, "refused: its data"),
        ({"location": "/etc/passwd"}, "refused: its data is to be in '/etc/passwd'"),
        ({"location": ""}, "refused: its data is to be in ''"),
        ({"location": None}, "refused: its data is to be in ''"),
        ({"location": "a\0b"}, "refused"),
        ({"location": "."}, "refused"),
        ({"location": "gone.bin"}, "is missing"),
        ({"location": "folder"}, "not a regular file"),
        ({"location": "x" * 5000}, "cannot be opened"),
        ({"offset": "8"}, "bytes 8 to 8200 lie outside of data.bin, which has 8192"),
        ({"offset": "-8"}, "lie outside"),
        ({"offset": "9" * 30}, "lie outside"),
        ({"offset": "9" * 5000}, "is not a number of bytes"),
        ({"offset": "many"}, "is not a number of bytes"),
        ({"length": "8191"}, r"shape \[64, 32\] needs 8192 bytes, and it has 8191"),
        ({"length": "-1"}, "needs 8192 bytes, and it has -1"),
        ({"length": None, "offset": "4096"}, "needs 8192 bytes, and it has 4096"),
    ],
)
def test_places_of_external_data(tmp_path, changes, says):
    (tmp_path / "folder").mkdir()
    path = external(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=says) as raised:
        open_onnx(path)
    assert raised.value.hint


def test_a_place_without_length_is_the_rest_of_the_file(tmp_path):
    with closing(open_onnx(external(tmp_path, length=None, offset=None))) as checkpoint:
        assert read_array(checkpoint, "w.weight").shape == (32, 64)


def test_links_out_of_the_folder(tmp_path):
    (tmp_path / "model").mkdir()
    path = external(tmp_path / "model")
    outside = (tmp_path / "model" / "data.bin").rename(tmp_path / "data.bin")
    (tmp_path / "model" / "data.bin").symlink_to(outside)
    with pytest.raises(CheckpointError, match="refused: .* is a link to"):
        open_onnx(path)
    (tmp_path / "model" / "data.bin").unlink()
    (tmp_path / "model" / "data.bin").symlink_to("data.bin")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_onnx(path)


def test_links_of_a_cache_lead_to_where_the_model_lies(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    path = external(tmp_path / "snapshot")
    for name in ("m.onnx", "data.bin"):
        (tmp_path / "snapshot" / name).rename(tmp_path / "blobs" / f"blob-{name}")
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / f"blob-{name}")
    with closing(open_onnx(path)) as checkpoint:
        assert checkpoint.tensors["w.weight"].shape == (32, 64)


def test_data_that_is_cut_off_after_it_was_opened(tmp_path):
    path = external(tmp_path)
    with closing(open_onnx(path)) as checkpoint:
        os.truncate(tmp_path / "data.bin", 100)
        with pytest.raises(CheckpointError, match="the file ends at byte 100"):
            read_array(checkpoint, "w.weight")


def changed(tmp_path, change):
    """A model with one weight, changed."""
    model = onnx_models.one_weight(32, 64)
    change(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def dims(*sizes):
    def change(model):
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sizes)

    return change


def typed(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dims(1 << 40, 1 << 40), "cannot be"),
        (dims(1 << 40, 4), "needs 17592186044416 bytes, and it has 8192"),
        (dims(-1, 32), r"shape \[-1, 32\] cannot be"),
        (dims(0, 1 << 60), "cannot be"),
        (dims(64, 33), "needs 8448 bytes, and it has 8192"),
        (typed, "its numbers cannot be read"),
        (lambda model: model.graph.initializer.append(model.graph.initializer[0]), "two initializers are called 'w'"),
        (lambda model: model.graph.initializer[0].ClearField("name"), "two initializers are called ''"),
    ],
)
def test_initializers_that_contradict_themselves(tmp_path, change, says):
    refused(changed(tmp_path, change), says)


def test_numbers_one_by_one(tmp_path):
    def change(model):
        tensor = model.graph.initializer[0]
        values = numpy_helper.to_array(tensor).reshape(-1).tolist()
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values)

    with closing(open_onnx(changed(tmp_path, change))) as checkpoint:
        np.testing.assert_array_equal(read_array(checkpoint, "w.weight"), onnx_models.random(64, 32).T)


def test_strings_and_unknown_types_stay_where_they_are(tmp_path):
    def change(model):
        model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a" * 5000, b"b"]))
        model.graph.initializer.append(TensorProto(name="odd", data_type=99, dims=[1 << 20], raw_data=bytes(9)))

    with closing(open_onnx(changed(tmp_path, change))) as checkpoint:
        assert set(checkpoint.tensors) == {"w.weight"}


def test_an_unknown_type_outside(tmp_path):
    def change(model):
        model.graph.initializer.append(TensorProto(name="odd", data_type=99, data_location=TensorProto.EXTERNAL))

    refused(changed(tmp_path, change), "type 99 is not one that halve reads from a file")


def test_circles(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["b"], ["a"], perm=[1, 0]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    weight = numpy_helper.from_array(onnx_models.random(64, 64), "w")
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_models.model(nodes, [weight]).SerializeToString())
    with closing(open_onnx(path)) as checkpoint:
        assert set(checkpoint.graph.linears) == {"w.weight"}


def test_circles_of_scales(tmp_path):
    codes = helper.make_tensor("c", TensorProto.INT8, [64, 64], bytes(64 * 64), raw=True)
    nodes = [
        helper.make_node("Cast", ["t"], ["s"], to=1),
        helper.make_node("Cast", ["s"], ["t"], to=1),
        helper.make_node("DequantizeLinear", ["c", "s"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_models.model(nodes, [codes]).SerializeToString())
    with (
        closing(open_onnx(path)) as checkpoint,
        pytest.raises(CheckpointError, match=r"w\.weight: its scales are computed in a way"),
    ):
        LAYOUT.open(checkpoint)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("MatMul", [], ["y"])],
        [helper.make_node("MatMul", ["w"], ["y"])],
        [helper.make_node("MatMul", ["w", "x"], [])],
        [helper.make_node("Constant", [], [], value=numpy_helper.from_array(np.ones((64, 64), np.float32)))],
        [helper.make_node("Constant", [], ["c"]), helper.make_node("MatMul", ["x", "c"], ["y"])],
        [helper.make_node("Transpose", [], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])],
        [helper.make_node("DequantizeLinear", ["w"], ["d"]), helper.make_node("MatMul", ["x", "d"], ["y"])],
        [helper.make_node("MatMul", ["x", "gone"], ["y"])],
    ],
)
def test_nodes_without_their_operands(tmp_path, nodes):
    weight = numpy_helper.from_array(onnx_models.random(64, 64), "w")
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_models.model(nodes, [weight]).SerializeToString())
    with closing(open_onnx(path)) as checkpoint:
        assert checkpoint.graph.linears == {}


def nested(depth):
    """A model whose one MatMul is in ``depth`` bodies of If, as bytes: the library itself builds no deep ones."""

    def within(number, content):
        size, length = len(content), []
        while size > 127:
            length.append(size & 127 | 128)
            size >>= 7
        return bytes([number << 3 | 2, *length, size]) + content

    node = helper.make_node("MatMul", ["x", "w"], ["v"]).SerializeToString()
    for _ in range(depth):
        attribute = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH).SerializeToString()
        body = attribute + within(6, within(1, node))
        node = helper.make_node("If", ["c"], ["v"]).SerializeToString() + within(5, body)
    weight = numpy_helper.from_array(onnx_models.random(64, 64), "w")
    return onnx_models.model([], [weight]).SerializeToString() + within(7, within(1, node))


def test_graphs_inside_of_graphs(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(nested(20))
    with closing(open_onnx(path)) as checkpoint:
        assert checkpoint.remarks[0] == "left alone: 1 MatMul or Gemm inside of If, Loop or Scan"
    path.write_bytes(nested(2000))
    refused(path, "not an ONNX model")


def test_names_that_are_no_text(tmp_path):
    content = onnx_models.one_weight(32, 64).SerializeToString().replace(b"MatMul", b"Mat\xfful")
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", r"b'Mat\\xfful' is a name and no UTF-8")


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_a_config_that_is_none(tmp_path, content):
    onnx_models.save(tmp_path / "model.onnx", onnx_models.one_weight(32, 64))
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: not "):
        open_onnx(tmp_path)


def test_a_shape_that_belongs_to_other_codes(tmp_path):
    folder = llama.write(tmp_path / "source")
    quantize(folder, tmp_path / "out", "nvfp4a16", layout="onnx-qdq")
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    scale = next(t for t in model.graph.initializer if t.name.endswith("q_proj.weight_scale"))
    scale.dims[0], scale.dims[1] = scale.dims[0] // 2, scale.dims[1] * 2
    (tmp_path / "out" / "model.onnx").write_bytes(model.SerializeToString())
    with (
        closing(open_onnx(tmp_path / "out")) as checkpoint,
        pytest.raises(CheckpointError, match=r"q_proj\.weight_scale has shape \[4, 256\], and \[8, 128\] belong"),
    ):
        LAYOUT.open(checkpoint)


@pytest.mark.parametrize("seed", range(200))
def test_damaged_bytes_give_clear_errors(tmp_path, seed):
    """Single bytes of a quantized model's graph changed: it opens, or halve says what is wrong."""
    rng = np.random.default_rng(seed)
    path = onnx_models.save(tmp_path / "source.onnx", onnx_models.every_form())
    with closing(open_onnx(path)) as checkpoint:
        scheme = ("nvfp4a16", "mxfp8", "w8a8", "w4a16_asym")[seed % 4]
        quantize(checkpoint, tmp_path / "out", scheme, layout="onnx-qdq")
    content = bytearray((tmp_path / "out" / "model.onnx").read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
    (tmp_path / "out" / "model.onnx").write_bytes(bytes(content))
    try:
        with closing(open_onnx(tmp_path / "out")) as checkpoint:
            for weight in LAYOUT.open(checkpoint).values():
                LAYOUT.read(checkpoint, weight, 0, weight.shape[0])
    except HalveError as error:
        assert error.hint  # noqa: PT017 - it may raise, or not
