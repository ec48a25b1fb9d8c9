"""From any checkpoint that halve opens to a packed model."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from halve.checkpoint.base import FLOATS, read_array
from halve.checkpoint.place import Place
from halve.checkpoint.source import open_checkpoint
from halve.codecs import dispatch
from halve.codecs.reference import Codes, code_dtype
from halve.errors import CheckpointError, FormatError, UnsupportedError
from halve.layouts.base import kv_scales
from halve.models import families
from halve.runtime.load import BAND_ROWS, Loader
from halve.runtime.load import load as load_reference
from halve.runtime.model import Model
from halve.runtime.packed import kernels
from halve.runtime.packed.arena import Arena
from halve.runtime.packed.cache import Kv
from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.layer import Array
from halve.runtime.packed.model import PackedModel, check
from halve.runtime.packed.weight import Weight
from halve.schemes.qtensor import QTensor
from halve.schemes.table import Block

_BAND_ELEMENTS = 1 << 20
_MULTIPLIED = frozenset(("linear", "router", "embedding", "head"))  # what is packed; biases of experts are 2-D, too
_LAYER = re.compile(r"\.layers\.(\d+)\.")


def load(path: str | Place, *, mode: Mode = "bf16", kv: Kv = "fp16", threads: int | None = None) -> PackedModel:
    """Open a folder, a ``.gguf`` file or ``org/name[@revision]``, and pack its weights as they are stored.

    ``mode`` is in what activations are multiplied, ``kv`` in what keys and values are stored (in FP8 under the scales
    that the checkpoint has for them, or 1), ``threads`` how many threads compute (None: one for each core).

    Raises what `halve.load` raises, and UnsupportedError where there is no native module, for more threads than cores
    and for models that native code cannot compute.
    """
    pool = kernels.pool(threads)
    checkpoint = open_checkpoint(path)
    try:
        packer = _Packer(Loader(checkpoint))
        packer.read(pool.threads)
        return PackedModel(
            checkpoint.path,
            checkpoint.config,
            packer.decoder,
            weights=packer.weights,
            vectors=packer.vectors,
            pool=pool,
            mode=mode,
            kv=kv,
            kv_scales=_by_layer(kv_scales(checkpoint)) if kv == "fp8" else {},
        )
    finally:
        checkpoint.close()


def load_quickest(
    path: str | Place, *, mode: Mode = "bf16", kv: Kv = "fp16", threads: int | None = None
) -> PackedModel | Model:
    """`load` where native code can compute the model, else the reference path, `halve.load`, with its FP32 cache."""
    if kernels.native is None:
        return load_reference(path, threads=threads)
    checkpoint = open_checkpoint(path)
    try:
        check(families.decoder(checkpoint.config, name=str(path)))
    except UnsupportedError:
        return load_reference(path, threads=threads)
    finally:
        checkpoint.close()
    return load(path, mode=mode, kv=kv, threads=threads)


def _by_layer(scales: Mapping[str, tuple[float, float]]) -> dict[int, tuple[float, float]]:
    """By the number of the layer instead of its attention module."""
    return {int(match[1]): pair for module, pair in scales.items() if (match := _LAYER.search(module))}


class _Packer:
    """Reads every tensor of a checkpoint: matrices in bands of rows, packed as they come, into one arena."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._checkpoint = loader.checkpoint
        self.decoder = loader.decoder
        check(self.decoder)
        geometry = self.decoder.geometry
        matrices: dict[str, tuple[int, int]] = {}
        self.vectors: dict[str, Array] = {}
        for parameter in geometry.parameters:
            if parameter.kind in _MULTIPLIED:
                rows, columns = parameter.shape
                matrices[parameter.name] = rows, columns
            else:
                self.vectors[parameter.name] = np.empty(0, np.float32)
        blocks = {name: self._block(name) for name in matrices}
        arena = Arena(sum(Weight.nbytes(blocks[name], *shape) for name, shape in matrices.items()))
        self.weights = {name: Weight(blocks[name], *shape, arena) for name, shape in matrices.items()}

    def read(self, threads: int) -> None:
        """Fill weights and vectors, the largest first."""
        for name in self.vectors:
            self.vectors[name] = self._vector(name)
        names = sorted(self.weights, key=lambda name: -self.weights[name].rows * self.weights[name].columns)
        with ThreadPoolExecutor(min(threads, os.cpu_count() or 1), thread_name_prefix="halve") as pool:
            for _ in pool.map(self._fill, names):
                pass  # raises what a thread raised

    def _block(self, name: str) -> Block:
        stored = self._loader.stored.get(name)
        if stored is not None:
            return stored.block
        return Block(element=FLOATS[self._checkpoint.tensors[name].dtype], scale=None)

    def _vector(self, name: str) -> Array:
        info = self._checkpoint.tensors[name]
        fmt = Block(element=FLOATS[info.dtype], scale=None).element_format
        bits = read_array(self._checkpoint, name, 0, info.shape[0]).view(code_dtype(fmt))
        return dispatch.plain(dispatch.decode(fmt, bits))

    def _fill(self, name: str) -> None:
        weight = self.weights[name]
        step = max(_BAND_ELEMENTS // weight.columns // BAND_ROWS, 1) * BAND_ROWS
        try:
            for start in range(0, weight.rows, step):
                weight.fill(start, self._band(name, start, min(start + step, weight.rows)))
        except FormatError as error:
            raise CheckpointError(f"{self._checkpoint.path}: {name}: {error}", hint=error.hint) from None

    def _band(self, name: str, start: int, stop: int) -> QTensor:
        stored = self._loader.stored.get(name)
        if stored is not None:
            return self._loader.layout.read(self._checkpoint, stored, start, stop)
        block = self.weights[name].block
        bits: Codes = read_array(self._checkpoint, name, start, stop).view(code_dtype(block.element_format))
        return QTensor(block, bits, np.empty((stop - start, 0), np.float32))
