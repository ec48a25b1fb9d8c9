"""Quantized weights in ONNX: which tensors they become, the nodes that give their values back, and whole models.

Only `parts` and `external` can be imported without the package onnx.
"""
