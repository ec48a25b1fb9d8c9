"""The words in which architectures are written down, and the pieces that many of them are made of.

A file of this package states, as data, one or more families of models that name their weights alike: `FAMILIES`. Names
are those of checkpoints as they are published; where transformers 5 holds weights under other names (and saves them so
with ``save_original_format=False``), patterns match both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from halve.models.fused import GATE_UP, QKV, QKV_A, W13


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What stands behind one norm of a decoder layer. Patterns are regular expressions of modules within the layer.

    ``reads`` are all modules with weights that take the output of ``norm``; without a norm no factor can be moved from
    it to them. ``inner`` are the branch's other linear layers, and convolutions. Both are quantized, except those
    that ``kept`` gives a reason for (and routers, which `halve.models.linear` knows).
    """

    reads: tuple[str, ...]
    norm: str = ""
    inner: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flow:
    """Two linear layers side by side, the second of which takes what the first puts out, times something at most.

    ``last``: its channels are the last rows of ``producer``, which is more layers in one. ``heads``: attention stands
    between them, so that with grouped queries several blocks of columns belong to one of rows.
    """

    producer: str
    consumer: str
    last: bool = False
    heads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How ``experts.gate_up_proj`` and ``experts.down_proj`` hold the matrices of all experts of a layer.

    ``transposed``: [experts, in, out]; the hidden size tells it from the shape, and this where the shape does not.
    ``gate_up`` are the parts of the first in their order, halves of its rows; one part where engines want it whole.
    """

    transposed: bool = False
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    down: str = "down_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that name their weights alike.

    ``model_types`` are those of config.json whose names, shapes and edges were tested against transformers' classes;
    those of ``guessed`` are said to be built alike. ``kept`` are linear layers outside of the branches, by their whole
    name. ``fused`` maps the last part of a module's name to the layer that engines make of it and its neighbours.
    ``norm_offset`` is what norms of branches add to their weight.
    """

    name: str
    model_types: tuple[str, ...]
    guessed: tuple[str, ...] = ()
    branches: tuple[Branch, ...]
    flows: tuple[Flow, ...] = ()
    fused: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)
    norm_offset: float = 0.0
    packing: Packing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """Models that see or hear, around a language model.

    ``towers`` are the modules that the language model is not, left alone. The language model is what ``text_config``
    says; of model type ``language`` where it does not.
    """

    name: str
    model_types: tuple[str, ...]
    guessed: tuple[str, ...] = ()
    towers: tuple[str, ...]
    language: str


ATTENTION = Branch(norm="input_layernorm", reads=(r"self_attn\.[qkv]_proj",), inner=(r"self_attn\.o_proj",))
MLP = Branch(norm="post_attention_layernorm", reads=(r"mlp\.(gate|up)_proj",), inner=(r"mlp\.down_proj",))
# experts beside each other, experts that every token takes, layers without experts, and what chooses
MOE = Branch(
    norm="post_attention_layernorm",
    reads=(r"mlp\.((experts\.\d+|shared_experts?)\.)?(gate|up)_proj", r"mlp\.gate", r"mlp\.shared_expert_gate"),
    inner=(r"mlp\.((experts\.\d+|shared_experts?)\.)?down_proj",),
)
# `mlp` is what transformers 5 calls it in memory
MIXTRAL_MOE = Branch(
    norm="post_attention_layernorm",
    reads=(r"(block_sparse_moe|mlp)\.experts\.\d+\.w[13]", r"(block_sparse_moe|mlp)\.(gate|router)"),
    inner=(r"(block_sparse_moe|mlp)\.experts\.\d+\.w2",),
)
# Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1); small models have no q_a_proj
LATENT = (
    Branch(
        norm="input_layernorm",
        reads=(r"self_attn\.(q_proj|q_a_proj|kv_a_proj_with_mqa)",),
        inner=(r"self_attn\.o_proj",),
    ),
    Branch(norm="self_attn.q_a_layernorm", reads=(r"self_attn\.q_b_proj",)),
    Branch(norm="self_attn.kv_a_layernorm", reads=(r"self_attn\.kv_b_proj",)),
)
# the same with a lightning indexer (DeepSeek-V3.2); engines make one 16-bit layer of wk and weights_proj
SPARSE_LATENT = (
    Branch(
        norm="input_layernorm",
        reads=(
            r"self_attn\.(q_proj|q_a_proj|kv_a_proj_with_mqa)",
            r"self_attn\.indexer\.(wk|weights_proj)",
        ),
        inner=(r"self_attn\.o_proj",),
        kept={r"self_attn\.indexer\.(wk|weights_proj)": "indexer"},
    ),
    Branch(norm="self_attn.q_a_layernorm", reads=(r"self_attn\.q_b_proj", r"self_attn\.indexer\.wq_b")),
    Branch(norm="self_attn.kv_a_layernorm", reads=(r"self_attn\.kv_b_proj",)),
)

VALUES = Flow("v_proj", "o_proj", heads=True)
FUSED_VALUES = Flow("qkv_proj", "o_proj", last=True, heads=True)
UP = Flow("up_proj", "down_proj")
FUSED_UP = Flow("gate_up_proj", "down_proj", last=True)
W3 = Flow("w3", "w2")

LLAMA_FUSED = QKV | GATE_UP
MIXTRAL_FUSED = QKV | W13
LATENT_FUSED = QKV_A | GATE_UP
MIXTRAL_PACKING = Packing(gate_up=("w1", "w3"), down="w2")
# The layer behind the last, which predicts the token after the next: what no other layer has
NEXT_TOKEN = {
    r".*\.layers\.\d+\.shared_head\.head": "output head",
    r".*\.layers\.\d+\.eh_proj": "multi-token prediction",
}
