"""The prefill graph of the Llama family (Llama, SmolLM2, Mistral, Qwen2, Qwen3): token ids in, logits out, no cache.

    input_ids INT64 [batch, sequence]  ->  logits FLOAT [batch, sequence, vocabulary]

Any batch and sequence; every sequence starts at position 0 and each token sees those before it, so padding belongs at
the end. Arithmetic is float32 whatever the weights are stored in, and states what `halve.runtime` computes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

import halve
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.onnx_checkpoint import PRODUCER
from halve.checkpoint.onnx_types import BY_DTYPE, FLOAT
from halve.errors import CheckpointError, UnsupportedError
from halve.models import families
from halve.models.decoder import EMBEDDING, NORM, Decoder
from halve.models.linear import OUTPUT_HEAD
from halve.onnx import parts, qdq
from halve.onnx.builder import Builder
from halve.onnx.parts import Part
from halve.schemes import Scheme

INPUT, OUTPUT = "input_ids", "logits"
_OPSET = 19  # at least: the oldest DequantizeLinear that the reference evaluator of onnx implements
_FAMILY = ("llama", "mistral", "qwen2", "qwen3")
_AGAIN = "the checkpoint is incomplete or its config.json is not its own: fetch it again"


def prefill(
    config: Mapping[str, Any], entries: Sequence[TensorInfo], quantized: Mapping[str, Scheme], name: str
) -> tuple[ModelProto, list[Part]]:
    """The graph of the model that ``config`` describes, and the initializers that ``entries`` are, still to be placed.

    ``entries`` are the tensors of the file, ``quantized`` the schemes of modules; casts are no such schemes. ``name``
    is what errors call the model.

    Raises UnsupportedError for an architecture that halve does not compute, CheckpointError for tensors that are
    missing or of another shape than ``config`` says.
    """
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > len(entries):
        raise CheckpointError(
            f"{name}: config.json says {layers} layers, and there are {len(entries)} tensors", hint=_AGAIN
        )
    decoder = families.decoder(config, name=name)
    _check(decoder, config, name)
    graph = _Prefill(decoder, entries, quantized, name)
    value = graph.logits()
    vocabulary = decoder.geometry.vocab
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.INT64, ["batch", "sequence"])]
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", "sequence", vocabulary])]
    builder = graph.builder
    body = helper.make_graph(builder.nodes, "prefill", inputs, outputs, builder.initializers)
    opset = helper.make_opsetid("", max([_OPSET, *map(parts.opset, quantized.values())]))
    model = helper.make_model(
        body,
        producer_name=PRODUCER,
        producer_version=halve.__version__,
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
    )
    return model, [graph.placed[entry.name] for entry in entries]


def _check(decoder: Decoder, config: Mapping[str, Any], name: str) -> None:
    """Raise UnsupportedError for what this graph has no nodes for."""
    if config["model_type"] not in _FAMILY:
        raise UnsupportedError(
            f"{name}: there is no ONNX graph of {config['model_type']} models yet", hint=f"known: {', '.join(_FAMILY)}"
        )
    if decoder.rotaries[0].long_frequencies is not None:
        raise UnsupportedError(
            f"{name}: there is no ONNX graph of rope scaling 'longrope' yet",
            hint="known: default, linear, llama3, yarn",
        )
    if decoder.activation != "silu":
        raise UnsupportedError(f"{name}: there is no ONNX graph of {decoder.activation} yet", hint="known: silu")


class _Prefill:
    """The graph, built from the input on."""

    def __init__(
        self, decoder: Decoder, entries: Sequence[TensorInfo], quantized: Mapping[str, Scheme], name: str
    ) -> None:
        self.decoder, self.geometry = decoder, decoder.geometry
        self.name = name
        self.quantized = quantized
        self.entries = {entry.name: entry for entry in entries}
        self.builder = Builder({INPUT, OUTPUT, *self.entries})
        self.shapes = {parameter.name: parameter.shape for parameter in self.geometry.parameters}
        self.placed: dict[str, Part] = {}

    def logits(self) -> str:
        """Append everything; the name of the output."""
        add = self.builder.add
        positions = self._positions()
        cosines, sines = self._angles(positions)
        embedding = self._stored(f"{EMBEDDING}.weight")
        x = self._floats(add("Gather", embedding.name, INPUT, axis=0), embedding)
        for index, window in enumerate(self.decoder.windows):
            layer = f"model.layers.{index}"
            mask, normed = self._mask(positions, window), self._normed(x, f"{layer}.input_layernorm")
            x = add("Add", x, self._attention(f"{layer}.self_attn", normed, cosines, sines, mask))
            normed = self._normed(x, f"{layer}.post_attention_layernorm")
            x = add("Add", x, self._mlp(f"{layer}.mlp", normed))
        head = EMBEDDING if self.geometry.tied else OUTPUT_HEAD
        normed = self._normed(x, NORM)
        self._linear(head, normed, output=OUTPUT)
        for name in [name for name in self.entries if name not in self.placed]:
            self._stored(name)  # belongs to no layer, such as the frequencies that old checkpoints store
        return OUTPUT

    def _positions(self) -> str:
        """0, 1, 2 ... [sequence]."""
        builder = self.builder
        length = builder.add("Shape", INPUT, start=1, end=2)
        last = builder.add("Squeeze", length)
        return builder.add("Range", builder.integers(0), last, builder.integers(1))

    def _angles(self, positions: str) -> tuple[str, str]:
        """Cosines and sines [sequence, head_dim / 2]."""
        builder = self.builder
        column = builder.add("Unsqueeze", builder.cast(positions), builder.integers([1]))
        rotary = self.decoder.rotaries[0]
        angles = builder.add("Mul", column, builder.floats(rotary.frequencies))
        cosines, sines = builder.add("Cos", angles), builder.add("Sin", angles)
        if rotary.scale == 1:
            return cosines, sines
        scale = builder.floats(rotary.scale)
        return builder.add("Mul", cosines, scale), builder.add("Mul", sines, scale)

    def _mask(self, positions: str, window: int | None) -> str:
        """What is added to scores [sequence, sequence]: 0, or -inf where a query must not see a key."""
        once, builder = self.builder.once, self.builder
        queries = once("Unsqueeze", positions, builder.integers([1]))
        keys = once("Unsqueeze", positions, builder.integers([0]))
        seen = once("LessOrEqual", keys, queries)
        if window is not None:
            near = once("Less", once("Sub", queries, keys), builder.integers(window))
            seen = once("And", seen, near)
        return once("Where", seen, builder.floats(0), builder.floats(-np.inf))

    def _attention(self, name: str, x: str, cosines: str, sines: str, mask: str) -> str:
        g, builder, add = self.geometry, self.builder, self.builder.add
        groups = g.heads // g.kv_heads
        q = self._heads(self._linear(f"{name}.q_proj", x), groups, f"{name}.q_norm")
        k = self._heads(self._linear(f"{name}.k_proj", x), 1, f"{name}.k_norm")
        v = self._heads(self._linear(f"{name}.v_proj", x), 1)
        q = add("Mul", self._rotated(q, cosines, sines), builder.floats(g.head_dim**-0.5))
        keys = add("Transpose", self._rotated(k, cosines, sines), perm=[0, 1, 2, 4, 3])
        scores = add("Add", add("MatMul", q, keys), mask)
        mixed = add("MatMul", add("Softmax", scores, axis=-1), v)  # [batch, kv heads, groups, sequence, head_dim]
        by_token = add("Transpose", mixed, perm=[0, 3, 1, 2, 4])
        joined = add("Reshape", by_token, builder.integers([0, 0, g.heads * g.head_dim]))
        return self._linear(f"{name}.o_proj", joined)

    def _heads(self, x: str, groups: int, norm: str = "") -> str:
        """[batch, sequence, heads * head_dim] -> [batch, kv heads, groups, sequence, head_dim]."""
        g, builder = self.geometry, self.builder
        split = builder.add("Reshape", x, builder.integers([0, 0, g.kv_heads, groups, g.head_dim]))
        if norm and g.qk_norm:
            split = self._normed(split, norm)
        return builder.add("Transpose", split, perm=[0, 2, 3, 1, 4])

    def _rotated(self, heads: str, cosines: str, sines: str) -> str:
        """Component j of a head pairs with j + head_dim / 2."""
        add, builder = self.builder.add, self.builder
        halves = (builder.unused("left"), builder.unused("right"))
        left, right = builder.split("Split", heads, outputs=halves, axis=-1, num_outputs=2)
        turned = add("Sub", add("Mul", left, cosines), add("Mul", right, sines))
        other = add("Add", add("Mul", right, cosines), add("Mul", left, sines))
        return add("Concat", turned, other, axis=-1)

    def _mlp(self, name: str, x: str) -> str:
        add = self.builder.add
        gate, up = self._linear(f"{name}.gate_proj", x), self._linear(f"{name}.up_proj", x)
        silu = add("Mul", gate, add("Sigmoid", gate))
        return self._linear(f"{name}.down_proj", add("Mul", silu, up))

    def _normed(self, x: str, module: str) -> str:
        """RMSNorm over the last axis."""
        add, builder = self.builder.add, self.builder
        squares = add("Pow", x, builder.floats(2))
        mean = add("ReduceMean", squares, builder.integers([-1]), keepdims=1)
        root = add("Sqrt", add("Add", mean, builder.floats(self.decoder.eps)))
        return add("Mul", add("Div", x, root), self._parameter(f"{module}.weight"))

    def _linear(self, module: str, x: str, output: str = "") -> str:
        """The product with a weight, and its bias where the model has one."""
        builder, name = self.builder, f"{module}.weight"
        scheme, shape = self.quantized.get(module), self.shapes[name]
        biased = f"{module}.bias" in self.shapes
        output = output or builder.unused(module)
        if scheme is None:
            weight = builder.once("Transpose", self._parameter(name), perm=[1, 0])
        else:
            stored = parts.parts(name, (shape[0], shape[1]), scheme)
            for part in stored:
                self._place(part)
            weight = qdq.weight(builder, stored, name)
            x = qdq.inputs(builder, x, stored)
        y = builder.add("MatMul", x, weight, output="" if biased else output)
        return builder.add("Add", y, self._parameter(f"{module}.bias"), output=output) if biased else y

    def _parameter(self, name: str) -> str:
        """A tensor that is not quantized, in float32."""
        return self._floats(name, self._stored(name))

    def _floats(self, value: str, stored: Part) -> str:
        """``value``, of the type of ``stored``, in float32."""
        return value if stored.type is FLOAT else self.builder.cast(value)

    def _stored(self, name: str) -> Part:
        """A tensor that is not quantized, as it is stored."""
        entry, shape = self.entries.get(name), self.shapes.get(name)
        if entry is None:
            raise CheckpointError(f"{self.name}: tensor {name} is missing", hint=_AGAIN)
        if shape is not None and entry.shape != shape:
            raise CheckpointError(
                f"{self.name}: {name} has shape {list(entry.shape)}, config.json says {list(shape)}", hint=_AGAIN
            )
        if name not in self.placed:
            part = Part(name, BY_DTYPE[entry.dtype], entry.shape)
            self._place(part)
            self.builder.initializer(part)
        return self.placed[name]

    def _place(self, part: Part) -> None:
        """Mark an entry as used. Raises CheckpointError where it is missing or another."""
        info = part.info
        if self.entries.get(info.name) != info:
            raise CheckpointError(
                f"{self.name}: {info.name} is not the {info.dtype} {list(info.shape)} that config.json asks for",
                hint=_AGAIN,
            )
        self.placed[info.name] = part
