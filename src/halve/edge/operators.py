"""ONNX operators by what an NPU makes of them: ``data/operators.yaml``."""

from importlib.resources import files

import yaml

_SETS = yaml.safe_load((files("halve.edge") / "data" / "operators.yaml").read_text())
NPU, CPU, BOUNDED, LINEAR, CURVES = (frozenset(_SETS[name]) for name in ("npu", "cpu", "bounded", "linear", "curves"))
