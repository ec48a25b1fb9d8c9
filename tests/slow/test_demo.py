"""The demo as the README has it: SmolLM2 from an empty cache, eight precisions, under two minutes."""

import json
import os
import subprocess
import sys
import time

EXPECTED_DB = {
    "fp8_dynamic": 31.6,
    "w8a8": 41.4,
    "mxfp6_e2m3a16": 30.9,
    "nvfp4a16": 20.5,
    "mxfp4a16": 18.9,
    "w4a16": 20.1,
}


def test_demo_from_an_empty_cache(tmp_path):
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "halve", "demo", "--out", tmp_path / "demo", "--json"],
        env=os.environ | {"HALVE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.perf_counter() - began < 120
    rows = {row["scheme"]: row for row in json.loads(done.stdout)}
    for scheme, db in EXPECTED_DB.items():
        assert abs(rows[scheme]["mean_sqnr_db"] - db) < 0.2, scheme
    assert rows["fp32"]["bytes"] > 538_000_000
