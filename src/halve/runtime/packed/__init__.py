"""Weights in the form in which native code multiplies them fastest, and inference with them.

`packing` says how each block is stored, `weight` holds one weight, `product` multiplies. The reference is the numpy
twin beside each: `reference`, and the float32 models of `halve.runtime`.
"""
