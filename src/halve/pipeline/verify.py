"""Prove a checkpoint whole, in range, and as near to its source as its scheme promises."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from html import escape
from math import isfinite
from statistics import fmean
from threading import Event, Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halve import layouts, schemes
from halve.checkpoint import manifest
from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo
from halve.checkpoint.place import Place, place, sha256
from halve.checkpoint.safetensors import read_header
from halve.checkpoint.source import open_checkpoint
from halve.codecs.reference import value_table
from halve.errors import CheckpointError, HalveError
from halve.evaluate.sqnr import Sqnr
from halve.layouts.base import Layout, Stored, is_kv_scale, owners
from halve.pipeline.bands import multiple
from halve.pipeline.experts import unpacked_as
from halve.pipeline.loss import TensorLoss
from halve.pipeline.memory import Memory, Piece, held, strip_bytes
from halve.pipeline.progress import Meter, ProgressCallback
from halve.pipeline.workers import BAND_ROWS, Buffers, Cancelled, Crew, bands
from halve.schemes import Scheme
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import dequantize

_CHECKED = 24  # bytes of what is made of a weight, and of its source, to compare them


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What `verify` found; healthy where ``problems`` is empty."""

    path: Place
    scheme: str
    layout: str
    tensors: int
    bytes: int
    bpw: float
    hashed: bool  # whether a manifest gave hashes to compare with
    losses: tuple[TensorLoss, ...]  # against the source, where one was given; in checkpoint order
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def mean_sqnr_db(self) -> float | None:
        """Mean over quantized tensors; None without a source, or where nothing was lost."""
        finite = [loss.sqnr_db for loss in self.losses if isfinite(loss.sqnr_db)]
        return fmean(finite) if finite else None

    @property
    def worst(self) -> TensorLoss | None:
        """The tensor that lost most."""
        return min(self.losses, key=lambda loss: loss.sqnr_db, default=None)

    @property
    def summary(self) -> str:
        """Hashes and loss, in a line."""
        hashes = "hashes compared" if self.hashed else "no halve.json, so no hashes to compare with"
        if self.mean_sqnr_db is None or self.worst is None:
            return hashes
        return f"{hashes}; SQNR mean {self.mean_sqnr_db:.2f} dB, worst {self.worst.sqnr_db:.2f} dB ({self.worst.name})"

    columns: ClassVar[tuple[str, ...]] = ("tensor", "SQNR dB")

    def rows(self) -> Iterator[tuple[str, str]]:
        """The cells of `columns`: the loss of each tensor, the worst first."""
        for loss in sorted(self.losses, key=lambda loss: loss.sqnr_db):
            yield loss.name, f"{loss.sqnr_db:.2f}"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values; an infinite SQNR (nothing lost) is null."""
        worst = self.worst
        return {
            "path": str(self.path),
            "ok": self.ok,
            "scheme": self.scheme,
            "layout": self.layout,
            "tensors": self.tensors,
            "bytes": self.bytes,
            "bpw": round(self.bpw, 4),
            "hashed": self.hashed,
            "mean_sqnr_db": self.mean_sqnr_db,
            "worst": None if worst is None else {"name": worst.name, "sqnr_db": _finite(worst.sqnr_db)},
            "losses": [{"name": loss.name, "sqnr_db": _finite(loss.sqnr_db)} for loss in self.losses],
            "problems": [{"where": p.where, "what": p.what} for p in self.problems],
        }

    def _repr_html_(self) -> str:
        found = "<br>".join(escape(f"{p.where}: {p.what}") for p in self.problems) or "whole and in range"
        head = f"{escape(str(self.path))}: {self.scheme}, {self.bytes / 1e6:.1f} MB, {escape(self.summary)}"
        return f"<p><b>{head}</b><br>{found}</p>"


def _finite(db: float) -> float | None:
    return db if isfinite(db) else None


def verify(
    path: str | Place,
    *,
    against: str | Place | None = None,
    threads: int | None = None,
    memory: int | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyResult:
    """Check the checkpoint folder ``path``; with ``against`` also compare every tensor with the source it came from.

    Checked: sizes and hashes of all files and tensors (where halve.json is there), that config and tensors agree, that
    every scale is finite, not zero and representable and every code a number, that kept tensors are finite; against a
    source: that names match, kept tensors are equal bit for bit, and each quantized tensor's SQNR is above the scheme's
    floor. What is wrong is listed in the result, not raised.

    Both may be URLs. ``memory`` is the most bytes that the whole process takes.

    Raises CheckpointError where the folder, or the source, cannot be opened as a checkpoint at all, LimitError where
    ``memory`` is too little.
    """
    folder = place(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {what}", hint="give the folder of a checkpoint")
    with closing(open_checkpoint(folder)) as checkpoint:
        if against is None:
            return _Verification(folder, checkpoint, None, threads, Memory(memory), progress).result()
        with closing(open_checkpoint(against)) as source:
            return _Verification(folder, checkpoint, source, threads, Memory(memory), progress).result()


@dataclass(slots=True)
class _Verification:
    folder: Place
    checkpoint: Checkpoint
    source: Checkpoint | None
    threads: int | None
    memory: Memory
    progress: ProgressCallback | None
    crew: Crew = field(init=False)
    buffers: Buffers = field(init=False)
    problems: list[Problem] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def result(self) -> VerifyResult:
        checkpoint = self.checkpoint
        written = self._manifest()
        layout = layouts.detect(checkpoint)
        try:
            stored = layout.open(checkpoint)
        except CheckpointError as error:
            self._problem("config.json", str(error))
            stored = {}
        owned = owners(stored.values())
        kept = [info for name, info in checkpoint.tensors.items() if name not in owned]
        scheme = schemes.SCHEMES.get(written.scheme.get("name", "")) if written else None
        if self.source is not None:
            self.source = unpacked_as(self.source, {info.name for info in kept})
            self._names(stored, kept)
        self.crew = self.memory.fitting(
            self._pieces(layout, [*stored.values()], kept), len(checkpoint.tensors), 0, self.threads
        )
        self.buffers = self.crew.buffers()
        meter = Meter(sum(info.nbytes for info in checkpoint.tensors.values()), self.progress)

        def check(job: Stored | TensorInfo, stop: Event) -> TensorLoss | None:
            if isinstance(job, Stored):
                loss = self._quantized(layout, job, stop)
                names = tuple(entry for entry in job.entries if owned[entry][0] is job)  # experts share theirs
            else:
                loss = self._kept(job, written, scheme, stop)
                names = (job.name,)
            for name in names:
                self._hash(written, name, stop)
                meter.add(checkpoint.tensors[name].nbytes, name)
            return loss

        jobs: list[Stored | TensorInfo] = [*stored.values(), *kept]
        losses = [loss for loss in self.crew.run(check, jobs) if loss]
        weights = sum(weight.shape[0] * weight.shape[1] for weight in stored.values())
        quantized_bytes = sum(checkpoint.tensors[name].nbytes for name in owned)
        return VerifyResult(
            path=self.folder,
            scheme=scheme.name if scheme else "",
            layout=layout.name,
            tensors=len(checkpoint.tensors),
            bytes=sum(file.stat().st_size for file in checkpoint.files),
            bpw=8 * quantized_bytes / weights if weights else scheme.bpw if scheme else 0.0,
            hashed=written is not None,
            losses=tuple(losses),
            problems=tuple(sorted(self.problems, key=lambda p: p.where)),
        )

    def _pieces(self, layout: Layout, stored: list[Stored], kept: list[TensorInfo]) -> Iterator[Piece]:
        """What the tensors take one by one."""
        source = {} if self.source is None else self.source.tensors
        for weight in stored:
            rows, columns = weight.shape
            strips = strip_bytes(self.checkpoint.tensors[name] for name in weight.entries) if layout.strips else 0
            beside = held(self.source, weight.name) if self.source and weight.name in source else 0
            yield Piece(weight.name, rows, 2 * columns, _CHECKED * columns, BAND_ROWS, strips + beside)
        for info in kept:
            yield Piece(info.name, info.rows, info.row_bytes, _CHECKED * info.columns, multiple(info), 0)

    def _problem(self, where: str, what: str) -> None:
        with self.lock:
            self.problems.append(Problem(where, what))

    def _manifest(self) -> manifest.Manifest | None:
        folder = self.folder
        try:
            written = manifest.read(folder)
        except CheckpointError as error:
            self._problem(manifest.NAME, str(error))
            return None
        if written is None:
            return None
        for name, facts in written.files.items():
            file = folder / name
            if not file.is_file():
                self._problem(name, "the file is missing")
            elif file.stat().st_size != facts.get("bytes"):
                self._problem(name, f"{file.stat().st_size} bytes, {facts.get('bytes')} were written")
            elif "header_sha256" in facts:
                header = sha256(file, read_header(file).data_start)
                self._same(name, "the header has", header, facts["header_sha256"])
            else:
                self._same(name, "the file has", sha256(file, facts["bytes"]), facts.get("sha256"))
        for file in folder.iterdir():
            if file.suffix == ".safetensors" and file.name not in written.files:
                self._problem(file.name, f"a weight file that {manifest.NAME} does not list")
        for name in written.tensors.keys() ^ self.checkpoint.tensors.keys() if written.tensors else ():
            self._problem(name, "missing" if name in written.tensors else f"not listed in {manifest.NAME}")
        return written

    def _same(self, where: str, what: str, found: str, expected: object) -> None:
        if found != expected:
            self._problem(
                where, f"{what} been changed: its sha256 is {found[:16]}..., {str(expected)[:16]}... was written"
            )

    def _hash(self, written: manifest.Manifest | None, name: str, stop: Event) -> None:
        if written is None or name not in written.tensors:
            return
        digest = hashlib.sha256()
        for _, _, data in self._read(self.checkpoint, self.checkpoint.tensors[name], stop):
            digest.update(data)
        self._same(name, "the tensor has", digest.hexdigest(), written.tensors[name].get("sha256"))

    def _read(self, checkpoint: Checkpoint, info: TensorInfo, stop: Event) -> Iterable[tuple[int, int, memoryview]]:
        for start, end in bands(info.rows, info.row_bytes, self.crew.band_bytes, multiple(info)):
            if stop.is_set():
                raise Cancelled
            yield start, end, checkpoint.read(info.name, start, end, self.buffers.get((end - start) * info.row_bytes))

    def _names(self, stored: dict[str, Stored], kept: list[TensorInfo]) -> None:
        assert self.source is not None  # noqa: S101 - the caller has checked
        added = {info.name for info in kept if is_kv_scale(info.name)} - self.source.tensors.keys()
        for name in ({*stored} | {info.name for info in kept}) ^ self.source.tensors.keys() ^ added:
            place = "the source" if name in self.source.tensors else "the checkpoint"
            self._problem(name, f"only in {place}")

    def _quantized(self, layout: Layout, weight: Stored, stop: Event) -> TensorLoss | None:
        origin = None if self.source is None else self.source.tensors.get(weight.name)
        if origin is not None and origin.shape != weight.shape:
            self._problem(weight.name, f"shape {list(weight.shape)}, the source has {list(origin.shape)}")
            origin = None
        sqnr = Sqnr()
        for start, end in bands(weight.shape[0], weight.shape[1] * 2, self.crew.band_bytes):
            if stop.is_set():
                raise Cancelled
            try:
                q = layout.read(self.checkpoint, weight, start, end)
            except HalveError as error:
                self._problem(weight.name, str(error))
                return None
            if damage := _damage(q):
                self._problem(weight.name, f"{damage} (rows {start} to {end - 1})")
                return None
            if origin is not None:
                sqnr.add(self._source_band(origin, start, end), dequantize(q))
        return None if origin is None else self._loss(weight.name, sqnr, weight.scheme)

    def _kept(
        self, info: TensorInfo, written: manifest.Manifest | None, scheme: Scheme | None, stop: Event
    ) -> TensorLoss | None:
        origin = None if self.source is None else self.source.tensors.get(info.name)
        if origin is not None and origin.shape != info.shape:
            self._problem(info.name, f"shape {list(info.shape)}, the source has {list(origin.shape)}")
            origin = None
        known = written is not None and info.name in written.not_finite
        sqnr = Sqnr()
        for start, end, data in self._read(self.checkpoint, info, stop):
            band = np.frombuffer(data, DTYPES[info.dtype])
            if info.dtype in FLOATS and not known and not np.isfinite(band.astype(np.float32)).all():
                self._problem(info.name, f"NaN or Inf in rows {start} to {end - 1}")
                return None
            if origin is None:
                continue
            before = self._source_band(origin, start, end)
            if origin.dtype != info.dtype:
                sqnr.add(before, band.astype(np.float32))
            elif before.tobytes() != data:
                self._problem(info.name, f"rows {start} to {end - 1} differ from the source, of which they are a copy")
                return None
        return self._loss(info.name, sqnr, scheme) if origin is not None and origin.dtype != info.dtype else None

    def _loss(self, name: str, sqnr: Sqnr, scheme: Scheme | None) -> TensorLoss:
        if scheme and sqnr.db < scheme.floor_db:
            self._problem(name, f"SQNR {sqnr.db:.1f} dB is below {scheme.name}'s floor of {scheme.floor_db:g} dB")
        return TensorLoss(name, sqnr.db)

    def _source_band(self, origin: TensorInfo, start: int, end: int) -> NDArray[Any]:
        assert self.source is not None  # noqa: S101 - an origin comes from it
        data = np.empty((end - start) * origin.row_bytes, np.uint8)
        return np.frombuffer(self.source.read(origin.name, start, end, data.data), DTYPES[origin.dtype])


def _damage(q: QTensor) -> str:
    """What is wrong with a band by itself: scales that are not finite or zero, codes that are no numbers."""
    if not np.isfinite(q.scales).all():
        return "a block scale is NaN or Inf"
    if q.block.scale is not None and (q.scales == 0).any():
        return "a block scale is zero"
    if q.block.tensor_scale and not (q.tensor_scale and isfinite(q.tensor_scale)):
        return f"the tensor scale is {q.tensor_scale}"
    table = value_table(q.block.element_format)
    if not np.isfinite(table).all() and not np.isfinite(table[q.codes]).all():
        return "a code is NaN or Inf"
    return ""
