"""What transformers.json and vllm.json say, unfolded."""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ARCHITECTURES = json.loads((FOLDER / "transformers.json").read_text())["architectures"]
FUSED = json.loads((FOLDER / "vllm.json").read_text())["families"]
FORMS = [(name, form) for name, case in ARCHITECTURES.items() for form in ("saved", "memory") if form in case]
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")


@dataclass(frozen=True)
class Weight:
    """A tensor: the class of its module, and its shape."""

    kind: str
    shape: tuple[int, ...]


def unfold(lines):
    """name -> Weight of lines in which ranges stand for numbers."""
    found = {}
    for line, fact in lines.items():
        kind, shape = fact.rsplit(" ", 1)
        ranges = [range(int(first), int(last) + 1) for first, last in _RANGE.findall(line)]
        for numbers in itertools.product(*ranges):
            left = iter(numbers)
            name = _RANGE.sub(lambda _, left=left: str(next(left)), line)
            found[name] = Weight(kind, tuple(map(int, shape.split("x"))))
    return found


def tensors(name, form):
    """The weights of an architecture as checkpoints have them ("saved"), or as transformers holds them ("memory")."""
    return unfold(ARCHITECTURES[name][form])
