"""Data of the page Silicon: the packaged table."""

import json

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from click.testing import CliRunner

from halve.cli.main import cli
from tiny.server import serving


@pytest.fixture(scope="module")
def client():
    with serving({}, pages=True) as client:
        yield client


def printed(*words):
    return json.loads(CliRunner().invoke(cli, ["silicon", *words, "--json"], catch_exceptions=False).stdout)


@pytest.mark.parametrize("data", ["gaussian", "heavy"])
def test_the_page_says_what_the_commands_say(client, data):
    status, body = client.request("GET", f"/api/silicon?data={data}")
    found = json.loads(body)
    assert status == 200
    for measured, row in zip(found["measured"], printed("table"), strict=True):
        assert row.items() <= measured.items()
    by_name = {(one["unit"], one["format"]): one for one in found["measured"] if one["subnormals"]}
    tiles = printed("table", "--quality", "--data", data)
    for tile in tiles:
        one = by_name[tile["unit"], tile["format"]]
        for name in ("bits", "sqnr_db", "area_per_product", "energy_per_product", "best"):
            assert one[name] == tile[name], name
    assert len(tiles) == sum(one["best"] is not None for one in found["measured"])
    assert all(one["unit"] in found["units"] for one in found["measured"])
    assert found["mismatches"] == 0


def test_other_data_are_refused(client):
    for data in ("/etc/passwd", "x.npy", ""):
        status, body = client.request("GET", f"/api/silicon?data={data}")
        assert status == 400
        assert "gaussian" in json.loads(body)["error"]["message"]
