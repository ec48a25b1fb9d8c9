"""What a number format costs in gates: generated, synthesised, proven and measured.

Needs PyRTL and Yosys (``pip install 'halve[silicon]'``) to measure; the packaged measurements need nothing.
"""
