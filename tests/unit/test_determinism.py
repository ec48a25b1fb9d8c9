"""Class A of ARCHITECTURE: the same bytes for any instruction set, threads, bands and memory; given statistics, always.

Kernels are compared one by one in tests/native; here whole jobs are, down to the manifest and the model card.
"""

import hashlib

import pytest

import halve
from halve.codecs import dispatch
from halve.pipeline.calibrate import calibrate
from halve.pipeline.memory import MIB, Memory
from halve.pipeline.workers import Crew
from native.inputs import ISAS
from tiny import speaker

JOBS = {  # by name: scheme, and what else; "stats" is filled in
    "nvfp4a16": ("nvfp4a16", {}),
    "mxfp4a16": ("mxfp4a16", {}),
    "fp8_block": ("fp8_block", {}),
    "bf16": ("bf16", {}),
    "gptq file": ("w4a16", {"layout": "gptq"}),
    "gguf file": ("int4_min_g32", {"layout": "gguf"}),
    "torch file": ("mxfp6_e2m3a16", {"layout": "torch"}),
    "mse": ("w8a8", {"algorithm": "mse"}),
    "hessian_diag": ("nvfp4", {"algorithm": "hessian_diag", "stats": True}),
    "gptq": ("nvfp4", {"algorithm": "gptq", "stats": True}),
    "awq": ("w4a16", {"algorithm": "hessian_diag", "stats": True, "transforms": ["awq"]}),
}
CREWS = [Crew(1), Crew(3), Crew(1, 1), Crew(4, 100_000)]


class Same:
    """A model with several bands in a tensor, the statistics of its inputs, and what each job makes of it."""

    def __init__(self, folder):
        self.source = speaker.write(folder / "source", intermediate_size=512)
        self.statistics = folder / "statistics"
        (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
        calibrate(self.source, self.statistics, texts=[str(folder / "text.txt")], windows=3, window=32)
        (self.source / "tokenizer.json").unlink()  # GGUF has no name for how it splits
        self.expected = {name: self.hashes(folder / name, name) for name in JOBS}

    def hashes(self, folder, name, **how):
        """Of the files of a job."""
        scheme, options = JOBS[name]
        options = options | ({"stats": self.statistics} if "stats" in options else {}) | how
        halve.quantize(self.source, folder / "out", scheme, **options)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "out").iterdir()}


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    return Same(tmp_path_factory.mktemp("same"))


@pytest.mark.parametrize("crew", CREWS, ids=str)
@pytest.mark.parametrize("name", JOBS)
def test_workers_and_bands(same, tmp_path, monkeypatch, name, crew):
    monkeypatch.setattr(Memory, "crew", lambda *_, **__: crew)
    assert same.hashes(tmp_path, name) == same.expected[name]


@pytest.mark.parametrize("name", JOBS)
def test_memory(same, tmp_path, monkeypatch, name):
    """A limit that leaves one worker and small bands."""
    monkeypatch.setattr("halve.pipeline.memory.resident", lambda: 500 * MIB)
    assert same.hashes(tmp_path, name, memory=560 * MIB) == same.expected[name]


@pytest.mark.parametrize(
    ("name", "isa"),
    # The searches by statistics take seconds without kernels, and tests/native compares them.
    [(name, isa) for name in JOBS for isa in (*ISAS, "python") if isa != "python" or name not in ("gptq", "awq")],
)
def test_instruction_sets(same, tmp_path, monkeypatch, name, isa):
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    if isa != "python" and isa not in native.isas():
        pytest.skip(f"this machine has no {isa}")
    chosen = None if isa == "python" else native.kernels(isa)
    monkeypatch.setattr(dispatch, "kernels", lambda: chosen)
    assert same.hashes(tmp_path, name) == same.expected[name]
