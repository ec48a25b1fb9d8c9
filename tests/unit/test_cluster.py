"""What a cluster does, without one: a Ray that does all work itself. tests/slow/test_cluster.py has real machines."""

import json
import pickle
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import halve
from halve.cli.main import cli
from halve.errors import FormatError, HalveError, LimitError, OutputError, UnsupportedError
from halve.pipeline import journal
from halve.pipeline.calibrate import calibrate
from tiny import llama, speaker


class Ray:
    """A stand-in for the module, with two machines; what passes between processes is pickled."""

    class exceptions:  # noqa: N801 - a module's name
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause):
                super().__init__()
                self.cause = cause

    def __init__(self, memory=4 << 30):
        self.memory = memory
        self.asked, self.options_seen, self.cancelled = [], [], []

    def is_initialized(self):
        return True

    def nodes(self):
        node = {"Alive": True, "Resources": {"CPU": 2.0, "memory": self.memory}}
        return [node, node, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def put(self, value):
        return pickle.dumps(value)

    def remote(self, function):
        def options(**given):
            self.options_seen.append(given)
            return SimpleNamespace(remote=lambda *arguments: self._begin(function, arguments))

        return SimpleNamespace(options=options)

    def _begin(self, function, arguments):
        job, *rest = arguments
        self.asked.append(rest[0])
        return (function, job, *rest)

    def wait(self, running, num_returns):
        return running[-num_returns:], running[:-num_returns]

    def get(self, task):
        function, job, *rest = task
        try:
            return pickle.loads(pickle.dumps(function(pickle.loads(job), *rest)))
        except HalveError as error:
            raise self.exceptions.RayTaskError(pickle.loads(pickle.dumps(error))) from None

    def cancel(self, task, force):
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch):
    found = Ray()
    monkeypatch.setitem(sys.modules, "ray", found)
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = llama.write(tmp_path_factory.mktemp("cluster") / "source")
    (folder / "tokenizer.json").unlink()  # GGUF has no name for how it splits
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("scheme", "options"), [("nvfp4a16", {}), ("w4a16", {"layout": "gptq"}), ("nvfp4a16", {"layout": "modelopt"})]
)
def test_the_bytes_are_those_of_one_machine(ray, source, tmp_path, scheme, options):
    """Files this small cut fused groups apart."""
    options = options | {"shard_bytes": 40_000}
    halve.quantize(source, tmp_path / "a" / "out", scheme, **options)
    halve.quantize(source, tmp_path / "b" / "out", scheme, cluster="auto", **options)
    assert len(ray.asked) > 5
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")
    (given,) = ray.options_seen
    assert given["num_cpus"] == 1
    assert 300 << 20 < given["memory"] < 4 << 30


def test_statistics_transforms_and_scales_of_keys_travel(ray, tmp_path):
    source, statistics = speaker.write(tmp_path / "source"), tmp_path / "statistics"
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    calibrate(source, statistics, texts=[str(tmp_path / "text.txt")], windows=3, window=32)
    options = {"stats": statistics, "algorithm": "gptq", "transforms": ["awq"], "kv": "fp8", "shard_bytes": 100_000}
    halve.quantize(source, tmp_path / "a" / "out", "nvfp4a16", **options)
    halve.quantize(source, tmp_path / "b" / "out", "nvfp4a16", cluster="auto", **options)
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")


def test_what_was_finished_is_not_done_again(ray, source, tmp_path, monkeypatch):
    """Begun on one machine, gone on with by a cluster, ended on one."""
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    halve.quantize(source, tmp_path / "peace" / "out", "nvfp4a16", shard_bytes=40_000)

    def stop_at(share):
        def stop(state):
            if state.done >= share * state.total:
                raise KeyboardInterrupt

        return stop

    options = {"shard_bytes": 40_000, "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", progress=stop_at(0.3), **options)
    with pytest.raises(KeyboardInterrupt):
        halve.quantize(
            source, tmp_path / "out", "nvfp4a16", cluster="auto", resume=True, progress=stop_at(0.7), **options
        )
    assert ray.cancelled
    first = len(ray.asked)
    dead = tmp_path / "out" / ".halve" / "shard-1-of-a-machine-that-died"
    dead.mkdir()
    with pytest.raises(OutputError, match="another scheme"):
        halve.quantize(source, tmp_path / "out", "w8a8", resume=True, **options)
    assert dead.exists()
    seen, get = [], ray.get
    monkeypatch.setattr(ray, "get", lambda task: (seen.append(dead.exists()), get(task))[1])
    halve.quantize(source, tmp_path / "out", "nvfp4a16", cluster="auto", resume=True, **options)
    assert 0 < len(ray.asked) - first < first
    assert not any(seen)
    assert contents(tmp_path / "out") == contents(tmp_path / "peace" / "out")


def test_errors_of_the_work_are_ours(ray, tmp_path):
    weights = llama.weights()
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    source = llama.write(tmp_path / "source", weights)
    with pytest.raises(FormatError, match="up_proj.weight: 1 values are not finite") as raised:
        halve.quantize(source, tmp_path / "out", "nvfp4a16", cluster="auto")
    assert "--on-nonfinite keep" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_machines_that_are_too_small(ray, source, tmp_path):
    ray.memory = 100 << 20
    with pytest.raises(LimitError, match="no machine of the cluster has more than 100 MiB"):
        halve.quantize(source, tmp_path / "out", "nvfp4a16", cluster="auto")


def test_one_file_for_everything_is_refused(ray, source, tmp_path):
    with pytest.raises(UnsupportedError, match="only one process can write"):
        halve.quantize(source, tmp_path / "out", "int8_g32", layout="gguf", cluster="auto")
    assert not (tmp_path / "out").exists()


def test_without_ray(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match="needs Ray") as raised:
        halve.quantize(source, tmp_path / "out", "w8a8", cluster="auto")
    assert "halve[ray]" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_how_long(source, tmp_path):
    def dry_run(machines, *more):
        line = ["quantize", source, tmp_path / "out", "--scheme", "nvfp4a16", "--dry-run", "--cluster", machines, *more]
        return CliRunner().invoke(cli, [str(word) for word in line])

    said = json.loads(dry_run(4, "--shard-size", "40kB", "--json").stdout)["cluster"]
    assert said["machines"] == 4
    assert said["source_bytes"] == sum(w.nbytes for w in llama.weights().values())
    assert said["work_bytes_per_second"] > 0
    assert said["write_bytes_per_second"] > 0
    assert "4 machines like this one: about 0 s" in dry_run(4).stdout
    assert dry_run("auto").exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == []
