"""Models on calibration inputs, by ONNX Runtime."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, helper

from halve.errors import CheckpointError, UnsupportedError

Sample = Mapping[str, NDArray[np.generic]]


class Session:
    """``proto`` ready to run; ``also`` are activations that become outputs behind those of the graph."""

    def __init__(self, proto: ModelProto, also: Sequence[str] = (), *, exact: bool = False, threads: int = 0) -> None:
        tapped = proto
        if also:
            tapped = ModelProto()
            tapped.CopyFrom(proto)
            there = {one.name for one in tapped.graph.output}
            tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in also if name not in there)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # models are small, machines shared
        # otherwise a MatMul with INT8 weights alone has its activations rounded to INT8, too
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if exact:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(
                tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - the library's own exceptions share no class
            raise CheckpointError(f"ONNX Runtime does not load the model: {error}", hint="it may be too new") from None

    def run(self, sample: Sample, names: Sequence[str]) -> list[NDArray[np.float32]]:
        """The values of ``names``. Raises UnsupportedError for inputs that do not fit the model."""
        try:
            found: list[NDArray[np.float32]] = self._session.run(list(names), dict(sample))
        except Exception as error:  # noqa: BLE001 - as above
            raise UnsupportedError(
                f"the model does not take a calibration input: {error}",
                hint="its shape, type or normalization is another than the model's: see --size, --mean, --std",
            ) from None
        return found


def compared(
    reference: Sequence[Sequence[NDArray[np.float32]]], found: Iterable[Sequence[NDArray[np.float32]]]
) -> float:
    """Signal over error in dB: energies are summed over samples, and outputs count alike."""
    energies = np.sum([energies_of(one, other) for one, other in zip(reference, found, strict=True)], axis=0)
    return float(decibels(energies).mean())


def decibels(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """10 log10 of energies of signals over those of errors, [n, 2]; no more than 300."""
    signal, noise = np.maximum(energies.T, np.finfo(np.float64).tiny)
    ratios: NDArray[np.float64] = 10 * np.log10(signal / np.maximum(noise, 1e-30 * signal))
    return ratios


def energies_of(exact: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Of each output the energy of what it should be, and of what it is off by, [outputs, 2]."""
    wide = [(a.astype(np.float64), b) for a, b in zip(exact, found, strict=True)]
    return np.array([(np.square(a).sum(), np.square(a - b).sum()) for a, b in wide])
