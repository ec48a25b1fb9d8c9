"""Write onnx-qdq/ours.json: what halve writes for a tiny seeded weight in each scheme, and the graph of a tiny Llama.

    python tests/golden/layouts/ours_onnx.py

A scheme has its initializers with their bytes as hex, and its nodes; the Llama its nodes.
"""

import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import onnx
from onnx import helper

from halve import layouts
from halve.checkpoint.onnx_source import open_onnx
from halve.pipeline.quantize import quantize
from halve.schemes import SCHEMES

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tiny import llama, onnx_models  # noqa: E402


def _node(node: onnx.NodeProto) -> str:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Constant":
        value = onnx.numpy_helper.to_array(attributes["value"])
        return f"{node.output[0]} = {value.dtype} {value.tolist()}"
    said = " ".join(f"{name}={attributes[name]!r}" for name in sorted(attributes))
    return f"{', '.join(node.output)} = {node.op_type}({', '.join(node.input)}) {said}".rstrip()


def _described(folder: Path) -> dict[str, object]:
    """A model as JSON."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    data = (folder / "model.onnx.data").read_bytes()
    initializers = {}
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        begin, length = int(place["offset"]), int(place["length"])
        initializers[tensor.name] = {
            "type": onnx.TensorProto.DataType.Name(tensor.data_type),
            "dims": list(tensor.dims),
            "offset": begin,
            "hex": data[begin : begin + length].hex(),
        }
    return {
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "initializers": initializers,
        "nodes": [_node(node) for node in model.graph.node],
    }


def scheme(folder: Path, name: str) -> dict[str, object]:
    """One weight [8, 128] of an ONNX model, in a scheme."""
    folder.mkdir(exist_ok=True, parents=True)
    path = onnx_models.save(folder / "source.onnx", onnx_models.one_weight(8, 128))
    with closing(open_onnx(path)) as checkpoint:
        quantize(checkpoint, folder / name, name, layout="onnx-qdq")
    return _described(folder / name)


def prefill(folder: Path) -> list[str]:
    """The nodes of a Llama of two layers, whose embedding is its head."""
    quantize(llama.write(folder / "source"), folder / "out", "bf16", layout="onnx-qdq")
    model = onnx.load(folder / "out" / "model.onnx", load_external_data=False)
    return [_node(node) for node in model.graph.node]


def main() -> None:
    """Write the file."""
    layout = layouts.get("onnx-qdq")
    held = [s for s in SCHEMES.values() if not (layout.supports(s).refused or s.dense or s.needs_calibration)]
    with tempfile.TemporaryDirectory() as name:
        found = {s.name: scheme(Path(name) / s.name, s.name) for s in held}
        graph = prefill(Path(name) / "llama")
    (HERE / "onnx-qdq" / "ours.json").write_text(json.dumps({"schemes": found, "prefill": graph}, indent=1) + "\n")


if __name__ == "__main__":
    main()
