from importlib.resources import files

import pytest
import yaml

from halve.errors import UnknownNameError
from halve.hardware import FORMATS, Machine, find, machines
from halve.hardware.number import Number
from halve.hardware.overview import overview
from halve.hardware.this_machine import this_machine


@pytest.mark.parametrize("name", machines())
def test_every_number_has_a_source_or_a_reason(name):
    for key, number in machines()[name].numbers():
        assert bool(number.source) == (number.value is not None), key
        assert number.source or number.why, key
        assert number.low is None or 0 < number.low <= number.high, key


@pytest.mark.parametrize("name", machines())
def test_every_format_is_judged_with_a_reason(name):
    machine = machines()[name]
    assert tuple(machine.formats) == FORMATS
    assert all(support.why for support in machine.formats.values() if support.level != "native")


@pytest.mark.parametrize("name", machines())
def test_sparse_rates_are_never_computed_with(name):
    machine = machines()[name]
    for fmt, sparse in machine.sparse_tflops.items():
        dense = machine.rate(fmt)
        assert dense is None or sparse.value is None or dense < sparse.value * 1e12


def test_one_file_a_machine_named_alike():
    names = {file.name.removesuffix(".yaml") for file in files("halve.hardware").joinpath("data").iterdir()}
    assert names == {name.lower() for name in machines()}


def test_names_are_unique_and_found_in_any_case():
    names = [n.lower() for machine in machines().values() for n in (machine.name, *machine.aliases)]
    assert len(set(names)) == len(names)
    assert find("gb200") is find("NVIDIA GB200") is machines()["GB200-NVL72"]
    with pytest.raises(UnknownNameError) as error:
        find("H10O")
    assert "H100" in error.value.hint


def test_units():
    h100 = find("H100")
    assert h100.rate("bf16") == 989e12
    assert h100.rate("nvfp4") is None
    assert find("RTX-4090").rate("fp8") == 330.3e12  # with FP32 sums, not the 660.6 of FP16 sums
    assert find("RTX-5090").rate("bf16") == 254e12  # measured: the data sheet's is not known
    assert h100.exp2_rate == pytest.approx(16 * 132 * 1.83e9)
    assert find("B300").exp2_rate > 2 * find("B200").exp2_rate


def test_facts_that_are_often_told_wrong():
    assert find("RTX-4090").formats["fp8"].level == "native"
    assert find("RTX-5090").formats["nvfp4"].level == "native"
    assert find("A100").formats["int4"].level == "native"
    assert find("H100").formats["int4"].level == "emulated"
    assert find("VR200").rate("nvfp4") == 35e15
    assert find("B300").rate("int8") < find("B300").rate("bf16") / 10
    assert find("MI355X").formats["nvfp4"].level == "emulated"


def test_a_number_without_a_source_is_refused():
    with pytest.raises(ValueError, match="without a source"):
        Number.parse({"value": 3})
    with pytest.raises(ValueError, match="without a reason"):
        Number.parse({"value": None})
    assert Number.parse({"value": [1, 3], "source": "s"}).value == 2
    assert Number.parse({"value": [1, 3], "source": "s"}).text == "1-3"


def test_an_incomplete_row_is_refused():
    content = yaml.safe_load(files("halve.hardware").joinpath("data/h100-sxm.yaml").read_text())
    assert Machine.parse(content).to_json() == find("H100").to_json()
    del content["formats"]["int4"]
    with pytest.raises(KeyError):
        Machine.parse(content)


def test_overview_has_a_row_a_machine():
    rows = list(overview().rows())
    assert len(rows) == len(machines())
    assert all(len(row) == len(overview().columns) for row in rows)
    assert "VR200-NVL72 (preliminary)" in [row[0] for row in rows]


def test_this_machine_is_measured():
    machine = this_machine()
    assert machine.memory_gb.value > 0.1
    assert machine.bandwidth_gbs.value > 0.1
    assert "measured" in machine.bandwidth_gbs.source
    assert machine.rate("bf16") is None
