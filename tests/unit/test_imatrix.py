"""llama.cpp's importance matrices: the mean squares that they hold, under our names, and what they do not hold."""

import struct

import gguf
import numpy as np
import pytest

from halve.errors import CheckpointError, UnsupportedError
from halve.pipeline.quantize import planned, quantize
from halve.pipeline.statistics import StatisticsFile
from tiny import llama

STEMS = {  # GGUF name -> which of the inputs of a decoder layer it multiplies
    "attn_q": "attention",
    "attn_k": "attention",
    "attn_v": "attention",
    "attn_output": "heads",
    "ffn_gate": "mlp",
    "ffn_up": "mlp",
    "ffn_down": "products",
}
TOKENS = 1024
PADDING = 28  # behind the last tensor, of 4 bytes


def squares(seed, columns):
    return np.random.default_rng(seed).gamma(2, size=columns).astype(np.float32)


def dense():
    """Sums and counts as llama-imatrix has them of the tiny Llama."""
    entries = {}
    for layer in range(llama.LAYERS):
        for stem, inputs in STEMS.items():
            columns = llama.INTER if inputs == "products" else llama.HIDDEN
            sums = squares(10 * layer + list(STEMS.values()).index(inputs), columns) * TOKENS
            entries[f"blk.{layer}.{stem}.weight"] = (sums, np.array([TOKENS], np.float32))
    return entries


def write(path, entries, *, kind="imatrix", extra=()):
    """With the gguf package, as tools/imatrix/imatrix.cpp lays it out."""
    writer = gguf.GGUFWriter(path, arch="none")
    writer.kv_data[0].clear()  # llama-imatrix says no architecture
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts)
    for name, values in extra:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def source(tmp_path):
    return llama.write(tmp_path / "source")


def test_what_it_tells_of_itself(tmp_path):
    file = StatisticsFile(write(tmp_path / "i.gguf", dense()))
    assert (file.facts.tokens, file.facts.window, file.facts.texts) == (TOKENS, 512, [{"name": "calibration.txt"}])
    assert not file.hessians
    assert not file.maxima


def test_every_name_is_the_one_that_llama_cpp_gives(tmp_path):
    """The oracle is the gguf package's own table of names."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, llama.LAYERS)
    file = StatisticsFile(write(tmp_path / "i.gguf", dense()))
    for tensor, array in llama.weights().items():
        if array.ndim == 2 and "embed" not in tensor:
            of_theirs = names.get_name(tensor, try_suffixes=(".weight",))
            assert of_theirs in dense()
            found = file.of(tensor, array.shape[1])
            np.testing.assert_allclose(found.mean_square, dense()[of_theirs][0] / TOKENS, rtol=1e-6)
            assert found.hessian is None


def test_it_quantizes_as_statistics_of_our_own_do(source, tmp_path):
    imatrix = write(tmp_path / "i.gguf", dense())
    one = quantize(source, tmp_path / "a", "nvfp4a16", stats=imatrix)
    again = quantize(source, tmp_path / "b", "nvfp4a16", stats=imatrix)
    plain = quantize(source, tmp_path / "c", "nvfp4a16", algorithm="mse")
    assert one.plan.recipe.algorithm == "hessian_diag"
    assert one.plan.recipe.statistics == again.plan.recipe.statistics != ""
    bytes_of = [(path / "model.safetensors").read_bytes() for path in (one.path, again.path, plain.path)]
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]


def test_a_count_for_every_expert(tmp_path):
    experts = np.stack([squares(e, 32) for e in range(4)])
    counts = np.array([[8], [0], [2], [6]], np.float32)
    entries = {"blk.3.ffn_gate_exps.weight": (experts * counts, counts)}
    entries["blk.3.ffn_down_shexp.weight"] = (squares(9, 16) * 5, np.array([5], np.float32))
    file = StatisticsFile(write(tmp_path / "i.gguf", entries))
    for name in ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "block_sparse_moe.experts.{}.w1"):
        for expert in (0, 2, 3):
            found = file.of(f"model.layers.3.{name.format(expert)}.weight", 32)
            np.testing.assert_allclose(found.mean_square, experts[expert], rtol=1e-6)
        assert file.of(f"model.layers.3.{name.format(1)}.weight", 32) is None
    found = file.of("model.layers.3.mlp.shared_experts.down_proj.weight", 16)
    np.testing.assert_allclose(found.mean_square, squares(9, 16), rtol=1e-6)


def test_tensors_of_other_kinds_do_not_disturb(tmp_path):
    """Newer versions also store sums of the inputs themselves; a router is no linear layer that is quantized."""
    entries = dense() | {"blk.0.ffn_gate_inp.weight": (squares(0, 8), np.array([1], np.float32))}
    extra = [("blk.0.attn_q.weight.in_sum", squares(1, llama.HIDDEN))]
    assert StatisticsFile(write(tmp_path / "i.gguf", entries, extra=extra)).facts.tokens == TOKENS


@pytest.mark.parametrize(
    ("scheme", "options", "who"),
    [
        ("nvfp4", {}, "nvfp4"),
        ("fp8_static", {}, "fp8_static"),
        ("nvfp4a16", {"transforms": ("smoothquant",)}, "smoothquant"),
    ],
)
def test_without_the_largest_inputs_there_are_no_static_scales(source, tmp_path, scheme, options, who):
    imatrix = write(tmp_path / "i.gguf", dense())
    with pytest.raises(UnsupportedError, match=f"{who} needs the largest inputs") as refused:
        planned(source, scheme, stats=imatrix, **options)
    assert "halve calibrate" in refused.value.hint


def test_gptq_says_that_it_needs_hessians(source, tmp_path):
    with pytest.raises(UnsupportedError, match="needs Hessians"):
        planned(source, "nvfp4a16", stats=write(tmp_path / "i.gguf", dense()), algorithm="gptq")


def of_another_model():
    return {"blk.7.attn_q.weight": (squares(0, 32), np.array([1], np.float32))}


def test_statistics_of_no_layer_of_this_model(source, tmp_path):
    imatrix = write(tmp_path / "i.gguf", of_another_model())
    with pytest.raises(CheckpointError, match="knows no layer of"):
        quantize(source, tmp_path / "out", "nvfp4a16", stats=imatrix)
    assert not (tmp_path / "out").exists()


def test_statistics_of_layers_of_another_width(source, tmp_path):
    entries = {name: (sums[: len(sums) // 2], counts) for name, (sums, counts) in dense().items()}
    with pytest.raises(CheckpointError, match="the model needs F32"):
        quantize(source, tmp_path / "out", "nvfp4a16", stats=write(tmp_path / "i.gguf", entries))


Q = "blk.0.attn_q.weight"
ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("entries", "extra", "why"),
    [
        ({}, [(f"{Q}.in_sum2", np.ones(8, np.float32))], "no sums and counts"),
        ({Q: (np.ones(8, np.float16), ONE)}, [], "no sums and counts"),
        ({Q: (np.ones(8, np.float32), ONE.astype(np.int32))}, [], "no sums and counts"),
        ({Q: (np.ones((2, 2, 8), np.float32), ONE)}, [], "no sums and counts"),
        ({Q: (np.ones((4, 8), np.float32), np.ones(3, np.float32))}, [], "no numbers of tokens of 4 matrices"),
        ({Q: (np.ones(8, np.float32), -ONE)}, [], "no numbers of tokens"),
        ({Q: (np.ones(8, np.float32), ONE * np.nan)}, [], "no numbers of tokens"),
        ({Q: (np.ones(8, np.float32), ONE * 0)}, [], "no layer that halve knows"),
        ({"blk.0.ssm_in.weight": (np.ones(8, np.float32), ONE)}, [], "no layer that halve knows"),
        ({}, [], "no layer that halve knows"),
    ],
)
def test_what_is_no_importance_matrix(tmp_path, entries, extra, why):
    path = write(tmp_path / "i.gguf", entries, extra=extra)
    with pytest.raises(CheckpointError, match=why):
        StatisticsFile(path)


@pytest.mark.parametrize(
    ("sums", "why"), [(np.full(8, np.inf, np.float32), "not finite"), (np.full(8, -1, np.float32), "negative")]
)
def test_sums_that_cannot_be(tmp_path, sums, why):
    file = StatisticsFile(write(tmp_path / "i.gguf", {Q: (sums, ONE)}))
    with pytest.raises(CheckpointError, match=why):
        file.of("model.layers.0.self_attn.q_proj.weight", 8)


def test_a_model_is_no_importance_matrix(tmp_path):
    with pytest.raises(CheckpointError, match="of type 'model'") as refused:
        StatisticsFile(write(tmp_path / "m.gguf", dense(), kind="model"))
    assert "llama-imatrix -m" in refused.value.hint


def test_every_way_to_cut_it_short_is_noticed(tmp_path):
    whole = write(tmp_path / "i.gguf", {Q: (np.ones(8, np.float32), ONE)}).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(len(whole) - PADDING):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            StatisticsFile(path)


def test_the_old_format_says_how_to_convert(tmp_path):
    name = b"blk.0.ffn_down.weight"
    legacy = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 4, 8) + bytes(32) + struct.pack("<ii", 4, 0)
    (tmp_path / "old.dat").write_bytes(legacy)
    with pytest.raises(CheckpointError, match="old format") as refused:
        StatisticsFile(tmp_path / "old.dat")
    assert "llama-imatrix --in-file old.dat -o old.gguf" in refused.value.hint
