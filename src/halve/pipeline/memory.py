"""How much memory a job may take: a promise kept by construction.

Before any weight is read, what each tensor takes while it is worked on is known from its shape: its band, what is made
of the band, and what its algorithm holds besides (a Hessian, a strip of a turned matrix, an expert of a stack). Bands
shrink and workers are sent home until the largest of these, once a worker, fits beside what the process holds already.
A job that does not fit even with one worker and the smallest bands is refused, with the least that would do.
"""

import os
import resource
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from halve.algorithms.base import Needs
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.experts import UnpackedExperts
from halve.checkpoint.place import held_reading
from halve.checkpoint.transposed import STRIP_BYTES
from halve.errors import LimitError
from halve.pipeline.bands import multiple
from halve.pipeline.dequantized import Dequantized
from halve.pipeline.plan import Plan, TensorPlan
from halve.pipeline.workers import BAND_BYTES, Crew, band_rows, threads_available
from halve.schemes import native
from halve.schemes.table import Block

MIB = 1 << 20
SMALLEST_BAND = 64 << 10

# Bytes a weight of what is made of a band, above those that tests/unit/test_memory.py measures.
_KERNEL, _CAST, _REFERENCE, _COPY, _FOLDED, _DECODED = 8, 16, 96, 4, 20, 24
_WHOLE = 48  # where a transform or a budget is tried out on a whole fused group in float32
_READ, _FACTORISED = 14, 32  # bytes a number of a Hessian: as it is read; shrunk and factorised in float64 as well
_WORKER = 6 * MIB  # a thread: its stack, and what the allocator keeps for it
_TENSOR, _ENTRY = 2_500, 2_200  # of plan, headers, journal and manifest
_SPARE = 16 * MIB
_FRAGMENTS = 1.25  # what the allocator takes above what it is asked for


@dataclass(frozen=True, slots=True)
class Memory:
    """At most ``limit`` bytes for the whole process, as ``ru_maxrss`` counts them; None: what the machine has."""

    limit: int | None = None
    writing: int = 0  # bytes that each worker holds while it sends a file

    def require(self, nbytes: int, what: str, instead: str = "") -> None:
        """Raise LimitError where ``what``, which takes ``nbytes`` beside what the process holds, does not fit.

        ``instead`` is what else could be done.
        """
        if self.limit is not None and nbytes > (room := self.left(0)):
            needed = self.limit - room + nbytes
            raise LimitError(
                f"{what} takes {_mib(needed)}, and only {_mib(self.limit)} of memory are allowed",
                hint=f"--memory {_mib(needed)}, the least that does" + f", or {instead}" * bool(instead),
            )

    def left(self, nbytes: int) -> int:
        """Bytes that are left beside ``nbytes`` and what the process holds."""
        return sys.maxsize if self.limit is None else self.limit - resident() - _SPARE - nbytes

    def crew(self, checkpoint: Checkpoint, job: Plan, threads: int | None, needs: Needs, *, hessians: bool) -> Crew:
        """The workers that do ``job`` within the limit: ``threads``, or fewer, and bands as large as pays, or smaller.

        ``needs`` is what the algorithm wants to know, ``hessians`` whether the statistics hold them. Raises
        LimitError, naming the least that would do, where even one worker with the smallest bands takes more.
        """
        pieces = _pieces(checkpoint, job, _hessian(needs) * hessians)
        return self.fitting(pieces, len(job.tensors), sum(len(tensor.entries) for tensor in job.tensors), threads)

    def fitting(self, pieces: Iterable["Piece"], tensors: int, entries: int, threads: int | None) -> Crew:
        """The workers that go through ``pieces`` of a model of so many ``tensors`` and stored ``entries``.

        Raises LimitError as `crew` does.
        """
        if self.limit is None:
            return Crew.of(threads)
        pieces, known = set(pieces), tensors * _TENSOR + entries * _ENTRY
        largest = max(pieces, key=lambda piece: piece.nbytes(SMALLEST_BAND))
        worker = _WORKER + self.writing
        least = known + worker + largest.nbytes(SMALLEST_BAND)
        self.require(least, f"the job, with one worker at {largest.name},", largest.instead)
        room, wanted = self.left(known), threads or threads_available()
        sizes = [BAND_BYTES >> halved for halved in range((BAND_BYTES // SMALLEST_BAND).bit_length())]
        for size, count in sorted(((size, count) for size in sizes for count in range(1, wanted + 1)), key=_worth):
            if count * (max(piece.nbytes(size) for piece in pieces) + worker) <= room:
                return Crew(count, size)
        return Crew(1, SMALLEST_BAND)


def worker(checkpoint: Checkpoint, job: Plan, needs: Needs, *, hessians: bool) -> int:
    """Bytes that a worker with bands of the usual size takes."""
    return max(piece.nbytes(BAND_BYTES) for piece in _pieces(checkpoint, job, _hessian(needs) * hessians)) + _WORKER


def _hessian(needs: Needs) -> int:
    """Bytes a number of a Hessian, which is read with the other statistics, that an algorithm takes."""
    return _FACTORISED if needs == "hessian" else _READ


def _worth(crew: tuple[int, int]) -> tuple[bool, int, int]:
    """The best first: large enough bands, then workers, then larger bands."""
    size, count = crew
    return size < MIB, -count, -size


@dataclass(frozen=True, slots=True)
class Piece:
    """What a worker holds at once: rows of a tensor and what is made of them, and ``fixed`` bytes besides."""

    name: str = field(compare=False)
    rows: int
    stored: int  # bytes of a row as it is read
    made: int  # bytes of what is made of a row
    multiple: int
    fixed: int
    instead: str = field(default="", compare=False)

    def nbytes(self, band_bytes: int) -> int:
        """With bands of so many bytes."""
        rows = min(band_rows(self.stored, band_bytes, self.multiple), self.rows)
        return int(_FRAGMENTS * (rows * (self.stored + self.made) + self.fixed))


def _pieces(checkpoint: Checkpoint, job: Plan, hessian: int) -> Iterator[Piece]:
    """What the tensors of ``job`` take one by one; ``hessian`` bytes a number of the Hessian of a layer's inputs."""
    folded = bool(job.recipe.transforms)
    for tensor in job.tensors:
        info = tensor.source
        strips = strip_bytes(tensor.entries) if job.layout.strips else 0
        squares = 0 if tensor.scheme is None else hessian * info.columns**2
        yield Piece(
            info.name,
            info.rows,
            4 * info.columns if folded else info.row_bytes,
            info.columns * _made(checkpoint, tensor, folded=folded),
            multiple(info),
            held(checkpoint, info.name) + strips + squares,
            "--algorithm rtn, which needs no Hessian" if squares else "",
        )
    if folded:
        quantized = sorted(job.quantized, key=lambda tensor: tensor.group)
        for group, members in groupby(quantized, key=lambda tensor: tensor.group):
            tensors = [tensor.source for tensor in members]
            weights = sum(tensor.rows * tensor.columns for tensor in tensors)
            squares = hessian * len(tensors) * tensors[0].columns ** 2
            yield Piece(group, 1, 0, 0, 1, _WHOLE * weights + squares, "--transform none")


def _made(checkpoint: Checkpoint, tensor: TensorPlan, *, folded: bool) -> int:
    """Bytes of what is made of each weight of ``tensor``."""
    decoded = _DECODED * (checkpoint.stored(tensor.source.name)[0] != tensor.source.dtype)
    made = _COPY if tensor.scheme is None else of_weights(tensor.scheme.weight)
    return made + decoded + _FOLDED * folded


def of_weights(block: Block) -> int:
    """Bytes a weight that quantizing it to ``block``, packing, and measuring the loss take beside the weight."""
    if native.quantizes(block) and not block.minimum:
        return _KERNEL
    return _CAST if block.scale is None and block.element_format.bits == 16 else _REFERENCE


def held(checkpoint: Checkpoint, name: str) -> int:
    """Bytes that a worker which reads ``name`` holds beside its band."""
    reading = held_reading(checkpoint.path)
    match checkpoint:
        case UnpackedExperts():
            return reading + checkpoint.matrix_bytes(name)
        case Dequantized() if checkpoint.layout.strips and name in checkpoint.weights:
            return reading + strip_bytes(
                checkpoint.checkpoint.tensors[entry] for entry in checkpoint.weights[name].entries
            )
    return reading


def strip_bytes(entries: Iterable[TensorInfo]) -> int:
    """Bytes of the strips, one of each of ``entries``, through which a turned matrix goes."""
    return sum(min(STRIP_BYTES, entry.nbytes) for entry in entries)


def whole_model(checkpoint: Checkpoint) -> int:
    """Bytes of all weights in float32."""
    return sum(4 * info.rows * info.columns for info in checkpoint.tensors.values() if info.dtype in FLOATS)


def largest_group(job: Plan) -> int:
    """Bytes that trying out schemes on a whole fused group takes."""
    groups: dict[str, int] = {}
    for tensor in job.quantized:
        weights = tensor.source.rows * tensor.source.columns
        groups[tensor.group] = groups.get(tensor.group, 0) + _WHOLE * weights
    return max(groups.values(), default=0)


def resident() -> int:
    """Bytes of memory that this process holds now; where the system does not say, the most that it has held."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:
        return peak()
    return pages * os.sysconf("SC_PAGESIZE")


def peak() -> int:
    """The most bytes of memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _mib(nbytes: int) -> str:
    return f"{-(-nbytes // MIB)}MiB"
