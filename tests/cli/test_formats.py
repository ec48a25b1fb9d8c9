import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from halve.formats import FORMATS


def run(*args):
    return CliRunner().invoke(cli, ["formats", *args])


def test_table_has_a_row_for_every_format():
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(FORMATS)
    assert lines[0].split()[:6] == ["format", "bits", "exponent", "mantissa", "bias", "max"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp32", np.float32),
        ("fp16", np.float16),
        ("bf16", ml_dtypes.bfloat16),
        ("fp8_e4m3", ml_dtypes.float8_e4m3fn),
        ("fp8_e5m2", ml_dtypes.float8_e5m2),
        ("fp8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz),
        ("fp8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz),
        ("fp6_e2m3", ml_dtypes.float6_e2m3fn),
        ("fp6_e3m2", ml_dtypes.float6_e3m2fn),
        ("fp4_e2m1", ml_dtypes.float4_e2m1fn),
    ],
)
def test_facts_are_those_of_numpy_and_ml_dtypes(name, dtype):
    facts = {row["name"]: row for row in json.loads(run("--json").stdout)}[name]
    peer = ml_dtypes.finfo(dtype)
    assert facts["bits"] == peer.bits
    assert facts["exponent"] == peer.nexp
    assert facts["mantissa"] == peer.nmant
    assert facts["max"] == float(peer.max)
    assert facts["min"] == float(peer.min)
    assert facts["smallest_normal"] == float(peer.smallest_normal)
    assert facts["smallest_subnormal"] == float(peer.smallest_subnormal)
    assert facts["epsilon"] == float(peer.eps)


def test_one_format_lists_every_code():
    found = json.loads(run("fp8_e4m3", "--json").stdout)["codes"]
    assert [code["code"] for code in found] == list(range(256))
    values = np.array([float(code["value"]) for code in found], np.float32)
    peer = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(values, peer)
    assert found[0x7E] == {
        "code": 126,
        "hex": "0x7e",
        "fields": "0|1111|110",
        "kind": "normal",
        "value": 448.0,
        "note": "largest",
    }
    assert found[0x7F]["value"] == "nan"


def test_one_format_as_text():
    text = run("FP4_E2M1").stdout
    rows = [line.split() for line in text.splitlines() if line.startswith("0x")]
    assert [float(row[3]) for row in rows[:8]] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert "OCP Microscaling" in text


def test_wide_formats_show_their_corners():
    rows = {code["note"]: code for code in json.loads(run("bf16", "--json").stdout)["codes"]}
    assert rows["one"]["hex"] == "0x3f80"
    assert rows["infinity"]["value"] == "inf"
    assert rows["smallest subnormal"]["value"] == 2.0**-133
    assert set(rows) >= {"zero", "largest", "most negative", "smallest normal", "next after one"}


@pytest.mark.parametrize("name", FORMATS)
def test_plot_of_every_format(name):
    result = run(name, "--plot")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"{name}, linear"
    assert lines[1][0] != " "
    assert lines[1][-1] != " "


def test_plot_puts_marks_where_the_numbers_are():
    marks = run("fp4_e2m1", "--plot").stdout.splitlines()[1]
    assert len(marks) == 120
    columns = [round((value + 6) / 12 * 119) for value in (-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6)]
    assert [at for at, mark in enumerate(marks) if mark != " "] == columns


def test_plot_of_all_formats():
    lines = run("--plot").stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(FORMATS)]] == list(FORMATS)


def _memory(model):
    found = json.loads(run("--model", model, "--json").stdout)
    return found, {name: row for row in found["schemes"] for name in row["schemes"]}


def test_memory_table_begins_with_the_rule_of_thumb():
    found, rows = _memory("7b")
    assert found["nominal_weights"] == 7e9
    naive = {name: rows[name]["naive_bytes"] for name in ("fp32", "fp16", "fp8_dynamic", "nvfp4a16")}
    assert naive == {"fp32": 28e9, "fp16": 14e9, "fp8_dynamic": 7e9, "nvfp4a16": 3.5e9}
    assert rows["nvfp4a16"]["scaled_bytes"] == 3.9375e9
    assert rows["mxfp4"]["scaled_bytes"] == 3.71875e9
    assert [model["name"] for model in found["models"]] == ["Llama-2-7B", "Llama-3.1-8B", "Qwen3-8B"]


def test_memory_table_worked_out_by_hand():
    # Llama-2-7B: 32 layers of 4 x 4096x4096 + 3 x 4096x11008 in linears; 65 norms of 4096; 2 x 32000x4096 around them.
    linears, norms, embeddings = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008), 65 * 4096, 2 * 32000 * 4096
    rows = _memory("Llama-2-7B")[1]
    tensors = 32 * 7
    assert rows["nvfp4"]["models"]["Llama-2-7B"] == {
        "bytes": linears // 2 + linears // 16 + 4 * tensors + 2 * (norms + embeddings),
        "bytes_embeddings_quantized": (linears + embeddings) * 9 // 16 + 4 * (tensors + 2) + 2 * norms,
    }
    assert rows["mxfp6_e2m3"]["models"]["Llama-2-7B"]["bytes"] == linears * 25 // 32 + 2 * (norms + embeddings)
    output_rows = 32 * (4 * 4096 + 2 * 11008 + 4096)
    assert rows["fp8"]["models"]["Llama-2-7B"]["bytes"] == linears + 4 * output_rows + 2 * (norms + embeddings)


def test_memory_table_as_text():
    text = run("--model", "7b").stdout
    assert "7e9 x bits/8" in text
    line = next(line for line in text.splitlines() if line.startswith("nvfp4"))
    assert line.split()[2:] == ["4.500", "3.50", "3.94", "4.17/3.79", "6.03/4.52", "6.40/4.61"]


def test_memory_of_a_config_and_of_its_folder(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "config.json"):
        found, rows = _memory(str(path))
        assert found["models"][0]["name"] == tmp_path.name
        assert rows["fp32"]["models"][tmp_path.name]["bytes"] == 4 * found["nominal_weights"]
        assert rows["fp8_block"]["models"][tmp_path.name] is not None
        assert rows["w4a16"]["models"][tmp_path.name] is not None  # blocks of 32 divide 64 and 96
        assert rows["nf4"]["models"][tmp_path.name] is None  # blocks of 64 do not divide 96


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 1, "No such file"),
        ("{", 1, "not valid JSON"),
        ("[]", 1, "not a JSON object"),
        ('{"model_type": "mamba"}', 2, "'mamba' has no geometry"),
        ('{"model_type": "llama"}', 1, "num_attention_heads = None"),
        ('{"model_type": "llama", "num_attention_heads": 0}', 1, "num_attention_heads = 0"),
    ],
)
def test_bad_configs(tmp_path, content, code, message):
    path = Path(tmp_path, "config.json")
    if content is not None:
        path.write_text(content)
    result = run("--model", str(path))
    assert result.exit_code == code
    assert message in result.stderr
    assert "hint: " in result.stderr


def test_unknown_model_and_clashing_options():
    assert run("--model", "LLAMA-3.1-8B").exit_code == 0
    result = run("--model", "llama-3.1-9b")
    assert result.exit_code == 2
    assert "error: unknown model 'llama-3.1-9b'" in result.stderr
    assert run("fp16", "--model", "7b").exit_code == 2
