"""Other people's programs, each in a virtual environment of its own, to compare with.

    python benchmarks/peers.py                      # which peers there are, and which are ready
    python benchmarks/peers.py NAME                 # the state of one; exit 1 unless it is ready
    python benchmarks/peers.py NAME --prepare       # make `.peers/NAME` from `benchmarks/peers/NAME.txt`

To renew the pins of a peer, resolve its first block of requirements in an empty environment and paste `pip freeze`.
A line `# without: NAME...` names packages that the peer asks for and that only do harm here: then nothing but what the
file pins is installed.
"""

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Literal

import measure

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".peers"
REQUIREMENTS = HERE / "peers"
RUNNERS = HERE / "runners"
STAMP = "installed.txt"  # in an environment: the requirements it was made from, written last

WITHOUT = "# without: "  # in a file of requirements: see the top

State = Literal["ready", "outdated", "missing"]


def names() -> list[str]:
    """Every peer there are requirements for."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def _requirements(name: str) -> Path:
    """The pinned requirements of a peer. Raises LookupError for a name that is none."""
    if name not in names():
        raise LookupError(f"no peer is named {name!r}; there are {', '.join(names())}")
    return REQUIREMENTS / f"{name}.txt"


def state(name: str) -> State:
    """Whether the environment of a peer stands, and was made from the requirements of today."""
    requirements = _requirements(name)
    stamp = ENVIRONMENTS / name / STAMP
    if not stamp.exists():
        return "missing"
    return "ready" if stamp.read_bytes() == requirements.read_bytes() else "outdated"


def python(name: str) -> Path | None:
    """The interpreter of a peer; None unless the peer is ready."""
    return ENVIRONMENTS / name / "bin" / "python" if state(name) == "ready" else None


def prepare(name: str) -> None:
    """Make the environment of a peer anew. Raises CalledProcessError where venv or pip fails."""
    requirements = _requirements(name)
    environment = ENVIRONMENTS / name
    venv.create(environment, clear=True, with_pip=True)
    interpreter = str(environment / "bin" / "python")
    pip = [interpreter, "-m", "pip", "--disable-pip-version-check"]
    without = _without(requirements)
    install = ["install", "--quiet", *(["--no-deps"] if without else []), "--requirement", requirements]
    subprocess.run([*pip, *install], check=True, stdout=sys.stderr)
    _check(pip, without)
    shutil.copyfile(requirements, environment / STAMP)


def _without(requirements: Path) -> set[str]:
    """Packages that the peer asks for and must not have."""
    lines = requirements.read_text().splitlines()
    return {name for line in lines if line.startswith(WITHOUT) for name in line.removeprefix(WITHOUT).split()}


def _check(pip: list[str], without: set[str]) -> None:
    """Raise CalledProcessError where pip misses anything but the packages in ``without``."""
    done = subprocess.run([*pip, "check"], stdout=subprocess.PIPE, text=True, check=False)
    lacking = {f"requires {name}, which is not installed." for name in without}
    broken = [line for line in done.stdout.splitlines() if not any(line.endswith(end) for end in lacking)]
    if done.returncode and broken:
        print(*broken, sep="\n", file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, done.args)


def run(name: str, script: str, *arguments: str | Path) -> measure.Run:
    """Run a script of ``benchmarks/runners`` in the environment of a peer, to its end.

    Raises LookupError where the peer is not ready, CalledProcessError (what it said is in the notes) where it fails.
    """
    interpreter = python(name)
    if interpreter is None:
        raise LookupError(f"{name} is {state(name)}: run `python benchmarks/peers.py {name} --prepare`")
    try:
        return measure.run(interpreter, "-I", RUNNERS / script, *arguments)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise


def main() -> int:
    """Print states, or prepare a peer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", nargs="?", choices=names(), metavar="NAME", help=f"one of {', '.join(names())}")
    parser.add_argument("--prepare", action="store_true", help="make its environment, unless it is ready")
    args = parser.parse_args()
    if args.name is None:
        if args.prepare:
            parser.error("--prepare needs the NAME of a peer")
        for name in names():
            print(f"{name:20s} {state(name)}")
        return 0
    if args.prepare and state(args.name) != "ready":
        try:
            prepare(args.name)
        except subprocess.CalledProcessError as error:
            print(
                f"{args.name}: {error}\n(see benchmarks/peers/cpu-only.constraints if torch asks for CUDA)",
                file=sys.stderr,
            )
            return 1
    print(f"{args.name:20s} {state(args.name)}")
    return 0 if state(args.name) == "ready" else 1


if __name__ == "__main__":
    sys.exit(main())
