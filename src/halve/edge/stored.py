"""Which activations an integer target keeps in memory: the operands of products, sums, joins and pools.

What lies between two of them is computed without rounding in between, as compilers for such targets do: a product and
the function of it that follows (ReLU, HardSwish written as a sum, a clip and a product ...) are one step.
"""

import numpy as np

from halve.edge.model import PRODUCTS, FloatModel

_ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Mish", "HardSwish", "Softplus", "Softsign")
_FUNCTIONS = (
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "Tanh",
    "Erf",
    "Exp",
    "Sqrt",
    "Pow",
    "Reciprocal",
    "Abs",
    "Neg",
    "Identity",
)
_POINTWISE = frozenset(_ACTIVATIONS + _FUNCTIONS)
_BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Min", "Max"))
_JOINING = frozenset(("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "Resize"))


def stored(model: FloatModel) -> tuple[str, ...]:
    """Names of the activations to quantize, in the order in which they are computed."""
    roots: dict[str, str] = {}
    wanted: set[str] = set()
    for node in model.nodes:
        operands = [name for name in node.input if name and name not in model.constants]
        found = {roots.get(name, name) for name in operands}
        if node.op_type in _POINTWISE | _BINARY and len(found) == 1:
            roots[node.output[0]] = found.pop()
        elif node.op_type in PRODUCTS:
            wanted.update(operands[: 2 if node.op_type == "MatMul" else 1])
        elif node.op_type in _JOINING:
            wanted.update(operands[:1] if node.op_type == "Resize" else operands)
    given = [one.name for one in model.inputs if one.dtype == np.float32]
    computed = [name for node in model.nodes for name in node.output]
    return tuple(name for name in (*given, *computed) if name in wanted and _is_float(model, name))


def _is_float(model: FloatModel, name: str) -> bool:
    return model.types.get(name) == np.float32
