"""Experts that lie in one tensor, read as matrices of their own."""

import threading
from contextlib import closing

import numpy as np
import pytest

from halve import layouts, schemes
from halve.checkpoint import experts
from halve.checkpoint.base import DTYPES, TensorInfo, read_array
from halve.checkpoint.experts import UnpackedExperts
from halve.checkpoint.hf import HfCheckpoint
from halve.errors import CheckpointError
from halve.models import arch
from halve.models.arch import Stack
from tiny import folders

EXPERTS, HIDDEN, INNER = 5, 12, 10
P = "model.layers.3.mlp.experts"
SPLIT = ("gate_proj", "up_proj")
RNG = np.random.default_rng(0)
GATE_UP = RNG.standard_normal((EXPERTS, 2 * INNER, HIDDEN), np.float32)
DOWN = RNG.standard_normal((EXPERTS, HIDDEN, INNER), np.float32)
BIAS = RNG.standard_normal((EXPERTS, 2 * INNER), np.float32)
ROUTER = RNG.standard_normal((EXPERTS, HIDDEN), np.float32)


class Spy:
    """A checkpoint that notes what is asked of it."""

    def __init__(self, checkpoint):
        self._checkpoint = checkpoint
        self.reads, self.released = [], []

    def __getattr__(self, name):
        return getattr(self._checkpoint, name)

    def read(self, name, start, stop, buffer):
        self.reads.append((name, start, stop))
        return self._checkpoint.read(name, start, stop, buffer)

    def release(self, name):
        self.released.append(name)


def packed(folder, *, transposed=False, dtype="F32", others=None):
    kind = DTYPES[dtype]
    arrays = {
        f"{P}.gate_up_proj": GATE_UP.swapaxes(1, 2) if transposed else GATE_UP,
        f"{P}.gate_up_proj_bias": BIAS,
        f"{P}.down_proj": DOWN.swapaxes(1, 2) if transposed else DOWN,
        "model.layers.3.mlp.gate.weight": ROUTER,
    } | (others or {})
    tensors = {
        name: (dtype, array.shape, np.ascontiguousarray(array).astype(kind).tobytes()) for name, array in arrays.items()
    }
    return Spy(folders.write(folder, {"model_type": "qwen3_moe", "hidden_size": HIDDEN}, tensors))


def stacks(*, transposed=False, gate_up=SPLIT):
    return [Stack(f"{P}.gate_up_proj", transposed, gate_up), Stack(f"{P}.down_proj", transposed, ("down_proj",))]


def expected():
    for e in range(EXPERTS):
        yield f"{P}.{e}.gate_proj.weight", GATE_UP[e, :INNER]
        yield f"{P}.{e}.up_proj.weight", GATE_UP[e, INNER:]
        yield f"{P}.{e}.down_proj.weight", DOWN[e]


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_part_of_every_expert(tmp_path, transposed, dtype):
    with closing(
        UnpackedExperts(packed(tmp_path, transposed=transposed, dtype=dtype), stacks(transposed=transposed))
    ) as view:
        for name, matrix in expected():
            assert view.tensors[name] == TensorInfo(name, dtype, matrix.shape)
            np.testing.assert_array_equal(read_array(view, name), matrix.astype(DTYPES[dtype]))
            np.testing.assert_array_equal(read_array(view, name, 3, 7), matrix[3:7].astype(DTYPES[dtype]))
            assert read_array(view, name, 4, 4).size == 0


@pytest.mark.parametrize("tile", [1, 5, HIDDEN, HIDDEN + 1])
def test_tiles_that_do_not_divide(tmp_path, monkeypatch, tile):
    monkeypatch.setattr(experts, "_TILE", tile)
    with closing(UnpackedExperts(packed(tmp_path, transposed=True), stacks(transposed=True))) as view:
        for name, matrix in expected():
            np.testing.assert_array_equal(read_array(view, name, 2, 9), matrix[2:9])


def test_what_is_no_stack_stays(tmp_path):
    source = packed(tmp_path)
    with closing(UnpackedExperts(source, stacks())) as view:
        for name, array in ((f"{P}.gate_up_proj_bias", BIAS), ("model.layers.3.mlp.gate.weight", ROUTER)):
            assert view.tensors[name] is source.tensors[name]
            np.testing.assert_array_equal(read_array(view, name), array)
            assert view.stored(name) == source.stored(name)
            view.release(name)
        assert source.released == [f"{P}.gate_up_proj_bias", "model.layers.3.mlp.gate.weight"]
        assert not {f"{P}.gate_up_proj", f"{P}.down_proj"} & set(view.tensors)
        assert (view.path, view.config, view.files) == (source.path, source.config, source.files)
        assert view.quantization is None
        assert view.auxiliary() == {}


def test_order_is_that_of_the_data(tmp_path):
    with closing(UnpackedExperts(packed(tmp_path), stacks())) as view:
        names = [name.removeprefix(f"{P}.").removesuffix(".weight") for name in view.tensors]
    assert names[:4] == ["0.gate_proj", "0.up_proj", "1.gate_proj", "1.up_proj"]
    assert names[2 * EXPERTS :] == [
        "gate_up_proj_bias",
        *(f"{e}.down_proj" for e in range(EXPERTS)),
        "model.layers.3.mlp.gate",
    ]


def test_a_stack_that_stays_whole(tmp_path):
    with closing(
        UnpackedExperts(packed(tmp_path, transposed=True), stacks(transposed=True, gate_up=("gate_up_proj",)))
    ) as view:
        np.testing.assert_array_equal(read_array(view, f"{P}.4.gate_up_proj.weight"), GATE_UP[4])


def test_bands_and_parts_read_an_expert_once(tmp_path):
    source = packed(tmp_path, transposed=True)
    with closing(UnpackedExperts(source, stacks(transposed=True))) as view:
        for part in SPLIT:
            for start in range(0, INNER, 4):
                read_array(view, f"{P}.2.{part}.weight", start, min(start + 4, INNER))
        assert source.reads == [(f"{P}.gate_up_proj", 2, 3)]
        read_array(view, f"{P}.3.up_proj.weight", 0, 1)
        read_array(view, f"{P}.3.down_proj.weight", 0, 1)
        assert source.reads[1:] == [(f"{P}.gate_up_proj", 3, 4), (f"{P}.down_proj", 3, 4)]


def test_threads_do_not_share_what_they_hold(tmp_path):
    with closing(UnpackedExperts(packed(tmp_path), stacks())) as view:
        failed = []

        def go(seed):
            rng = np.random.default_rng(seed)
            known = list(expected())
            for _ in range(100):
                name, matrix = known[rng.integers(len(known))]
                if not np.array_equal(read_array(view, name, 1, 9), matrix[1:9]):
                    failed.append(name)

        threads = [threading.Thread(target=go, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed


def test_stored_bytes_add_up(tmp_path):
    source = packed(tmp_path, dtype="BF16")
    with closing(UnpackedExperts(source, stacks())) as view:
        assert view.stored(f"{P}.1.up_proj.weight") == ("BF16", 2 * INNER * HIDDEN)
        total = sum(view.stored(name)[1] for name in view.tensors)
        assert total == sum(source.stored(name)[1] for name in source.tensors)


def test_pages_are_released_with_the_last_part(tmp_path):
    source = packed(tmp_path)
    with closing(UnpackedExperts(source, stacks())) as view:
        for e in range(EXPERTS):
            view.release(f"{P}.{e}.gate_proj.weight")
            assert source.released == []
            view.release(f"{P}.{e}.up_proj.weight")
        assert source.released == [f"{P}.gate_up_proj"]


@pytest.mark.parametrize("rows", [(-1, 2), (3, 2), (0, INNER + 1)])
def test_rows_that_are_not_there(tmp_path, rows):
    with closing(UnpackedExperts(packed(tmp_path), stacks())) as view, pytest.raises(ValueError, match="which has 10"):
        view.read(f"{P}.0.gate_proj.weight", *rows, memoryview(bytearray(4096)))


def test_a_buffer_that_is_too_small(tmp_path):
    with (
        closing(UnpackedExperts(packed(tmp_path), stacks())) as view,
        pytest.raises(ValueError, match="into 10 elements"),
    ):
        view.read(f"{P}.0.gate_proj.weight", 0, 1, memoryview(bytearray(10)))


def test_a_read_that_fails_leaves_nothing_behind(tmp_path):
    source = packed(tmp_path)
    with closing(UnpackedExperts(source, stacks())) as view:
        read_array(view, f"{P}.0.down_proj.weight")
        read = source.read
        source.read = lambda *_: (_ for _ in ()).throw(CheckpointError("gone"))
        with pytest.raises(CheckpointError, match="gone"):
            read_array(view, f"{P}.1.down_proj.weight")
        source.read = read
        for e in (0, 1):
            np.testing.assert_array_equal(read_array(view, f"{P}.{e}.down_proj.weight"), DOWN[e])


def test_quantized_stacks_stay(tmp_path):
    with closing(UnpackedExperts(packed(tmp_path, dtype="F8_E4M3"), stacks())) as view:
        assert view.tensors[f"{P}.gate_up_proj"].dtype == "F8_E4M3"
        assert f"{P}.0.gate_proj.weight" not in view.tensors


def test_an_expert_that_is_there_twice(tmp_path):
    source = packed(tmp_path, others={f"{P}.0.up_proj.weight": GATE_UP[0, INNER:]})
    with pytest.raises(CheckpointError, match=r"experts\.0\.up_proj\.weight is there by itself and as a part of"):
        UnpackedExperts(source, stacks())


def test_names_are_those_that_vllm_looks_for(tmp_path):
    source = packed(tmp_path, dtype="BF16")
    of = arch.of(source.config)
    with closing(UnpackedExperts(source, of.stacks(source.tensors))) as view:
        weight = view.tensors[f"{P}.0.gate_proj.weight"]
        assert not of.why_kept(weight.name, 2)
        assert of.fused_group(weight.name) == f"{P}.0.gate_up_proj"
        layout = layouts.get("compressed-tensors")
        scheme = layout.bind(schemes.get("fp8_dynamic"), weight.dtype)
        assert [entry.name for entry in layout.entries(weight, scheme)] == [
            f"{P}.0.gate_proj.weight",
            f"{P}.0.gate_proj.weight_scale",
        ]


def test_a_checkpoint_without_stacks(tmp_path):
    source = packed(tmp_path)
    with closing(UnpackedExperts(source, [])) as view:
        assert list(view.tensors) == list(source.tensors)


def test_it_is_a_view_of_any_checkpoint(tmp_path):
    packed(tmp_path).close()
    checkpoint = HfCheckpoint(tmp_path)
    with closing(UnpackedExperts(checkpoint, arch.of(checkpoint.config).stacks(checkpoint.tensors))) as view:
        name, matrix = next(expected())
        np.testing.assert_array_equal(read_array(view, name), matrix)
