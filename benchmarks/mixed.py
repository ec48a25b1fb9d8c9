"""What mixing schemes by layer buys: KL divergence at 5.0 bits a weight beside uniform NVFP4's best.

    python benchmarks/peers.py transformers --prepare    # once: the backward pass behind Fisher information
    python benchmarks/mixed.py [--quick] [--json] [--only fisher] [--work FOLDER]

Texts, model and statistics are those of benchmarks/accuracy.py. ``fisher`` knows how much each output matters, from
extras/torch_stats.py; ``error`` knows what layers are fed, and nothing else. MXFP6 beside NVFP4 is held by the layout
``torch`` only, which no engine loads; NVFP4 with FP8 by compressed-tensors, which vLLM does.
"""

import argparse
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import halve
import peers
import texts
from accuracy import Measured, bound, evaluated, prepared
from halve.evaluate.builtin import builtin
from halve.evaluate.evaluator import Evaluator
from halve.pipeline.budget import Budget
from measure import Figure

PEER = "transformers"
STATISTICS = Path(__file__).parent.parent / "extras" / "torch_stats.py"
UNIFORM = "nvfp4a16"
BUDGET = Budget(bpw=5.0)


@dataclass(frozen=True)
class Row:
    """A mixture: what it may choose from, how it knows what matters, and what its KLD may be beside uniform NVFP4."""

    name: str
    allow: tuple[str, ...]
    fisher: bool
    must: float
    stretch: float

    @property
    def layout(self) -> str:
        """What holds all of it."""
        return "torch" if "mxfp6_e2m3a16" in self.allow else "compressed-tensors"


ROWS = (
    Row("fisher-mxfp6", ("mxfp6_e2m3a16", "fp8"), fisher=True, must=0.72, stretch=0.60),
    Row("fisher-fp8", ("fp8",), fisher=True, must=0.78, stretch=0.70),
    Row("error-mxfp6", ("mxfp6_e2m3a16", "fp8"), fisher=False, must=1.0, stretch=0.72),
    Row("error-fp8", ("fp8",), fisher=False, must=1.0, stretch=0.78),
)


def fisher(source: Path, out: Path) -> Path | None:
    """Statistics with a backward pass over the texts that `halve calibrate` reads; None where the peer is not ready."""
    interpreter = peers.python(PEER)
    if out.exists() or interpreter is None:
        return out if out.exists() else None
    with tempfile.TemporaryDirectory() as folder:
        options: list[str | Path] = ["--hessians", "--fisher"]
        for number, text in enumerate(builtin("calibrate")):
            file = Path(folder) / f"{number}.txt"
            file.write_text(text.content, encoding="utf-8")
            options += ["--text", file]
        subprocess.run([interpreter, "-I", STATISTICS, source, out, *options], check=True)
    return out


def run(rows: list[Row], *, passages: int, work: Path, as_json: bool) -> None:
    """Measure and print."""
    source, stats = prepared(work)
    with Evaluator(source, texts=[kind.text for kind in texts.KINDS], windows=passages) as evaluator:

        def measured(name: str, **choices: object) -> Measured:
            out = work / f"mixed-{name}"
            shutil.rmtree(out, ignore_errors=True)  # of an interrupted run
            halve.quantize(source, out, UNIFORM, algorithm="gptq", **choices)
            kinds = evaluated(out, evaluator, activations=False, passages=passages, work=work)
            return Measured({kind: np.array(values) for kind, values in kinds.items()}, "gptq")

        best = measured("uniform", stats=stats)
        for row in rows:
            known = fisher(source, work / "fisher.safetensors") if row.fisher else stats
            found = known and measured(row.name, stats=known, layout=row.layout, budget=BUDGET, allow=row.allow)
            ratio = found and found.mean / best.mean
            kinds = "" if found is None else _by_kind(found, best)
            Figure(
                metric=f"mixed_5bpw_kld-{row.name}",
                value=ratio,
                unit="",
                goal=f"{row.must} of {UNIFORM}'s best (stretch {row.stretch}){kinds}",
                met=ratio is not None and ratio <= row.must,
                peer=f"{UNIFORM}-gptq" if found else PEER,
                peer_value=found and best.mean,
                ratio=ratio,
            ).print(as_json=as_json)


def _by_kind(found: Measured, best: Measured) -> str:
    kinds = " ".join(f"{kind} {values.mean() / best.kld[kind].mean():.2f}" for kind, values in found.kld.items())
    ln = bound(*(np.concatenate(list(m.kld.values())) for m in (found, best)))
    return f", {kinds}; ln bound {ln:+.3f}"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="4 passages of each kind instead of 20")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", action="append", default=[], help="rows whose names begin so")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks/accuracy"), help="scratch folder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if not args.only or row.name.startswith(tuple(args.only))]
    run(rows, passages=4 if args.quick else 20, work=args.work, as_json=args.json)


if __name__ == "__main__":
    main()
