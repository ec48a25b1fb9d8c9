"""The promise of `--memory`, under a limit of the system: the address space, and a cgroup where one can be made."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import halve
from halve.pipeline.statistics import Facts, entries, put, writer
from halve.schemes.statistics import Statistics

LAUNCHER = Path(__file__).parents[2] / "benchmarks" / "launcher.py"
MIB = 1 << 20
SLACK = 512 * MIB  # of address space: libraries, stacks, and what allocators reserve and never touch
ROWS, COLUMNS = 40_000, 8_192  # 655 MB in BF16: more than any limit here
WIDTH = 2_048  # of a layer whose inputs are known: a Hessian of 17 MB in float32
EXPERTS, INNER, HIDDEN = 24, 2_048, 4_096  # 805 MB and 403 MB, 34 MB and 17 MB an expert
CASES = {  # name -> what is quantized, limit, and options
    "a row of bands": ("dense", 192, ["--scheme", "nvfp4a16"]),
    "no kernel": ("dense", 256, ["--scheme", "int4_min_g32", "--layout", "torch"]),
    "a turned matrix": ("dense", 320, ["--scheme", "w4a16", "--layout", "gptq"]),
    "a search": ("dense", 256, ["--scheme", "mxfp4a16", "--algorithm", "mse"]),
    "experts": ("experts", 256, ["--scheme", "nvfp4a16"]),
    "experts left whole": ("experts", 256, ["--scheme", "nvfp4a16", "--ignore", "re:.*experts.*"]),
    "a Hessian": ("square", 400, ["--scheme", "nvfp4a16", "--algorithm", "gptq"]),
    "a transform": ("square", 1024, ["--scheme", "w4a16", "--algorithm", "hessian_diag", "--transform", "awq"]),
    "little to spare": ("dense", 110, ["--scheme", "nvfp4a16"]),
}


def write(folder, config, shapes):
    """A checkpoint whose tensors repeat a few random numbers."""
    folder.mkdir()
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    numbers = np.random.default_rng(0).standard_normal(1 << 20, np.float32).astype(ml_dtypes.bfloat16).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(end // len(numbers)):
            file.write(numbers)
        file.write(numbers[: end % len(numbers)])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    attention = {"model.layers.0.self_attn.q_proj.weight": [HIDDEN, HIDDEN]}
    experts = "model.layers.0.mlp.experts"
    layer = "model.layers.0."
    return {
        "square": write(
            folder / "square",
            {"model_type": "llama", "hidden_size": WIDTH},
            {f"{layer}input_layernorm.weight": [WIDTH]}
            | {f"{layer}self_attn.{part}_proj.weight": [WIDTH, WIDTH] for part in "qkvo"},
        ),
        "dense": write(
            folder / "dense",
            {"model_type": "llama", "hidden_size": COLUMNS},
            {"model.embed_tokens.weight": [ROWS, COLUMNS], "model.layers.0.mlp.up_proj.weight": [ROWS, COLUMNS]},
        ),
        "experts": write(
            folder / "experts",
            {"model_type": "qwen3_moe", "hidden_size": HIDDEN, "num_experts": EXPERTS},
            attention
            | {
                f"{experts}.gate_up_proj": [EXPERTS, 2 * INNER, HIDDEN],
                f"{experts}.down_proj": [EXPERTS, HIDDEN, INNER],
            },
        ),
    }


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """Statistics of the inputs of the layer."""
    path, groups = tmp_path_factory.mktemp("gathered") / "statistics", ["qkv_proj", "o_proj"]
    columns = {f"model.layers.0.self_attn.{group}": WIDTH for group in groups}
    x = np.random.default_rng(0).standard_normal((64, WIDTH), np.float32)
    inputs = Statistics((x * x).mean(0), np.abs(x).max(0), x.T @ x / 64 + np.eye(WIDTH, dtype=np.float32), 64)
    file = writer(path, entries(columns, (), hessians=True), Facts("", 64, 64, []))
    for group in columns:
        put(file, group, inputs)
    file.finish()
    return path


LIMITED = """
import os, resource, subprocess, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
os.execv(sys.executable, [sys.executable, "-m", "halve", *sys.argv[2:]])
"""


def run(mib, line, *, before=None):
    """`halve` under RLIMIT_AS; its ru_maxrss in bytes, which is no less than that of the process it comes from."""
    with tempfile.NamedTemporaryFile("r") as result:
        limited = [sys.executable, "-c", LIMITED, str(mib * MIB + SLACK), *line, "--memory", f"{mib}MiB"]
        done = subprocess.run(
            list(map(str, [sys.executable, "-I", "-S", LAUNCHER, result.name, *limited])),
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            preexec_fn=before,
        )
        _, max_rss, code = result.read().split()
    assert code == "0", done.stderr
    return int(max_rss)


def quantized(source, out, mib, options, **how):
    return run(mib, ["quantize", source, out, *options], **how)


@pytest.mark.parametrize("name", CASES)
def test_address_space(sources, gathered, tmp_path, name):
    source, mib, options = CASES[name]
    if source == "square":
        options = [*options, "--stats", gathered]
    most = quantized(sources[source], tmp_path / "out", mib, options)
    assert most <= mib * MIB


@pytest.mark.parametrize("layout", ["compressed-tensors", "gptq"])
def test_convert_and_verify(sources, tmp_path, layout):
    halve.quantize(sources["dense"], tmp_path / "quantized", "w4a16")
    line = ["convert", tmp_path / "quantized", tmp_path / "out", "--layout", layout]
    assert run(400, line) <= 400 * MIB
    assert run(400, ["verify", tmp_path / "out", "--against", sources["dense"]]) <= 400 * MIB


def test_the_limit_is_used(sources, tmp_path):
    """Where there is more, more is taken, and it is faster for it or no slower: not everything is done in the least."""
    least = quantized(sources["experts"], tmp_path / "least", 160, ["--scheme", "nvfp4a16", "--threads", "4"])
    more = quantized(sources["experts"], tmp_path / "more", 1024, ["--scheme", "nvfp4a16", "--threads", "4"])
    assert least < more <= 1024 * MIB


@pytest.fixture
def cgroup():
    """A memory cgroup of our own; what is made of it is the version's."""
    found = None
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        with suppress(OSError):
            folder = Path(root, f"halve-{os.getpid()}")
            folder.mkdir()
            if (folder / limit).exists():
                found = folder, folder / limit
                break
            folder.rmdir()
    if found is None:
        pytest.skip("no memory cgroup can be made here")
    yield found
    found[0].rmdir()


def test_cgroup(sources, tmp_path, cgroup):
    """The page cache counts there, too, and must give way."""
    folder, limit = cgroup
    limit.write_text(str(256 * MIB))

    def enter():
        (folder / "cgroup.procs").write_text(str(os.getpid()))

    quantized(sources["dense"], tmp_path / "out", 256, ["--scheme", "nvfp4a16"], before=enter)
