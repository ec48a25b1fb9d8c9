"""onnx's checker and reference evaluator, and onnxruntime, compute what halve does. Run by `nox -s "clients(onnx)"`."""


def test_every_scheme_runs(measured):
    met, missed = measured("onnx_types.py")
    assert not missed
    assert met[-1] == "onnx_types"
