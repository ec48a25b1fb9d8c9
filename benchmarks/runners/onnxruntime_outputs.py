"""What onnxruntime's CPU provider computes; runs in the peer `onnxruntime`.

    onnxruntime_outputs.py MODEL.onnx TOKENS.npy OUT.npz

TOKENS holds ids [sequence], OUT every output of the model by its number, for a batch of one. Prints one JSON line: the
version, and ``missing``, what onnxruntime says where it has no kernel for an operator; OUT is not written then.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime

# By default MatMulNBits, which INT4 and INT8 weights are fused into, rounds activations to 8 bits.
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}


def main() -> None:
    """Load, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("tokens", type=Path, metavar="TOKENS.npy")
    parser.add_argument("out", type=Path, metavar="OUT.npz")
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in EXACT.items():
        options.add_session_config_entry(name, value)
    said = {"onnxruntime": onnxruntime.__version__, "missing": ""}
    try:
        session = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the class for a missing kernel is not exported
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        said["missing"] = str(error)
    else:
        np.savez(args.out, *session.run(None, {"input_ids": np.load(args.tokens)[None]}))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
