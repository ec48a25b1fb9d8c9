"""Numbers to calculate with: drawn from a distribution, or out of the user's own tensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.checkpoint.base import FLOATS, Checkpoint
from halve.checkpoint.source import open_checkpoint
from halve.codecs import reference
from halve.errors import CheckpointError, FormatError

COLUMNS = 4096
COUNT = 32 * COLUMNS
_SEED = 20140210  # of the talk that began these comparisons (Horowitz, ISSCC 2014)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Numbers of unit variance, [rows, `COLUMNS`], and where they are from."""

    name: str
    values: NDArray[np.float64]


def load(source: str | Path) -> Samples:
    """`COUNT` numbers of a distribution, of a ``.npy`` file or of the matrices of a checkpoint.

    ``gaussian`` is the normal distribution, ``heavy`` Student's t with 4 degrees of freedom.
    Raises CheckpointError for what cannot be read, FormatError for tensors with too few, constant or infinite numbers.
    """
    rng = np.random.default_rng(_SEED)
    match str(source):
        case "gaussian":
            values = rng.standard_normal(COUNT)
        case "heavy":
            values = rng.standard_t(4, COUNT)
        case name:
            values = _array(Path(name)) if name.endswith(".npy") else _tensors(name)
    if values.size < COLUMNS:
        raise FormatError(f"{source}: {values.size} numbers are too few", hint=f"{COLUMNS} or more say something")
    values = values[: values.size - values.size % COLUMNS]
    if not (np.isfinite(values).all() and values.std() > 0):
        raise FormatError(f"{source}: NaN, Inf or all numbers equal", hint="choose another tensor")
    return Samples(str(source), (values / values.std()).reshape(-1, COLUMNS))


def _array(path: Path) -> NDArray[np.float64]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}", hint="numpy.save writes such a file") from None
    if array.dtype.kind not in "fiu":
        raise CheckpointError(f"{path}: {array.dtype} is no real number", hint="save floats or integers")
    return np.asarray(array.reshape(-1)[:COUNT], np.float64)


def _tensors(source: str) -> NDArray[np.float64]:
    """The first rows of every matrix, equally many numbers of each."""
    checkpoint = open_checkpoint(source)
    try:
        found = [t for t in checkpoint.tensors.values() if len(t.shape) == 2 and t.dtype in FLOATS and t.columns]
        if not found:
            raise CheckpointError(
                f"{source}: no matrix of plain numbers", hint="take a checkpoint in FP32, BF16 or FP16"
            )
        share = -(-COUNT // len(found))
        pieces = [_first_rows(checkpoint, t.name, min(t.rows, -(-share // t.columns)))[:share] for t in found]
    finally:
        checkpoint.close()
    return np.concatenate(pieces)[:COUNT].astype(np.float64)


def _first_rows(checkpoint: Checkpoint, name: str, rows: int) -> NDArray[np.float32]:
    info = checkpoint.tensors[name]
    read = checkpoint.read(name, 0, rows, memoryview(bytearray(rows * info.row_bytes)))
    fmt = formats.get(FLOATS[info.dtype])
    return reference.decode(fmt, np.frombuffer(read, reference.code_dtype(fmt)))
