"""Result files as the page Report takes them: what ``--json`` of `halve eval`, `inspect` and `plan` holds.

Only what is shown is named; the rest of a file may be what it likes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_MOST = 65536  # codes of a histogram: 16 bits


class _Part(BaseModel):
    """A part of a file. Numbers are finite: JSON has no others."""

    model_config = ConfigDict(allow_inf_nan=False)


class Loss(_Part):
    """What one way of feeding the model lost."""

    operands: str
    ppl: float | None = None
    ppl_error: float | None = None
    ppl_ratio: float | None = None
    kld: float | None = None
    kld_error: float | None = None
    same_top: float | None = None


class Layer(_Part):
    """What one layer lost, in dB; None: nothing."""

    name: str
    output_db: float | None
    weight_db: float | None


class Evaluation(_Part):
    """A result of `halve eval`."""

    path: str
    against: str | None
    scheme: str
    bytes: Annotated[int, Field(ge=0)]
    bpw: float | None
    base_ppl: float | None = None
    mean_output_db: float | None = None
    losses: Annotated[list[Loss], Field(min_length=1)]
    layers: list[Layer]


class Codes(_Part):
    """What use a weight makes of its codes."""

    element: str
    histogram: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=_MOST)]


class Tensor(_Part):
    """A weight."""

    name: str
    shape: list[int]
    bytes: int
    bpw: float
    element: str
    quantized: bool
    codes: Codes | None = None


class Inspection(_Part):
    """A result of `halve inspect`."""

    path: str
    architecture: str
    scheme: str | None
    parameters: int
    bytes: int
    bpw: float
    tensors: Annotated[list[Tensor], Field(min_length=1)]


_Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Held(_Part):
    """Bytes of memory."""

    weights: int
    cache: int
    workspace: int
    reserve: int
    total: int


class Option(_Part):
    """A way to serve, as the page Plan lists it."""

    machine: str
    scheme: str
    kv: str
    tp: int
    pp: int
    dp: int
    devices: int
    batch: int
    memory_bytes: Held
    device_bytes: Annotated[int, Field(gt=0)]
    ttft_s: float | None
    ttft_p10_p90_s: _Range | None
    tpot_s: float
    tpot_p10_p90_s: _Range
    tokens_per_second: float
    tokens_per_second_p10_p90: _Range
    tokens_per_second_per_device: float
    usd_per_million_tokens: _Range | None
    joules_per_output_token: float | None
    binding: str
    remarks: list[str]


class Left(_Part):
    """A machine that does not serve it."""

    machine: str
    why: str


class Model(_Part):
    """What is served."""

    name: str


class Plan(_Part):
    """A result of `halve plan`."""

    model: Model
    request: dict[str, Any]
    options: list[Option]
    left: list[Left]
    command: str | None


Kind = Literal["evaluation", "inspection", "plan"]
KINDS: dict[str, tuple[Kind, type[Evaluation] | type[Inspection] | type[Plan]]] = {  # by what only they have
    "losses": ("evaluation", Evaluation),
    "tensors": ("inspection", Inspection),
    "options": ("plan", Plan),
}
