"""Attack files: what must never be taken for a safetensors file, each with words of the reason that has to be given."""

import json
import struct

U64 = 1 << 64


def entry(dtype="U8", shape=(4,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def container(header, data=b"", length=None):
    """A file of ``header`` (bytes, text, or what JSON makes of it) and ``data``; ``length`` to claim another length."""
    if not isinstance(header, bytes | str):
        header = json.dumps(header)
    raw = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def one(data=b"1234", **fields):
    return container({"a": {**entry(), **fields}}, data)


def two(first, second, data=b"12345678"):
    return container({"a": entry(offsets=first), "b": entry(offsets=second)}, data)


A = '"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
DEEP = 100_000

ATTACKS = {
    # the length in front
    "nothing": (b"", "too few"),
    "seven bytes": (b"1234567", "too few"),
    "a length and nothing more": (container(b"", length=40), "promise a header of 40 bytes"),
    "header longer than the file": (container({"a": entry()}, b"1234", length=1000), "promise a header of 1000 bytes"),
    "header of 2^64 - 1 bytes": (container({}, length=U64 - 1), "promise a header of 18446744073709551615"),
    "header of 2^63 bytes": (container({}, length=1 << 63), "promise a header of"),
    "no header": (container(b""), "ends where"),
    # not what it claims to be
    "a web page": (b"<!DOCTYPE html><html><head><title>404</title></head></html>", "promise a header of"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "promise a header"),
    "a pickle": (b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s." + bytes(40), "promise a header"),
    # JSON
    "no JSON": (container("tensor a is here"), "not '{'"),
    "an array": (container([entry()], b"1234"), "not '{'"),
    "a number": (container("17"), "not '{'"),
    "a byte order mark": (container("\ufeff{" + A + "}", b"1234"), "not '{'"),
    "a comma at the end": (container("{" + A + ",}", b"1234"), "not '\"'"),
    "no closing brace": (container("{" + A, b"1234"), "ends where ',' or '}' must be"),
    "text after the end": (container("{" + A + "} x", b"1234"), "after its end"),
    "zero bytes after the end": (container("{" + A + "}\0\0\0", b"1234"), "after its end"),
    "a second object": (container("{" + A + "}{}", b"1234"), "after its end"),
    "an unquoted name": (container("{a:{}}"), "not '\"'"),
    "an unterminated name": (container('{"aaaaaaa'), "no string"),
    "a line break in a name": (container('{"a\nb":' + A[4:] + "}", b"1234"), "no string"),
    "invalid UTF-8": (container(b'{"\xff\xfe":' + A[4:].encode() + b"}", b"1234"), "invalid UTF-8 at its byte 2"),
    "a cut UTF-8 sequence": (container(b'{"a":"\xe6\xa8', b""), "invalid UTF-8"),
    "half a surrogate pair in a name": (container('{"\\ud800":' + A[4:] + "}", b"1234"), "no string"),
    "half a surrogate pair in UTF-8": (container('{"\ud800":' + A[4:] + "}", b"1234"), "invalid UTF-8"),
    "arrays nested deep": (container("[" * DEEP), "not '{'"),
    "objects nested deep": (container('{"a":' * DEEP), "does not end within|not valid"),
    "arrays nested deep in an entry": (
        container('{"a":' + "[" * DEEP + "]" * DEEP + "}"),
        "not described by an object",
    ),
    "arrays nested deep in a shape": (
        container('{"a":{"shape":' + "[" * 2000 + "]" * 2000 + "}}"),
        "not valid|described by",
    ),
    "arrays nested deep in the metadata": (container('{"__metadata__":{"a":' + "[" * DEEP), "not '\"'"),
    # names
    "a name twice": (container("{" + A + "," + A + "}", b"1234"), "'a' appears twice"),
    "a name twice, elsewhere": (
        container("{" + A + "," + A.replace("[0,4]", "[4,8]") + "}", b"12345678"),
        "'a' appears twice",
    ),
    "a name twice, once escaped": (container("{" + A + ',"\\u0061"' + A[3:] + "}", b"1234"), "'a' appears twice"),
    "metadata twice": (container('{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' appears twice"),
    "a dtype twice": (container('{"a":{"dtype":"U8",' + A[5:] + "}", b"1234"), "'a' is not valid"),
    "a terminal escape in a name": (container({"\x1b[2Ja": entry()}, b"1234"), "control characters"),
    "a name of a megabyte": (container({"a" * (1 << 20): entry()}, b"1234"), "more than 1024 characters"),
    # entries
    "an entry that is an array": (container({"a": ["U8", [4], [0, 4]]}, b"1234"), "not described by an object"),
    "an entry that is null": (container({"a": None}), "not described by an object"),
    "an empty entry": (container({"a": {}}), "described by nothing"),
    "no dtype": (container({"a": {"shape": [4], "data_offsets": [0, 4]}}, b"1234"), "described by 'shape', 'data_off"),
    "no shape": (container({"a": {"dtype": "U8", "data_offsets": [0, 4]}}, b"1234"), "described by"),
    "no data_offsets": (container({"a": {"dtype": "U8", "shape": [4]}}, b"1234"), "described by"),
    "another field": (one(strides=[1]), "described by"),
    "an object in an entry": (one(more={"a": 1}), "not valid"),
    "an endless entry": (container('{"a":{"dtype":"' + "U" * 1_000_000), "does not end within"),
    "unknown dtype": (one(dtype="F7"), "'a': unknown dtype 'F7'"),
    "a dtype of less than a byte": (one(dtype="F4", shape=[8]), "'a': unknown dtype 'F4'"),
    "dtype in small letters": (one(dtype="u8"), "unknown dtype"),
    "dtype that is a number": (one(dtype=8), "unknown dtype"),
    "dtype that is a list": (one(dtype=["U8"]), "unknown dtype"),
    "dtype that is null": (one(dtype=None), "unknown dtype"),
    # shapes
    "a negative size": (one(shape=[-4]), "-4 is not a size"),
    "two negative sizes": (one(shape=[-2, -2]), "-2 is not a size"),
    "minus zero": (container('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "-0 is not a size"),
    "a size that is a fraction": (one(shape=[4.0]), r"shape \[4.0\] is not a list of sizes"),
    "a size that is a bool": (one(b"1", shape=[True], data_offsets=[0, 1]), "is not a list of sizes"),
    "a size that is text": (one(shape=["4"]), "is not a list of sizes"),
    "a size that is null": (one(shape=[None]), "is not a list of sizes"),
    "a size that is NaN": (one(shape=[float("nan")]), "is not a list of sizes"),
    "a shape that is a number": (one(shape=4), "is not a list of sizes"),
    "a shape in a shape": (one(shape=[[4]]), "is not a list of sizes"),
    "a size of 5000 digits": (container('{"a":{"shape":[' + "9" * 3000 + "]}}"), "is not a size"),
    "sizes whose product is 2^64": (one(b"", shape=[1 << 32, 1 << 32], data_offsets=[0, 0]), "is too large"),
    "sizes whose product is 2^64 + 4": (one(shape=[2, (U64 + 4) // 2]), "is too large"),
    "bytes that are 2^64": (one(b"", dtype="F64", shape=[1 << 61], data_offsets=[0, 0]), "is too large"),
    "400 sizes of 2^19": (one(b"", shape=[1 << 19] * 400, data_offsets=[0, 0]), "is too large"),
    "2^60 rows of nothing": (one(b"", shape=[1 << 60, 0], data_offsets=[0, 0]), "is too large"),
    # offsets
    "negative offsets": (one(data_offsets=[-4, 0]), "-4 is not a size"),
    "offsets that are fractions": (one(data_offsets=[0.0, 4.0]), "are not a begin and an end"),
    "offsets that are bools": (one(b"1", shape=[1], data_offsets=[False, True]), "are not a begin and an end"),
    "one offset": (one(data_offsets=[4]), "are not a begin and an end"),
    "three offsets": (one(data_offsets=[0, 2, 4]), "are not a begin and an end"),
    "offsets in reverse": (one(data_offsets=[4, 0]), "are not a begin and an end"),
    "offsets that are an object": (one(data_offsets={"0": 4}), "not valid"),
    "offsets of too few bytes": (one(data_offsets=[0, 3]), r"U8 of shape \[4\] takes 4 bytes, but .* hold 3"),
    "offsets of too many bytes": (one(b"12345", data_offsets=[0, 5]), "takes 4 bytes, but .* hold 5"),
    "offsets of another dtype": (one(dtype="F32"), "takes 16 bytes"),
    "a scalar of four bytes": (one(shape=[]), "takes 1 bytes"),
    "data behind the end": (one(b"123"), "'a': its bytes 0 to 4 lie outside the file, which has 3 bytes"),
    "data far behind the end": (one(data_offsets=[U64 - 5, U64 - 1]), "lie outside the file"),
    "truncated data": (two((0, 4), (4, 8), b"123456"), "'b': its bytes 4 to 8 lie outside the file"),
    "no data": (one(b""), "lie outside the file"),
    "overlapping tensors": (two((0, 4), (2, 6), b"123456"), "'b': its bytes overlap those of 'a'"),
    "tensors in one place": (two((0, 4), (0, 4), b"1234"), "overlap"),
    "an empty tensor within another": (
        container({"a": entry(), "b": entry(shape=(0,), offsets=(2, 2))}, b"1234"),
        "overlap",
    ),
    "a hole in front": (one(b"12345", data_offsets=[1, 5]), "the 1 bytes before it belong to no tensor"),
    "a hole between tensors": (two((0, 4), (5, 9), b"123456789"), "'b': the 1 bytes before it belong to no tensor"),
    "bytes after the last tensor": (one(b"12345"), "its last 1 bytes belong to no tensor"),
    "bytes and no tensors": (container({}, b"12"), "its last 2 bytes belong to no tensor"),
    # metadata
    "metadata that is text": (container({"__metadata__": "pt"}), "not '{'"),
    "metadata that is a list": (container({"__metadata__": ["pt"]}), "not '{'"),
    "metadata of numbers": (container({"__metadata__": {"step": 1}}), "not '\"'"),
    "metadata of null": (container({"__metadata__": {"step": None}}), "not '\"'"),
    "metadata in metadata": (container({"__metadata__": {"a": {"b": "c"}}}), "not '\"'"),
    "a key of metadata twice": (container('{"__metadata__":{"a":"b","a":"c"}}'), "'a' appears twice"),
    "half a surrogate pair in metadata": (container('{"__metadata__":{"a":"\\udfff"}}'), "no string"),
    "metadata that is nearly null": (container('{"__metadata__":nul}'), "not '{'"),
}

# What the safetensors library lets pass, and why it is refused here.
LENIENT = {
    "a name twice",  # the specification forbids it; which of them counts depends on the program
    "a name twice, once escaped",
    "a key of metadata twice",
    "another field",
    "an object in an entry",
    "an entry that is an array",
    "a dtype of less than a byte",
    "a terminal escape in a name",
    "a name of a megabyte",
    "2^60 rows of nothing",
}


def bracket_bombs(size):
    """Headers of ``size`` characters that ``json.loads`` turns into twenty times their size."""
    return {
        "arrays": '{"a":[' + "[]," * (size // 3),
        "arrays in a shape": '{"a":{"dtype":"U8","shape":[' + "[]," * (size // 3),
        "arrays in the metadata": '{"__metadata__":{"a":[' + "[]," * (size // 3),
        "objects": '{"a":[' + "{}," * (size // 3),
        "numbers": '{"a":{"shape":[' + "-6," * (size // 3),
        "spaces": "{" + " " * size,
    }
