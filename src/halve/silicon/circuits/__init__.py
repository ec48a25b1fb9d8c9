"""Arithmetic as wires (PyRTL). Everything here adds gates to PyRTL's working block."""
