"""schemathesis against the data of `halve web`: whatever is asked, the answer is no server's error.

Run by `nox -s serve`.
"""

import pytest

pytest.importorskip("schemathesis", reason="`nox -s serve` installs it")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from halve.runtime.load import load
from halve.serve.limits import Limits
from tiny import llama
from tiny.server import serving


def test_no_question_that_the_schema_allows_or_forbids_breaks_the_pages(tmp_path):
    models = {"talker": load(llama.write_talker(tmp_path / "talker", "Ha", template=llama.TEMPLATE))}
    tried = []
    with serving(models, pages=True, limits=Limits(max_tokens=20)) as client:
        base = f"http://localhost:{client.port}/api"
        schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings(
                max_examples=50,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def attempt(case):
                response = case.call(base_url=base)
                tried.append(response.status_code)
                assert response.status_code < 500, response.text

            attempt()
        assert len(tried) > 100
        assert 200 in tried
        assert client.idle()
        assert client.request("GET", "/health")[0] == 200
