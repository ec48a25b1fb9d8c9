"""From any checkpoint that halve opens to a model in float32 that runs."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve import formats, layouts
from halve.checkpoint.base import FLOATS, Checkpoint, TensorInfo, read_array
from halve.checkpoint.experts import UnpackedExperts
from halve.checkpoint.place import Place
from halve.checkpoint.source import open_checkpoint
from halve.codecs import dispatch
from halve.codecs.reference import code_dtype
from halve.errors import CheckpointError, UnsupportedError
from halve.layouts.base import Layout, Stored
from halve.models import arch, families
from halve.models.decoder import EMBEDDING
from halve.models.geometry import Parameter
from halve.runtime.linear import Array
from halve.runtime.model import Model
from halve.runtime.transformer import Transformer
from halve.schemes.quantize import dequantize

BAND_ROWS = 128  # bands start at multiples of it, as `Layout.read` wants
_BAND_ELEMENTS = 1 << 20

_AGAIN = "the checkpoint is incomplete or its config.json is not its own: fetch or quantize it again"
_UNUSED = ("rotary_emb.inv_freq", ".k_scale", ".v_scale", ".input_scale", ".input_global_scale", ".output_scale")


def load(path: str | Place, *, threads: int | None = None) -> Model:
    """Open a folder, a ``.gguf`` file or ``org/name[@revision]``, dense or quantized, and dequantize it to float32.

    Raises UnsupportedError for an architecture, activation or rope scaling that no family knows; CheckpointError for
    tensors that are missing, of another shape than config.json says, or of a type that is not a number's. The tokenizer
    is read when text is first asked for.
    """
    checkpoint = open_checkpoint(path)
    try:
        return Loader(checkpoint).model(threads)
    finally:
        checkpoint.close()


class Loader:
    """Fills models from an open checkpoint, dense or quantized: a whole one, or one decoder layer after the other.

    Raises as `load` does, before any weight is read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.config
        _check_known(config)
        stacks = arch.of(config).stacks(checkpoint.tensors)
        self.checkpoint = checkpoint = UnpackedExperts(checkpoint, stacks) if stacks else checkpoint
        self.layout: Layout = layouts.detect(checkpoint)
        # A GGUF file is presented dequantized, and is read so.
        self.stored: dict[str, Stored] = {} if checkpoint.quantization is None else self.layout.open(checkpoint)

        layers = config.get("num_hidden_layers")
        if isinstance(layers, int) and layers > len(checkpoint.tensors):
            raise CheckpointError(
                f"{checkpoint.path}: config.json says {layers} layers, and there are {len(checkpoint.tensors)} tensors",
                hint=_AGAIN,
            )
        self._check(families.geometry(config, name=str(checkpoint.path)).each_parameter())
        self.decoder = families.decoder(config, name=str(checkpoint.path))

    def model(self, threads: int | None = None) -> Model:
        """The whole model."""
        return self._filled(Transformer(self.checkpoint.path, self.checkpoint.config, self.decoder), threads)

    def layer(self, index: int, threads: int | None = None) -> Model:
        """Decoder layer ``index`` alone."""
        return self._filled(Transformer(self.checkpoint.path, self.checkpoint.config, self.decoder, index), threads)

    def embed(self, tokens: NDArray[np.int64]) -> Array:
        """Hidden states [T, hidden] of ``tokens`` before the first layer; reads the rows of these tokens only."""
        name = f"{EMBEDDING}.weight"
        info = self.checkpoint.tensors[name]
        used, places = np.unique(tokens, return_inverse=True)
        rows = np.empty((len(used), *info.shape[1:]), np.float32)
        for row, token in zip(rows, used.tolist(), strict=True):
            row[:] = _floats(read_array(self.checkpoint, name, token, token + 1), info)[0]
        if self.decoder.embedding_scale != 1:
            rows *= np.float32(self.decoder.embedding_scale)
        return rows[places]

    def _filled(self, model: Model, threads: int | None) -> Model:
        with ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="halve") as pool:
            for _ in pool.map(self._fill, model.parameters.keys(), model.parameters.values()):
                pass  # raises what a thread raised
        return model

    def _check(self, parameters: Iterable[Parameter]) -> None:
        """Compare what config.json describes with what there is, before any weight is read."""
        tensors = self.checkpoint.tensors
        wanted = set()
        for parameter in parameters:
            name, shape = parameter.name, parameter.shape
            wanted.add(name)
            found = self.stored.get(name) or tensors.get(name)
            if found is None:
                raise CheckpointError(f"{self.checkpoint.path}: tensor {name} is missing", hint=_AGAIN)
            if found.shape != shape:
                raise CheckpointError(
                    f"{self.checkpoint.path}: {name} has shape {list(found.shape)}, config.json says {list(shape)}",
                    hint=_AGAIN,
                )
            if isinstance(found, TensorInfo) and found.dtype not in FLOATS:
                raise CheckpointError(
                    f"{self.checkpoint.path}: {name} is {found.dtype}, and config.json does not say how to read it",
                    hint=f"weights are {', '.join(FLOATS)}, or quantized in one of: {', '.join(layouts.layouts())}",
                )
        owned = {entry for stored in self.stored.values() for entry in stored.entries}
        for name in tensors.keys() - wanted - owned:
            if name.startswith("model.") and not name.endswith(_UNUSED):
                raise CheckpointError(
                    f"{self.checkpoint.path}: {name} has no place in the model that config.json describes", hint=_AGAIN
                )

    def _fill(self, name: str, out: Array) -> None:
        stored = self.stored.get(name)
        step = max(_BAND_ELEMENTS // max(out[:1].size, 1) // BAND_ROWS, 1) * BAND_ROWS
        for start in range(0, len(out), step):
            stop = min(start + step, len(out))
            if stored is None:
                out[start:stop] = _floats(read_array(self.checkpoint, name, start, stop), self.checkpoint.tensors[name])
            else:
                out[start:stop] = dequantize(self.layout.read(self.checkpoint, stored, start, stop))


def _floats(array: NDArray[Any], info: TensorInfo) -> Array:
    if array.dtype == np.float32:
        return array
    stored_format = formats.get(FLOATS[info.dtype])
    return dispatch.decode(stored_format, array.view(code_dtype(stored_format)))


def _check_known(config: dict[str, Any]) -> None:
    known = families.families()
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        architectures = config.get("architectures")
        name = architectures[0] if isinstance(architectures, list) and architectures else model_type
        raise UnsupportedError(f"run and eval do not know {name} (quantize does); known: {', '.join(known)}")
