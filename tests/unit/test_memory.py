"""A limit of memory: what is planned is enough, bands and workers follow from it, and the bytes do not."""

import json
import re
import tracemalloc
from contextlib import closing

import ml_dtypes
import numpy as np
import pytest

import halve
from halve import algorithms, layouts
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.hf import HfCheckpoint
from halve.errors import FormatError, LimitError, OutputError, UnsupportedError
from halve.evaluate.sqnr import Sqnr
from halve.pipeline import memory as planning
from halve.pipeline.calibrate import calibrate
from halve.pipeline.experts import unpacked
from halve.pipeline.making import make_plan
from halve.pipeline.memory import MIB, Memory, of_weights
from halve.pipeline.spill import Spilled
from halve.pipeline.workers import BAND_BYTES, Crew
from halve.schemes import SCHEMES
from halve.schemes.quantize import absmax, dequantize, tensor_scale
from halve.schemes.statistics import Statistics
from tiny import folders, llama, speaker

ROWS = COLUMNS = 256
EXPERTS = "model.layers.0.mlp.experts"
INFO = TensorInfo("model.layers.0.mlp.down_proj.weight", "BF16", (ROWS, COLUMNS))


def statistics():
    x = np.random.default_rng(1).standard_normal((64, COLUMNS)).astype(np.float32)
    hessian = x.T @ x / 64 + np.eye(COLUMNS, dtype=np.float32)
    return Statistics((x * x).mean(0), np.abs(x).max(0), hessian, 64)


def made_of(scheme, layout, algorithm):
    """The most bytes at a time of what is made of each weight; None where the three do not go together."""
    w = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32).astype(ml_dtypes.bfloat16)
    if not scheme.dense:
        scheme = layout.bind(scheme.fitted([COLUMNS]), "BF16")
    try:
        prepared = algorithm.prepared(scheme.weight, statistics())
        layout.entries(INFO, scheme)
    except (UnsupportedError, FormatError):
        return None
    scale = tensor_scale(scheme.weight, absmax(w)) if scheme.weight.tensor_scale else None

    def work():
        q = prepared.quantize(w, tensor_scale=scale)
        layout.write(INFO, scheme, q, 0, 1.0 if scheme.activation_static else None)
        Sqnr().add(w, dequantize(q))

    work()  # tables that are made once
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / w.size, of_weights(scheme.weight)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_what_is_made_of_a_weight_takes_no_more_than_planned(scheme):
    tried = 0
    for layout in layouts.layouts().values():
        for algorithm in algorithms.algorithms().values():
            if layout.supports(scheme).refused or not (found := made_of(scheme, layout, algorithm)):
                continue
            tried += 1
            measured, planned = found
            assert measured <= planned, (scheme.name, layout.name, algorithm.name)
    assert tried


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return llama.write(tmp_path_factory.mktemp("memory") / "source")


def crew(folder, limit, *, threads=4, held=60 * MIB, scheme="nvfp4a16", needs="nothing", hessians=False, **options):
    checkpoint = HfCheckpoint(folder)
    try:
        job = make_plan(checkpoint, scheme, **options)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(planning, "resident", lambda: held)
            return Memory(limit).crew(checkpoint, job, threads, needs, hessians=hessians)
    finally:
        checkpoint.close()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Two matrices of 60 MB, a stack of 4 matrices of 8 MB that stays whole; the file is a hole."""
    folder = tmp_path_factory.mktemp("wide")
    tensors = {
        "model.layers.0.mlp.down_proj.weight": [1024, 30720],
        "model.layers.1.mlp.down_proj.weight": [1024, 30720],
        "stack": [4, 2048, 2048],
    }
    header, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(llama.config()))
    return folder


def test_workers_and_bands_follow_from_the_limit(wide):
    limits = (1024, 400, 250, 150, 130)
    crews = [crew(wide, limit * MIB) for limit in limits]
    assert crews[0] == Crew(4, BAND_BYTES)
    taken = [(one.threads, one.band_bytes) for one in crews]
    assert taken == sorted(taken, reverse=True)
    assert taken[-1] < taken[0]
    assert crew(wide, None, threads=3) == Crew(3, BAND_BYTES)


def test_too_little_is_refused_and_the_least_is_named(wide):
    with pytest.raises(LimitError, match="one worker") as raised:
        crew(wide, 64 * MIB)
    least = int(re.search(r"--memory (\d+)MiB", raised.value.hint)[1])
    assert raised.value.exit_code == 2
    assert crew(wide, least * MIB).threads == 1
    with pytest.raises(LimitError):
        crew(wide, (least - 1) * MIB)


def test_a_hessian_counts(wide):
    with pytest.raises(LimitError, match="down_proj") as raised:
        crew(wide, 2 << 30, needs="hessian", hessians=True)
    assert "--algorithm rtn" in raised.value.hint


def test_turned_matrices_count(wide):
    plain = crew(wide, 200 * MIB, scheme="w4a16", layout="compressed-tensors")
    turned = crew(wide, 200 * MIB, scheme="w4a16", layout="gptq")
    assert (turned.threads, turned.band_bytes) < (plain.threads, plain.band_bytes)


def test_rows_of_a_stack_are_matrices_and_come_one_by_one(wide, tmp_path):
    """A band of 128 rows of it would be all of it."""
    bands = []
    halve.quantize(
        wide,
        tmp_path / "out",
        "nvfp4a16",
        threads=1,
        progress=lambda state: bands.append(state.done) if state.tensor == "stack" else None,
    )
    assert len(bands) == 4


def test_experts_count_as_the_matrix_that_is_read(tmp_path):
    shapes = {f"{EXPERTS}.gate_up_proj": (3, 64, 128), "model.norm.weight": (128,)}
    tensors = {name: ("BF16", shape, bytes(2 * int(np.prod(shape)))) for name, shape in shapes.items()}
    with closing(folders.write(tmp_path, {"model_type": "qwen3_moe", "hidden_size": 128}, tensors)) as checkpoint:
        seen = unpacked(checkpoint, SCHEMES["nvfp4a16"], layouts.get("compressed-tensors"), ())
        assert planning.held(seen, f"{EXPERTS}.1.up_proj.weight") == 64 * 128 * 2
        assert planning.held(seen, "model.norm.weight") == 0


@pytest.mark.parametrize("more", [None, 4 << 30, 64 * MIB])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_do_not_depend_on_it(source, tmp_path, more, threads):
    limit = None if more is None else planning.resident() + more
    halve.quantize(source, tmp_path / "a" / "out", "nvfp4a16")
    halve.quantize(source, tmp_path / "b" / "out", "nvfp4a16", memory=limit, threads=threads)
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / x / "out").iterdir()} for x in "ab")
    assert one == other


def test_too_little_for_a_job_that_goes_on_loses_nothing(source, tmp_path, monkeypatch):
    from halve.pipeline import journal

    monkeypatch.setattr(journal, "SECONDS", 0.0)

    def stop(state):
        if state.done > state.total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", threads=1, progress=stop)
    finished = (tmp_path / "out" / ".halve" / "journal").read_bytes()
    with pytest.raises(LimitError):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", memory=MIB, resume=True)
    assert (tmp_path / "out" / ".halve" / "journal").read_bytes() == finished
    halve.quantize(source, tmp_path / "out", "nvfp4a16", resume=True)
    assert halve.verify(tmp_path / "out", against=source).ok


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talker")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    return speaker.write(folder / "source"), folder / "text.txt"


def test_statistics_are_the_same_from_the_disk(talker, tmp_path, monkeypatch):
    source, text = talker
    options = {"texts": [str(text)], "windows": 3, "window": 32}
    calibrate(source, tmp_path / "memory", **options)
    spilled = []
    monkeypatch.setattr("halve.pipeline.calibrate._spills", lambda *_, **__: True)
    put = Spilled.__setitem__
    monkeypatch.setattr(Spilled, "__setitem__", lambda self, index, one: (spilled.append(index), put(self, index, one)))
    calibrate(source, tmp_path / "disk", memory=1 << 30, **options)
    assert spilled
    assert (tmp_path / "disk").read_bytes() == (tmp_path / "memory").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "memory"]


def test_too_little_for_a_layer_is_refused(talker, tmp_path):
    source, text = talker
    with pytest.raises(LimitError, match="decoder layer"):
        calibrate(source, tmp_path / "statistics", texts=[str(text)], windows=1, window=32, memory=MIB)
    assert not (tmp_path / "statistics").exists()


def test_comparing_candidates_takes_whole_models(talker, tmp_path, monkeypatch):
    source, text = talker
    calibrate(source, tmp_path / "statistics", texts=[str(text)], windows=3, window=32)
    monkeypatch.setattr(planning, "whole_model", lambda checkpoint: 1 << 40)
    monkeypatch.setattr("halve.pipeline.quantize.whole_model", lambda checkpoint: 1 << 40)
    with pytest.raises(LimitError, match="comparing candidates"):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", stats=tmp_path / "statistics", memory=1 << 30)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_an_error_of_the_place(tmp_path, monkeypatch):
    states = Spilled(tmp_path, [(2, 3)])

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with states, pytest.raises(OutputError, match="No space left"):
        states[0] = np.zeros((2, 3), np.float32)
