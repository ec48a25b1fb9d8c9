"""Damaged and hostile GGUF files end in a clear error, quickly and in little memory."""

import os
import re
import tracemalloc
from pathlib import Path

import pytest

from halve.checkpoint.gguf import MAX_ENTRIES, GgufFile
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.errors import CheckpointError, HalveError
from tiny.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    HEADER,
    STRING,
    U8,
    U32,
    Container,
    array,
    pair,
    tensor,
    text,
    u32,
    u64,
)
from tiny.gguf_models import TinyModel

HUGE = 2**60
GOOD = pair("general.architecture", STRING, text("llama"))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "hostile.gguf"


def nested(depth: int) -> bytes:
    """An array of an array of an array ... of nothing."""
    value = array(U8, [])
    for _ in range(depth):
        value = array(ARRAY, [value])
    return value


ATTACKS = {
    "empty file": (b"", "byte 0: magic: not a GGUF file: it has 0 bytes"),
    "two bytes": (b"GG", "byte 0: magic: not a GGUF file: it has 2 bytes"),
    "other magic": (b"PK\x03\x04" + bytes(100), r"not a GGUF file: it starts with b'PK"),
    "magic alone": (b"GGUF", "byte 4: version: needs 4 bytes, but only 0 are left"),
    "version 0": (Container(version=0), "byte 8: version: GGUF version 0 is not 2 or 3"),
    "version 1": (Container(version=1), "GGUF version 1 is not 2 or 3"),
    "version 4": (Container(version=4), "GGUF version 4 is not 2 or 3"),
    "big-endian": (Container(version=3 << 24), "the file is big-endian"),
    "2^60 tensors": (Container(tensor_count=HUGE), f"byte 16: tensor count: {HUGE} entries need at least"),
    "2^64-1 tensors": (Container(tensor_count=2**64 - 1), "tensor count: 18446744073709551615 entries"),
    "2^32 metadata entries": (Container(pair_count=2**32), "byte 24: metadata count: 4294967296 entries need at least"),
    "one entry too many": (Container(pairs=[GOOD], pair_count=2).header(), "metadata key 1: needs 8 bytes, but only"),
    "key of 2^60 bytes": (Container(pairs=[text("a", HUGE)], pair_count=1), f"metadata key 0: needs {HUGE} bytes"),
    "key is not UTF-8": (Container(pairs=[pair(b"\xff\xfe", U8, b"\0")]), "metadata key 0: invalid UTF-8 .* byte 0"),
    "key twice": (Container(pairs=[GOOD, GOOD]), r"metadata key 1: general\.architecture appears twice"),
    "string of 2^60 bytes": (Container(pairs=[pair("a", STRING, text("b", HUGE))]), f"a: needs {HUGE} bytes"),
    "string is not UTF-8": (
        Container(pairs=[pair("a", STRING, text(b"ok\xc3"))]),
        "a: invalid UTF-8 in a string of 3 bytes, at its byte 2",
    ),
    "text in an array is not UTF-8": (
        Container(pairs=[pair("a", ARRAY, array(STRING, [text("b"), text(b"\x80")]))]),
        "a: invalid UTF-8",
    ),
    "surrogate": (Container(pairs=[pair("a", STRING, text(b"\xed\xa0\x80"))]), "a: invalid UTF-8"),
    "value type 13": (Container(pairs=[pair("a", 13, bytes(8))]), "a: unknown value type 13"),
    "value type 2^32-1": (Container(pairs=[pair("a", 2**32 - 1, bytes(8))]), "a: unknown value type 4294967295"),
    "array type 13": (Container(pairs=[pair("a", ARRAY, array(13, [bytes(8)]))]), "a: unknown array type 13"),
    "array of 2^60 numbers": (Container(pairs=[pair("a", ARRAY, array(U32, [], HUGE))]), f"a: {HUGE} entries need"),
    "array of 2^62 floats": (Container(pairs=[pair("a", ARRAY, array(F32, [], 2**62))]), "a: .* entries need"),
    "array of 2^60 strings": (Container(pairs=[pair("a", ARRAY, array(STRING, [], HUGE))]), f"a: {HUGE} entries need"),
    "array of 2^60 arrays": (Container(pairs=[pair("a", ARRAY, array(ARRAY, [], HUGE))]), f"a: {HUGE} entries need"),
    "deep arrays": (Container(pairs=[pair("a", ARRAY, nested(2000))]), "a: arrays are nested deeper than 4"),
    "bool of 2": (Container(pairs=[pair("a", BOOL, b"\x02")]), "a: a bool is 2, not 0 or 1"),
    "bools of 255": (Container(pairs=[pair("a", ARRAY, array(BOOL, [b"\1\xff"], 2))]), "a: a bool is 255, not 0 or 1"),
    "alignment 0": (Container(pairs=[pair("general.alignment", U32, u32(0))]), "alignment: 0 is not a power of two"),
    "alignment 24": (Container(pairs=[pair("general.alignment", U32, u32(24))]), "alignment: 24 is not a power of two"),
    "alignment 2^31": (
        Container(pairs=[pair("general.alignment", U32, u32(2**31))]),
        "alignment: 2147483648 is not a power of two up to 1048576",
    ),
    "alignment is text": (
        Container(pairs=[pair("general.alignment", STRING, text("32"))]),
        r"general\.alignment must be an integer, not '32'",
    ),
    "tensor name is not UTF-8": (Container(tensors=[tensor(b"\xff", [8])]), "name of tensor 0: invalid UTF-8"),
    "tensor name of 2^60 bytes": (
        Container(tensors=[text("a", HUGE) + bytes(40)]),
        f"name of tensor 0: needs {HUGE} bytes",
    ),
    "tensor twice": (
        Container(tensors=[tensor("a", [8]), tensor("a", [8], offset=32)], data=bytes(64)),
        "name of tensor 1: 'a' appears twice",
    ),
    "no dimensions": (Container(tensors=[tensor("a", [])], data=bytes(64)), "'a': dimensions: 0 is not 1 to 4"),
    "5 dimensions": (Container(tensors=[tensor("a", [1] * 5)], data=bytes(64)), "'a': dimensions: 5 is not 1 to 4"),
    "2^32-1 dimensions": (
        Container(tensors=[tensor("a", [1], dimensions=2**32 - 1)], data=bytes(64)),
        "'a': dimensions: 4294967295 is not 1 to 4",
    ),
    "dimension 0": (Container(tensors=[tensor("a", [8, 0])], data=bytes(64)), r"'a': .*a dimension is 0 in \(0, 8\)"),
    "2^60 elements": (Container(tensors=[tensor("a", [HUGE])], data=bytes(64)), "'a': offset: bytes .* lie outside"),
    "product beyond 2^64": (
        Container(tensors=[tensor("a", [2**63, 2**63, 2**63, 2**63])], data=bytes(64)),
        "'a': offset: bytes .* lie outside the file",
    ),
    "tensor type 99": (Container(tensors=[tensor("a", [8], kind=99)], data=bytes(64)), "'a': type: unknown type 99"),
    "removed tensor type 4": (Container(tensors=[tensor("a", [32], kind=4)], data=bytes(64)), "unknown type 4"),
    "half a block": (
        Container(tensors=[tensor("a", [48, 2], kind=2)], data=bytes(64)),
        "rows of 48 are not a multiple of Q4_0's block size 32",
    ),
    "offset off the alignment": (
        Container(tensors=[tensor("a", [8], offset=4)], data=bytes(64)),
        "'a': offset: 4 is not a multiple of the alignment 32",
    ),
    "offset 2^63": (
        Container(tensors=[tensor("a", [8], offset=2**63)], data=bytes(64)),
        "'a': offset: bytes .* lie outside",
    ),
    "offset past the end": (
        Container(tensors=[tensor("a", [8], offset=64)], data=bytes(64)),
        r"'a': offset: bytes 128 to 160 lie outside the file, which has 128 bytes",
    ),
    "one byte short": (Container(tensors=[tensor("a", [16])], data=bytes(63)), "lie outside the file"),
    "same offset": (
        Container(tensors=[tensor("a", [8]), tensor("b", [8])], data=bytes(64)),
        "tensor 'b': offset: its data overlaps that of 'a'",
    ),
    "overlap by one row": (
        Container(tensors=[tensor("b", [8], offset=32), tensor("a", [9])], data=bytes(64)),
        "tensor 'b': offset: its data overlaps that of 'a'",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_end_in_a_clear_error_in_little_memory(path, name):
    container, says = ATTACKS[name]
    path.write_bytes(container.content() if isinstance(container, Container) else container)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=says) as error:
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path))
    assert error.value.hint


def test_what_the_attacks_deviate_from_is_accepted(path):
    tensors = [tensor("a", [8]), tensor("b", [32, 2], kind=2, offset=32)]
    pairs = [GOOD, pair("general.alignment", U32, u32(32)), pair("nested", ARRAY, nested(3))]
    path.write_bytes(Container(pairs=pairs, tensors=tensors, data=bytes(32 + 36)).content())
    with GgufFile(path) as file:
        assert [(tensor.name, tensor.shape) for tensor in file.tensors.values()] == [("a", (8,)), ("b", (2, 32))]
        (((inner,),),) = file.metadata["nested"]
        assert inner.size == 0


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "unreadable"])
def test_what_is_no_file_is_refused_at_once(path, kind, monkeypatch):
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)  # opening one for reading waits for a writer, unless told not to
        case "unreadable":
            path.write_bytes(b"GGUF" + bytes(100))

            def denied(*_args: object) -> int:
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr(os, "open", denied)
    says = {"missing": "No such file", "unreadable": "Permission denied"}.get(kind, "not a regular file")
    with pytest.raises(CheckpointError, match=says) as error:
        GgufFile(path)
    assert str(path) in str(error.value)
    assert error.value.hint


def test_a_disk_error_is_reported_with_its_place(path, monkeypatch):
    TinyModel().write(path)

    def broken(*_args: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(CheckpointError, match="byte 0 cannot be read: Input/output error"):
        GgufFile(path)


def test_every_truncation_of_the_header_is_noticed(path, tmp_path):
    whole = TinyModel(layers=1, metadata={"test.texts": ["a", "bc"], "test.numbers": [1, 2, 3]}).write(
        tmp_path / "whole"
    )
    content = whole.read_bytes()
    with GgufFile(whole) as file:
        end = min(tensor.offset for tensor in file.tensors.values())
    for length in range(end):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as error:
            GgufFile(path)
        assert error.value.hint
    assert end > HEADER


@pytest.mark.parametrize("missing", [1, 32, 1000, 300_000])
def test_truncated_tensor_data_is_noticed_on_opening(path, missing):
    TinyModel(encoding="Q8_0").write(path)
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(CheckpointError, match="lie outside the file"):
        GgufCheckpoint(path)


@pytest.mark.parametrize(
    "start",
    [
        u64(0) + u64(2**36),
        u64(2**34) + u64(0),
        u64(0) + u64(MAX_ENTRIES + 1),
        u64(0) + u64(1) + text("a") + u32(STRING) + u64(2**38),
        u64(0) + u64(1) + text("a") + u32(ARRAY) + u32(U8) + u64(2**38),
        u64(0) + u64(1) + text("a") + u32(ARRAY) + u32(STRING) + u64(2**36),
        u64(0) + u64(1) + text("a") + u32(ARRAY) + u32(STRING) + u64(MAX_ENTRIES),
        u64(0) + u64(1) + text("a") + u32(ARRAY) + u32(ARRAY) + u64(2**34),
    ],
    ids=["pairs", "tensors", "2M pairs", "string", "numbers", "strings", "2M strings", "arrays"],
)
def test_a_sparse_file_that_backs_its_claims_is_still_bounded(path, start):
    """The counts are true: a terabyte of zeros follows. Only the limits on a header stand in the way."""
    path.write_bytes(b"GGUF" + u32(3) + start)
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"the header grow|entries are too many") as error:
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert error.value.hint


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed_when_opening_fails(path):
    path.write_bytes(Container(version=9).content())
    before = open_files()
    for _ in range(20):
        with pytest.raises(CheckpointError):
            GgufFile(path)
        TinyModel(architecture="unknown").write(path)
        with pytest.raises(HalveError):
            GgufCheckpoint(path)
        path.write_bytes(Container(version=9).content())
    assert open_files() == before


def test_metadata_of_every_wrong_type_is_refused(path):
    """Each key the reader relies on, holding each type it must not hold."""
    wrong = ("x", ["x"], 0.5, True, [1.5])
    metadata = {"tokenizer.ggml.eos_token_id": 2}
    keys = [f"llama.{key}" for key in TinyModel().required()]
    for key in [*keys, "general.architecture", "split.count", "llama.expert_count", "tokenizer.ggml.eos_token_id"]:
        for value in wrong:
            is_number = key.endswith(("epsilon", "freq_base"))
            if (key == "general.architecture" and value == "x") or (is_number and value == 0.5):
                continue
            TinyModel(layers=1, metadata=metadata | {key: value}).write(path)
            with pytest.raises(HalveError, match=re.escape(key)) as error:
                GgufCheckpoint(path)
            assert error.value.hint
