import pytest

from halve.codecs import dispatch
from native.inputs import ISAS


@pytest.fixture(params=ISAS)
def kernels(request, monkeypatch):
    """The kernels of one instruction set; the library uses them for the length of the test."""
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    if request.param not in native.isas():
        pytest.skip(f"this machine has no {request.param}")
    chosen = native.kernels(request.param)
    monkeypatch.setattr(dispatch, "kernels", lambda: chosen)
    return chosen
