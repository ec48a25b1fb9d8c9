"""Coverage-guided fuzzing (atheris) of every reader of strangers' files: executions, crashes, peak memory.

    python benchmarks/fuzz.py [--only gguf,index] [--executions 1000000] [--seconds 600] [--json]

Each reader runs in a process of its own, which ends with its first crash: any exception but a HalveError, more than
1 GiB, or an input that takes more than ten seconds. The input that did it is left in the folder of ``--keep``; once the
bug is mended, it belongs into tests/fuzz/corpus, which the default tests replay. ``--executions`` is for readers of our
own; those that hand the bytes to another's library get a hundredth.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
MEMORY_MIB = 1024
SECONDS_AN_INPUT = 10
LARGEST = 16 << 10  # bytes of an input
THIRD_PARTY_SHARE = 100
_STATISTIC = re.compile(r"stat::(\w+):\s+(\d+)")
_LAST = re.compile(r"^#(\d+)\t.* rss: (\d+)Mb", re.MULTILINE)
_COVERED = re.compile(r"\bcov: (\d+)")


@dataclass(frozen=True, slots=True)
class Result:
    """One reader's run."""

    reader: str
    executions: int
    crashes: int
    peak_rss: int  # MiB
    coverage: int  # points of halve's code that were reached
    why: str = ""  # the last line of what crashed it


def work(reader: str, arguments: list[str]) -> None:
    """Fuzz one reader in this process, which libFuzzer ends."""
    import atheris

    sys.path[0] = str(TESTS)  # instead of this folder, where "fuzz" would be this file
    with atheris.instrument_imports(include=["halve"]):
        from fuzz.readers import READERS
        from halve.errors import HalveError

    call = READERS[reader].read
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        place = Path(folder)

        def once(content: bytes) -> None:
            with suppress(HalveError):
                call(place, content)

        atheris.Setup([sys.argv[0], *arguments], once)
        atheris.Fuzz()


def run(reader: str, executions: int, seconds: int, keep: Path) -> Result:
    """Fuzz one reader in a process of its own."""
    with tempfile.TemporaryDirectory() as grown:
        arguments = [
            grown,
            str(TESTS / "fuzz" / "corpus" / reader),
            f"-runs={executions}",
            f"-max_total_time={seconds}",
        ]
        arguments += [f"-rss_limit_mb={MEMORY_MIB}", f"-timeout={SECONDS_AN_INPUT}", f"-max_len={LARGEST}", "-seed=1"]
        arguments += ["-print_final_stats=1", f"-artifact_prefix={keep}/{reader}-"]
        command = [sys.executable, __file__, "--work", reader, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    covered = _COVERED.findall(done.stderr)
    if done.returncode == 0 and not covered:
        raise SystemExit(
            f"{reader}: no line of halve was seen to run, so nothing was fuzzed but random bytes: install halve as a "
            "wheel (pip install .), for atheris cannot look through the loader of an editable install"
        )
    told = {name: int(value) for name, value in _STATISTIC.findall(done.stderr)}
    last = _LAST.findall(done.stderr) or [("0", "0")]
    errors = [line for line in done.stderr.splitlines() if re.match(r"\w*(Error|Exception)|==\d+== ?ERROR", line)]
    return Result(
        reader,
        told.get("number_of_executed_units", int(last[-1][0])),
        int(done.returncode != 0),
        told.get("peak_rss_mb", int(last[-1][1])),
        int(covered[-1]) if covered else 0,
        (errors or done.stderr.splitlines() or ["?"])[-1][:200] if done.returncode else "",
    )


def main() -> int:
    """Fuzz what was asked for; 1 where anything crashed."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of readers, with commas; default all")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=600, help="the longest time for one reader")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-crashes"), help="where crashing inputs go")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    sys.path[0] = str(TESTS)  # instead of this folder, where "fuzz" would be this file
    from fuzz.readers import READERS

    chosen.keep.mkdir(exist_ok=True)
    results = []
    for name in chosen.only.split(",") if chosen.only else READERS:
        share = THIRD_PARTY_SHARE if READERS[name].third_party else 1
        result = run(name, chosen.executions // share, chosen.seconds, chosen.keep.resolve())
        results.append(result)
        if not chosen.json:
            figures = f"{result.executions:>9,} executions  {result.peak_rss:>5} MiB  {result.coverage:>5} points"
            print(f"{name:16} {figures}  {result.why}", flush=True)
    if chosen.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    return int(any(result.crashes for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
