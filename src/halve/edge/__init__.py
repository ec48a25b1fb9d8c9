"""ONNX models in the integers of small processors. Needs the extra ``edge``."""

from halve.edge.assess import check

__all__ = ["check"]
