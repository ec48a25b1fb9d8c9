# The native module (native/module.cpp). Arrays are C-contiguous: nothing is converted or allocated on the way in.
# Weights are float32, float16, or uint16 for the bits of bfloat16.

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

# A row of halve.formats as the kernels read it. `values` lists the numbers in code order, up to 8 bits.
@final
class Codec:
    @staticmethod
    def floating(
        *,
        bits: int,
        mantissa: int,
        min_exponent: int,
        largest: float,
        smallest: float,
        nan_code: int | None,
        is_signed: bool,
        has_zero: bool,
        has_negative_zero: bool,
        values: NDArray[np.float32],
    ) -> Codec: ...
    @staticmethod
    def integer(*, bits: int, lowest: float, largest: float, values: NDArray[np.float32]) -> Codec: ...
    # thresholds[i] is the smallest float32 that rounds to a code above i.
    @staticmethod
    def codebook(*, bits: int, thresholds: NDArray[np.float32], values: NDArray[np.float32]) -> Codec: ...

# The kernels of one instruction set. They fill the arrays they are given and hold no state: call from any thread.
@final
class Kernels:
    @property
    def isa(self) -> str: ...
    # The index of the first NaN that the format cannot hold, or None.
    def encode(self, codec: Codec, values: NDArray[np.float32], codes: NDArray[np.uint8]) -> int | None: ...
    # False where a code has more bits than the format.
    def decode(self, codec: Codec, codes: NDArray[np.uint8], values: NDArray[np.float32]) -> bool: ...
    def pack(self, bits: int, codes: NDArray[np.uint8], packed: NDArray[np.uint8]) -> None: ...
    def unpack(self, bits: int, packed: NDArray[np.uint8], codes: NDArray[np.uint8]) -> None: ...
    # The largest magnitude, Inf or NaN.
    def absmax(self, values: NDArray[np.float32 | np.float16 | np.uint16]) -> float: ...
    # False where a weight is NaN or Inf.
    def quantize(
        self,
        weights: NDArray[np.float32 | np.float16 | np.uint16],
        *,
        element: Codec,
        scale: Codec,
        tile: tuple[int, int],
        rule: str,
        tensor_scale: float | None,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float32],
        zeros: NDArray[np.uint8] | None,
    ) -> bool: ...
    # False where a code has more bits than the format.
    def dequantize(
        self,
        codes: NDArray[np.uint8],
        *,
        element: Codec,
        tile: tuple[int, int],
        scales: NDArray[np.float32],
        tensor_scale: float | None,
        zeros: NDArray[np.uint8] | None,
        mins: NDArray[np.float32] | None,
        values: NDArray[np.float32],
    ) -> bool: ...

    # Adds squares of `reference` to sums[0], of what `values` miss of it to sums[1]; number i to the sum i % 16.
    def energies(
        self,
        reference: NDArray[np.float32 | np.float16 | np.uint16],
        values: NDArray[np.float32],
        sums: NDArray[np.float64],
    ) -> None: ...

    # The scales that cost least (halve.algorithms.kernels.scales). False where a weight is NaN or Inf.
    def search_scales(
        self,
        weights: NDArray[np.float32 | np.float16 | np.uint16],
        *,
        element: Codec,
        scale: Codec,
        tile: tuple[int, int],
        rule: str,
        tensor_scale: float | None,
        importance: NDArray[np.float32],
        neighbours: tuple[int, int],
        divisors: NDArray[np.float32],
        zero_shifts: int,
        refinements: int,
        scales: NDArray[np.float32],
        zeros: NDArray[np.uint8] | None,
    ) -> bool: ...
    # The nearest codes under given scales.
    def assign_codes(
        self,
        weights: NDArray[np.float32 | np.float16 | np.uint16],
        *,
        element: Codec,
        tile: tuple[int, int],
        scales: NDArray[np.float32],
        tensor_scale: float | None,
        zeros: NDArray[np.uint8] | None,
        codes: NDArray[np.uint8],
    ) -> None: ...
    # False where the matrix is not positive definite. `work` is scratch memory: columns * factor_stride(columns).
    def factor(
        self,
        hessian: NDArray[np.float32],
        *,
        order: NDArray[np.uint32],
        damping: float,
        work: NDArray[np.float64],
        feedback: NDArray[np.float32],
        importance: NDArray[np.float32],
    ) -> bool: ...
    def factor_stride(self, columns: int) -> int: ...
    # `codes` come in and go out, as in `descend`; blocks are of `width` columns in one row.
    def feed_back(
        self,
        weights: NDArray[np.float32 | np.float16 | np.uint16],
        *,
        element: Codec,
        width: int,
        steps: NDArray[np.float32],
        zeros: NDArray[np.uint8] | None,
        order: NDArray[np.uint32],
        feedback: NDArray[np.float32],
        importance: NDArray[np.float32],
        codes: NDArray[np.uint8],
    ) -> None: ...
    # scale=None leaves the scales as they are.
    def descend(
        self,
        weights: NDArray[np.float32 | np.float16 | np.uint16],
        *,
        element: Codec,
        width: int,
        scale: Codec | None,
        tensor_scale: float | None,
        scales: NDArray[np.float32],
        zeros: NDArray[np.uint8] | None,
        hessian: NDArray[np.float32],
        damping: float,
        sweeps: int,
        codes: NDArray[np.uint8],
    ) -> None: ...

# Threads that share the work of one call; the caller is one of them. One call at a time.
@final
class Pool:
    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...

# A weight in lines of sixteen rows (native/packed.h); it keeps its arrays alive. `table` goes with coded elements.
@final
class PackedWeight:
    def __init__(
        self,
        *,
        element: str,
        scale: str,
        rows: int,
        columns: int,
        block: int,
        lines: NDArray[np.uint8],
        scales: NDArray[np.uint8],
        offsets: NDArray[np.float32] | None,
        table: NDArray[np.float32] | None,
        factor: float,
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...

# The kernels for packed weights of one instruction set.
@final
class PackedKernels:
    @property
    def isa(self) -> str: ...
    # Unpacked codes [rows, columns] into lines; `flip` is xored to every code.
    def interleave(
        self,
        codes: NDArray[np.uint8 | np.uint16 | np.uint32],
        *,
        padded: int,
        bits: int,
        flip: int,
        lines: NDArray[np.uint8],
    ) -> None: ...
    # outputs[i] [n, rows] = x [n, columns] weights[i]^T, activations in `mode`: exact, bf16, int8.
    def multiply(
        self,
        pool: Pool,
        weights: Sequence[PackedWeight],
        x: NDArray[np.float32],
        outputs: Sequence[NDArray[np.float32]],
        mode: str,
    ) -> None: ...
    # Reads `memory`, a multiple of 256 KiB, and forgets it.
    def read(self, pool: Pool, memory: NDArray[np.uint8]) -> None: ...

# One layer of a `Decoder`: linears and biases are those of q, k, v, o and gate, up, down; or q, k, v, o and the router,
# with those of gate, up, down of each expert in `experts` (where gate and up are in turns: of both together, and down).
# Window 0 looks back to the beginning.
@final
class DecoderLayer:
    def __init__(
        self,
        *,
        input_norm: NDArray[np.float32],
        mlp_norm: NDArray[np.float32],
        q_norm: NDArray[np.float32] | None,
        k_norm: NDArray[np.float32] | None,
        attention_norm: NDArray[np.float32] | None,
        output_norm: NDArray[np.float32] | None,
        sinks: NDArray[np.float32] | None,
        linears: Sequence[PackedWeight],
        biases: Sequence[NDArray[np.float32] | None],
        experts: Sequence[PackedWeight],
        expert_biases: Sequence[NDArray[np.float32] | None],
        rotation: int,
        window: int,
        key_scale: float,
        value_scale: float,
    ) -> None: ...

# A decoder (native/decoder.h). `head` may be the embedding; a cap of 0 is none; `gate` is silu, gelu_tanh or swigluoai,
# for which `gate_limit` is. `experts` is 0 where no layer has any. A rotation is frequencies, those of long texts where
# they differ, and a scale.
@final
class Decoder:
    def __init__(
        self,
        kernels: PackedKernels,
        *,
        mode: str,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        intermediate: int,
        vocabulary: int,
        eps: float,
        embedding_scale: float,
        attention_scale: float,
        attention_cap: float,
        logit_cap: float,
        gate: str,
        gate_limit: float,
        experts: int,
        experts_per_token: int,
        experts_normalized: bool,
        expert_intermediate: int,
        experts_in_turns: bool,
        rotations: Sequence[tuple[NDArray[np.float32], NDArray[np.float32] | None, float]],
        embedding: PackedWeight,
        layers: list[DecoderLayer],
        norm: NDArray[np.float32],
        head: PackedWeight,
    ) -> None: ...
    # The tokens at `position` and on; `logits` [n, vocabulary] are those of the last n of them. Keys and values are the
    # bits of halves or of E4M3, of [layers, kv_heads, positions, head_dim].
    def step(
        self,
        pool: Pool,
        tokens: NDArray[np.int64],
        *,
        position: int,
        in_long_text: bool,
        keys: NDArray[np.uint16] | NDArray[np.uint8],
        values: NDArray[np.uint16] | NDArray[np.uint8],
        logits: NDArray[np.float32],
    ) -> None: ...
    # A token of each of several sequences, at its position, with a cache of its own.
    def step_each(
        self,
        pool: Pool,
        tokens: NDArray[np.int64],
        *,
        positions: Sequence[int],
        in_long_text: Sequence[bool],
        keys: Sequence[NDArray[np.uint16] | NDArray[np.uint8]],
        values: Sequence[NDArray[np.uint16] | NDArray[np.uint8]],
        logits: NDArray[np.float32],
    ) -> None: ...

# The instruction sets for packed weights that this machine runs, the best first.
def packed_isas() -> list[str]: ...

# The packed kernels of `isa`; None: the best within HALVE_ISA. Raises ValueError.
def packed_kernels(isa: str | None = None) -> PackedKernels: ...

# The instruction sets that this machine runs, the best first.
def isas() -> list[str]: ...

# The kernels of `isa`; None: of HALVE_ISA, else the best. Raises ValueError.
def kernels(isa: str | None = None) -> Kernels: ...
