"""Exact rewrites of a model that make it easier to quantize: arrays in, factors out."""

TRANSFORMS = ("smoothquant", "awq")
