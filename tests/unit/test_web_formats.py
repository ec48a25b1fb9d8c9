"""Data of the page Formats: what the codecs say, and wrong questions answered in words."""

import json
import math
from urllib.parse import quote

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from halve.formats import FORMATS
from halve.schemes import SCHEMES
from halve.schemes.quantize import dequantize, quantize
from halve.web import block, number_line
from tiny.server import serving

DTYPES = {"fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp4_e2m1": ml_dtypes.float4_e2m1fn, "bf16": ml_dtypes.bfloat16}


@pytest.fixture(scope="module")
def client():
    with serving({}, pages=True) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client):
    def ask(path, **query):
        text = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
        status, body = client.request("GET", f"/api/formats{path}?{text}")
        return status, json.loads(body)

    return ask


def test_what_a_number_becomes(ask):
    status, found = ask("/cast", x="0.1")
    assert status == 200
    assert [one["format"] for one in found["formats"]] == list(FORMATS)
    by_name = {one["format"]: one for one in found["formats"]}
    for name, dtype in DTYPES.items():
        assert by_name[name]["value"] == float(np.array(0.1, dtype)), name
    assert found["exact"] == "0.1000000000000000055511151231257827021181583404541015625"
    assert by_name["fp8_e4m3"]["fields"] == "0|0011|101"


def test_a_number_that_some_formats_cannot_hold(ask):
    by_name = {one["format"]: one for one in ask("/cast", x="nan")[1]["formats"]}
    assert by_name["fp8_e4m3"]["kind"] == "nan"
    assert "NaN" in by_name["fp4_e2m1"]["problem"]
    assert ask("/cast", x="0x1.8p-3")[1]["input"] == 0.1875


@pytest.mark.parametrize("name", DTYPES)
def test_every_code_is_the_number_that_others_read(ask, name):
    dtype = np.dtype(DTYPES[name])
    for code in (0, 1, 5, 7):
        found = ask("/code", name=name, code=code)[1]
        value = float(np.array([code], np.uint16 if dtype.itemsize == 2 else np.uint8).view(dtype)[0])
        assert found["value"] == value
        formula = found["formula"]
        if formula:
            product = (-1) ** formula["negative"] * 2.0 ** formula["power"] * float(formula["significand"])
            assert product == value


def test_the_numbers_of_a_line_are_those_of_the_dtype(ask):
    found = ask("/line", names="fp4_e2m1,fp8_e4m3,fp16", low=-1, high=2.5)[1]
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert found[0]["values"] == [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert found[1]["values"] == sorted({float(x) for x in every if -1 <= x <= 2.5})
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = np.unique(halves[(halves >= -1) & (halves <= 2.5)].astype(np.float64))
    assert (found[2]["values"], found[2]["total"]) == (None, len(halves))
    edges = [-1 + 3.5 * (i / len(found[2]["counts"])) for i in range(len(found[2]["counts"]) + 1)]
    assert found[2]["counts"] == np.histogram(halves, edges)[0].tolist()


def test_columns_of_a_logarithmic_line_hold_all_numbers():
    line = number_line.line(FORMATS["bf16"], 1e-6, 1e6, logarithmic=True)
    assert sum(line.counts) == line.total
    assert min(line.counts) > 0


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_no_rounding_is_worse_than_the_precision_says(fmt):
    found = number_line.precision(fmt)
    assert len(found.errors) == len(found.magnitudes) > 0
    assert all(0 < error <= 0.5 for error in found.errors)
    if fmt.name in DTYPES:
        dtype = DTYPES[fmt.name]
        for x, error in zip(found.magnitudes[::7], found.errors[::7], strict=True):
            near = np.linspace(x, x * 1.01, 64)
            near = near[near <= fmt.max]
            rounded = near.astype(np.float32).astype(dtype).astype(np.float64)
            assert (np.abs(rounded - near) / near).max(initial=0) <= error * (1 + 1e-5) or error < 1e-6


@pytest.mark.parametrize("scheme", list(block.schemes()), ids=lambda scheme: scheme.name)
def test_a_block_is_what_quantize_makes_of_it(ask, scheme):
    size = scheme.weight.block_size
    numbers = block.draw(3, size)
    status, found = ask("/block", scheme=scheme.name, seed=3)
    assert status == 200, found
    wanted = dequantize(quantize(scheme.weight, np.array([numbers], np.float32)))[0]
    assert [one["input"] for one in found["elements"]] == numbers
    assert [one["value"] for one in found["elements"]] == wanted.tolist()
    if found["levels"]:
        assert {one["value"] for one in found["elements"]} <= set(found["levels"][0])
        assert len(found["levels"][0]) <= 16


def test_numbers_of_ones_own_and_the_tensors_scale(ask):
    found = ask("/block", scheme="nvfp4", numbers="1, -2 3", largest="2688")[1]
    assert found["tensor_scale"] == 1.0
    assert len(found["elements"]) == 3
    assert [one["value"] for one in found["elements"]] == [1.0, -2.0, 3.0]
    assert found["sqnr_db"] == "inf"
    rules = ask("/block", scheme="mxfp4", rule="floor", seed=1)[1]
    assert rules["rule"] == "floor"
    assert set(rules["rules"]) == {"even", "floor", "rceil"}
    assert len(ask("/block", scheme="nvfp4", numbers=",".join(["1"] * 40))[1]["scales"]) == 3


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/cast", {"x": "one"}, 400),
        ("/cast", {"x": ""}, 400),
        ("/cast", {"x": "9" * 500}, 400),
        ("/cast", {"x": "0x1p99999"}, 400),
        ("/cast", {"x": "0.1", "rounding": "up"}, 400),
        ("/cast", {"x": "\x00"}, 400),
        ("/cast", {}, 400),
        ("/code", {"name": "fp5", "code": 1}, 404),
        ("/code", {"name": "fp8_e4m3", "code": 256}, 400),
        ("/code", {"name": "fp8_e4m3", "code": -1}, 400),
        ("/code", {"name": "fp8_e4m3", "code": 1 << 40}, 400),
        ("/line", {"names": "fp16", "low": 2, "high": 1}, 400),
        ("/line", {"names": "fp16", "low": "nan", "high": 1}, 400),
        ("/line", {"names": "fp16", "low": -1e308, "high": 1e308}, 400),
        ("/line", {"names": "fp16", "low": -1, "high": 1, "logarithmic": True}, 400),
        ("/line", {"names": ",", "low": 0, "high": 1}, 400),
        ("/line", {"names": "fp16,what", "low": 0, "high": 1}, 404),
        ("/precision", {"names": "x" * 2000}, 400),
        ("/block", {"scheme": "fp8"}, 404),
        ("/block", {"scheme": "nvfp4", "numbers": "1,two"}, 400),
        ("/block", {"scheme": "nvfp4", "numbers": "1,inf"}, 400),
        ("/block", {"scheme": "nvfp4", "numbers": "1e39"}, 400),
        ("/block", {"scheme": "nvfp4", "numbers": ",".join(["1"] * 65)}, 400),
        ("/block", {"scheme": "nvfp4", "largest": "nan"}, 400),
        ("/block", {"scheme": "nvfp4", "rule": "floor"}, 400),
        ("/block", {"scheme": "nvfp4", "seed": -1}, 400),
    ],
)
def test_wrong_questions_are_answered_in_words(ask, path, query, status):
    found, body = ask(path, **query)
    assert found == status, body
    assert body["error"]["message"]
    assert set(body["error"]) == {"message", "hint", "kind"}


@pytest.mark.parametrize("scheme", list(block.schemes()), ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("numbers", ["0", "1e-45,1e-40", "3.4e38,-3.4e38", "-0", "1e-300"])
def test_blocks_at_the_ends_of_fp32(ask, scheme, numbers):
    status, body = ask("/block", scheme=scheme.name, numbers=numbers)
    assert status == 200, body
    assert all(math.isfinite(one["value"]) for one in body["elements"])
    assert scheme in SCHEMES.values()
