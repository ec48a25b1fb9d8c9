"""``dense``: plain FP32, BF16 or FP16 tensors, as every program reads them."""

from typing import Any, ClassVar

from numpy.typing import NDArray

from halve.checkpoint.base import DTYPES, FLOATS, Checkpoint, TensorInfo
from halve.layouts.base import Contents, Layout, Stored, Support
from halve.schemes import Scheme
from halve.schemes.qtensor import QTensor

_DTYPE = {number_format: dtype for dtype, number_format in FLOATS.items()}
_TORCH = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Dense(Layout):
    """Tensors keep their names and shapes; config.json tells the new dtype."""

    name: ClassVar[str] = "dense"
    about: ClassVar[str] = "plain FP32, BF16 or FP16 safetensors"

    def supports(self, scheme: Scheme) -> Support:
        """Only casts fit: no scales are stored."""
        return Support(engines=("every engine",)) if scheme.dense else Support("it stores plain numbers without scales")

    def entries(self, weight: TensorInfo, scheme: Scheme) -> list[TensorInfo]:
        """The tensor itself in the new dtype."""
        return [TensorInfo(weight.name, _DTYPE[scheme.weight.element], weight.shape)]

    def write(
        self, weight: TensorInfo, scheme: Scheme, q: QTensor, first_row: int, input_scale: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """Codes of a float format are its bits."""
        del scheme, first_row, input_scale
        return {weight.name: q.codes.view(DTYPES[_DTYPE[q.block.element]])}

    def config(self, contents: Contents) -> dict[str, Any]:
        """``torch_dtype`` for transformers 4, ``dtype`` for 5."""
        cast_to = {_TORCH[scheme.weight.element] for scheme in contents.quantized.values()}
        return dict.fromkeys(("torch_dtype", "dtype"), cast_to.pop()) if cast_to else {}

    def detect(self, checkpoint: Checkpoint) -> bool:
        """A checkpoint that says nothing of quantization is dense."""
        return checkpoint.quantization is None

    def open(self, checkpoint: Checkpoint) -> dict[str, Stored]:
        """Nothing is quantized."""
        del checkpoint
        return {}

    def read(self, checkpoint: Checkpoint, stored: Stored, start: int, stop: int) -> QTensor:
        """Never called: nothing is quantized."""
        raise NotImplementedError


LAYOUT = Dense()
