"""The pickle inside a torch checkpoint, read without running it.

A pickle is a program for a stack machine, and some of its instructions call whatever Python function it names. Here
they know a handful of names, which only describe a tensor: nothing is imported, nothing is called, and the result is
plain data. Instructions are those that ``torch.load(weights_only=True)`` takes too; any other is an error that names
it.

Specification: Lib/pickletools.py of CPython; torch's names: torch/_utils.py and torch/serialization.py
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, NoReturn

from halve.checkpoint.base import DTYPES
from halve.checkpoint.safetensors import MAX_ELEMENTS, MAX_NAME
from halve.errors import CheckpointError

MAX_PICKLE = 16 << 20  # bytes; a tensor takes about 150
MAX_STEPS = 4_000_000  # instructions; a tensor takes about 40, and each may leave an object of 60 bytes
MAX_DIMENSIONS = 64  # torch's own limit
RESAVE = "load it with torch.load where you trust it, and save model.state_dict() alone"

STORAGES = {  # torch's storage classes -> dtype
    "FloatStorage": "F32",
    "BFloat16Storage": "BF16",
    "HalfStorage": "F16",
    "DoubleStorage": "F64",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}
TYPES = {  # torch's dtypes that have no storage class -> dtype
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
}
UNTYPED = "UntypedStorage"
_LIMIT = 1 << 63  # of a number in a shape


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """What a pickle says of a tensor: the storage it lies in, and where; offset and strides count elements."""

    storage: str
    storage_bytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie row after row."""
        return not prod(self.shape) or all(
            size == 1 or stride == step
            for size, stride, step in zip(self.shape, self.strides, row_major(self.shape), strict=True)
        )

    @property
    def span(self) -> int:
        """Elements from its first to its last."""
        return _span(self.shape, self.strides)


@dataclass(frozen=True, slots=True)
class _Name:
    """A global that a pickle names. It is never looked up."""

    path: str


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: str
    key: str
    elements: int  # bytes, where it is untyped


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of elements that lie row after row."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    if not prod(shape):
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def loads(raw: bytes, where: str) -> dict[str, TorchTensor]:
    """The tensors of the state dict that the pickle ``raw`` describes, by name.

    Raises CheckpointError, which begins with ``where``, for instructions and names that do more than describe tensors,
    for what is no mapping of names to tensors, and for tensors that contradict their storage.
    """
    if len(raw) > MAX_PICKLE:
        raise CheckpointError(f"{where}: {len(raw)} bytes, more than the {MAX_PICKLE} that are allowed", hint=RESAVE)
    found = _Machine(raw, where).run()
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: holds {_kind(found)}, not a state dict", hint=RESAVE)
    for name, value in found.items():
        if not isinstance(value, TorchTensor):
            raise CheckpointError(f"{where}: {name!r} is {_kind(value)}, not a tensor", hint=RESAVE)
        if len(name) > MAX_NAME or not name.isprintable():
            raise CheckpointError(
                f"{where}: {name[:40]!r} is no tensor name: it has control characters or more than {MAX_NAME} "
                "characters",
                hint=RESAVE,
            )
    return found


def _kind(value: object) -> str:
    match value:
        case _Name(path):
            return path
        case TorchTensor():
            return "a tensor"
        case dict():
            return "a dict"
        case _:
            return f"a value of type {type(value).__name__}"


class _Machine:
    """The stack machine. Values are plain Python data, `TorchTensor`, and the two placeholders above."""

    def __init__(self, raw: bytes, where: str) -> None:
        self._raw, self._where, self._at = raw, where, 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the program leaves on the stack."""
        steps = 0
        while (opcode := self._bytes(1)) != b".":
            step, steps = _STEPS.get(opcode), steps + 1
            if step is None:
                self._fail(f"instruction {opcode!r}, which torch.save does not write", "refused: ")
            if steps > MAX_STEPS:
                self._fail(f"more than {MAX_STEPS} instructions")
            step(self)
        return self._pop()

    def _fail(self, why: str, refused: str = "") -> NoReturn:
        raise CheckpointError(f"{self._where}: {refused}{why} (before its byte {self._at})", hint=RESAVE)

    def _bytes(self, count: int) -> bytes:
        found = self._raw[self._at : self._at + count]
        if len(found) != count:
            self._fail("the pickle ends early")
        self._at += count
        return found

    def _number(self, code: str) -> int:
        (value,) = struct.unpack(code, self._bytes(struct.calcsize(code)))
        return int(value)

    def _line(self) -> str:
        end = self._raw.find(b"\n", self._at, self._at + MAX_NAME)
        if end < 0:
            self._fail("the name of a global does not end")
        line = self._raw[self._at : end]
        self._at = end + 1
        return line.decode("ascii", "backslashreplace")

    def _pop(self) -> Any:
        if not self._stack:
            self._fail("takes from an empty stack")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            self._fail("takes from an empty stack")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    # Instructions

    def protocol(self) -> None:
        self._bytes(1)  # instructions, not numbers, tell what is used

    def mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def text(self) -> None:
        raw = self._bytes(self._number("<I"))
        try:
            self._push(raw.decode())
        except UnicodeDecodeError:
            self._fail("a string that is not UTF-8")

    def integer(self, code: str) -> None:
        self._push(self._number(code))

    def real(self) -> None:
        self._push(struct.unpack(">d", self._bytes(8))[0])

    def long(self) -> None:
        self._push(int.from_bytes(self._bytes(self._number("<B")), "little", signed=True))

    def constant(self, value: object) -> None:
        self._push(value)

    def empty(self, kind: type[dict[str, Any]] | type[list[Any]]) -> None:
        self._push(kind())

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def tuple_of_marked(self) -> None:
        items = self._pop_mark()
        self._push(tuple(items))

    def put(self, code: str) -> None:
        if not self._stack:
            self._fail("remembers what is not there")
        self._memo[self._number(code)] = self._stack[-1]

    def get(self, code: str) -> None:
        key = self._number(code)
        if key not in self._memo:
            self._fail(f"recalls {key}, which it has not been told")
        self._push(self._memo[key])

    def append(self) -> None:
        item, target = self._pop(), self._pop()
        self._extend(target, [item])

    def append_marked(self) -> None:
        items = self._pop_mark()
        self._extend(self._pop(), items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, list):
            self._fail(f"appends to {_kind(target)}")
        target.extend(items)
        self._push(target)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update(self._pop(), [key, value])

    def set_marked(self) -> None:
        items = self._pop_mark()
        self._update(self._pop(), items)

    def _update(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            self._fail(f"puts {len(items)} values into {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                self._fail(f"a key that is {_kind(key)}, not a string")
            if key in target:
                self._fail(f"{key[:MAX_NAME]!r} appears twice")
            target[key] = value
        self._push(target)

    def name(self) -> None:
        path = f"{self._line()}.{self._line()}"
        if path not in _KNOWN:
            self._fail(f"it names {path}, which is no part of a tensor, and reading it would run it", "refused: ")
        self._push(_Name(path))

    def persistent(self) -> None:
        match self._pop():
            case ("storage", _Name(path), str(key), str(), int(elements)) if elements >= 0:
                self._push(_Storage(path.rpartition(".")[2], key, elements))
            case _:
                self._fail("a storage that is not described as torch describes one")

    def call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            self._fail("calls what is no function")
        self._push(self._called(function.path, arguments))

    def _called(self, path: str, arguments: tuple[Any, ...]) -> Any:
        match arguments:
            case () if path == ORDERED_DICT:
                return {}
            case (TorchTensor() as tensor, *_) if path in _PARAMETERS:
                return tensor
            case (_Name(rebuild), _Name(), tuple(inner), _) if path == _WITH_ATTRIBUTES != rebuild:
                return self._called(rebuild, inner)
            case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *rest):
                if len(rest) == _REBUILD.get(path):
                    dtype = rest[2].path if len(rest) == 3 and isinstance(rest[2], _Name) else ""
                    return self._tensor(storage, offset, shape, strides, dtype)
        return self._fail(f"calls {path} in a way that describes no plain tensor", "refused: ")

    def build(self) -> None:
        """Attributes of a state dict (its versions) and of a parameter: they are no weights."""
        self._pop()
        if not self._stack or not isinstance(self._stack[-1], dict | TorchTensor):
            self._fail("sets attributes of what has none")

    def _tensor(
        self, storage: _Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...], name: str
    ) -> TorchTensor:
        dtype = TYPES.get(name.removeprefix("torch.")) if name else STORAGES.get(storage.kind)
        if dtype is None or (storage.kind == UNTYPED) != bool(name):
            self._fail(f"a tensor of {name or storage.kind}, which halve does not know", "refused: ")
        numbers = (*shape, *strides, offset)
        if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < _LIMIT for n in numbers):
            self._fail("a tensor whose shape and strides are no sizes")
        if len(shape) > MAX_DIMENSIONS:
            self._fail(f"a tensor of {len(shape)} dimensions")
        if prod(size or 1 for size in shape) > MAX_ELEMENTS:
            self._fail(f"shape {shape} is too large")
        itemsize = DTYPES[dtype].itemsize
        nbytes = storage.elements * (1 if storage.kind == UNTYPED else itemsize)
        if (offset + _span(shape, strides)) * itemsize > nbytes and prod(shape):
            self._fail(f"a tensor of shape {shape} reaches beyond the {nbytes} bytes of storage {storage.key[:40]!r}")
        if prod(shape) * itemsize > nbytes:
            self._fail(
                f"a tensor of shape {shape} repeats the {nbytes} bytes of storage {storage.key[:40]!r}", "refused: "
            )
        return TorchTensor(storage.key, nbytes, dtype, shape, strides, offset)


ORDERED_DICT = "collections.OrderedDict"
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_REBUILD = {  # function -> arguments behind storage, offset, shape and strides: requires_grad, hooks, dtype
    "torch._utils._rebuild_tensor": 0,
    "torch._utils._rebuild_tensor_v2": 2,
    "torch._utils._rebuild_tensor_v3": 3,
}
_KNOWN = {
    ORDERED_DICT,
    _WITH_ATTRIBUTES,
    *_PARAMETERS,
    *_REBUILD,
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    *(f"torch.{name}" for name in (*STORAGES, *TYPES)),
    f"torch.storage.{UNTYPED}",
}

_Step = Callable[[_Machine], None]
_STEPS: Mapping[bytes, _Step] = MappingProxyType(
    {
        b"\x80": _Machine.protocol,
        b"(": _Machine.mark,
        b"X": _Machine.text,
        b"K": lambda m: m.integer("<B"),
        b"M": lambda m: m.integer("<H"),
        b"J": lambda m: m.integer("<i"),
        b"\x8a": _Machine.long,
        b"G": _Machine.real,
        b"N": lambda m: m.constant(None),
        b"\x88": lambda m: m.constant(True),
        b"\x89": lambda m: m.constant(False),
        b")": lambda m: m.constant(()),
        b"}": lambda m: m.empty(dict),
        b"]": lambda m: m.empty(list),
        b"\x85": lambda m: m.tuple_of(1),
        b"\x86": lambda m: m.tuple_of(2),
        b"\x87": lambda m: m.tuple_of(3),
        b"t": _Machine.tuple_of_marked,
        b"q": lambda m: m.put("<B"),
        b"r": lambda m: m.put("<I"),
        b"h": lambda m: m.get("<B"),
        b"j": lambda m: m.get("<I"),
        b"a": _Machine.append,
        b"e": _Machine.append_marked,
        b"s": _Machine.set_item,
        b"u": _Machine.set_marked,
        b"c": _Machine.name,
        b"Q": _Machine.persistent,
        b"R": _Machine.call,
        b"b": _Machine.build,
    }
)
