"""config.json and tokenizer files to GGUF metadata: the inverse of what reading a GGUF file makes of it."""

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from halve.checkpoint.base import TensorInfo
from halve.checkpoint.gguf import GgufFile
from halve.checkpoint.gguf_checkpoint import GgufCheckpoint
from halve.checkpoint.gguf_export import export
from halve.checkpoint.gguf_tokenizer import tokenizer_metadata
from halve.checkpoint.gguf_writer import ENCODING
from halve.checkpoint.pretokenizers import PRETOKENIZERS
from halve.errors import CheckpointError, UnsupportedError
from tiny import llama
from tiny.gguf_models import TinyModel
from tiny.vocabularies import byte_level, cases, sentencepiece

QKVO = ("attn_q", "attn_k", "attn_v", "attn_output")
CASES = cases()


def entries(config: dict[str, Any]) -> list[TensorInfo]:
    return [TensorInfo(name, "BF16", array.shape) for name, array in llama.decoder_weights(config).items()]


def exported(config: dict[str, Any], **changes: Any):
    changed = {key: value for key, value in (config | changes).items() if value is not ...}
    return export(entries(config), {}, changed, {})


def config_of(name="llama", **changes):
    return llama.decoder_config(name, **changes)


def listed(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in metadata.items()}


# --- architecture ---


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"tied": False},
        {"biases": (*QKVO, "ffn_gate", "ffn_up", "ffn_down")},
        {"architecture": "qwen2", "biases": QKVO[:3], "encoding": "F16"},
        {"architecture": "qwen3", "head_norms": True, "encoding": "BF16", "head": 32},
        {"metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
        {
            "metadata": {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 32,
                "llama.rope.scaling.yarn_beta_fast": 16.0,
            }
        },
        {
            "metadata": {
                "general.name": "A model",
                "general.license": "apache-2.0",
                "general.languages": ["en"],
                "general.size_label": "1K",
            }
        },
    ],
)
def test_a_gguf_model_comes_back(tmp_path, model):
    """GGUF by the `gguf` package -> Hugging Face -> the same names, shapes, types and metadata."""
    tiny = TinyModel(**model)
    source = GgufCheckpoint(tiny.write(tmp_path / "source.gguf"))
    matrices = {name: source.encoding(name).name for name in source.tensors}
    infos = [TensorInfo(name, matrices[name], info.shape) for name, info in source.tensors.items()]
    made = export(infos, {}, source.config, {})
    with GgufFile(tmp_path / "source.gguf") as file:
        for key, value in file.metadata.items():
            if not key.startswith("general.file"):
                assert made.metadata[key] == value, key
        places = {place.name: (place.encoding, place.shape) for place in made.tensors.values()}
        assert places == {name: (tensor.encoding, tensor.shape) for name, tensor in file.tensors.items()}
    heads = {name for name, place in made.tensors.items() if place.head}
    rotated = [name for name in source.tensors if ".q_proj." in name or ".k_proj." in name]
    assert heads == (set(rotated) if tiny.architecture == "llama" else set())
    source.close()


@pytest.mark.parametrize(("head", "theta", "context", "factor"), [(64, 500000.0, 8192, 8.0), (64, 1e4, 16, 4.0)])
def test_llama3_scaling_is_a_table_that_reading_understands(tmp_path, head, theta, context, factor):
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": context,
    }
    config = config_of(head_dim=head, rope_parameters={"rope_theta": theta, **scaling})
    (name, table), *others = exported(config).constants.items()
    assert (name, others, table.dtype, table.shape) == ("rope_freqs.weight", [], np.float32, (head // 2,))
    tiny = TinyModel(metadata={"llama.rope.freq_base": theta}, extra={name: (table, "F32")})
    assert GgufCheckpoint(tiny.write(tmp_path / "a.gguf")).config["rope_scaling"] == scaling


def test_values_that_config_json_leaves_out():
    config = config_of(num_key_value_heads=None, head_dim=None, num_attention_heads=4)
    metadata = exported(config, rope_theta=..., hidden_act=...).metadata
    assert metadata["llama.attention.head_count_kv"] == 4
    assert metadata["llama.attention.key_length"] == 8
    assert metadata["llama.rope.freq_base"] == 10000
    assert "llama.rope.scaling.type" not in metadata


@pytest.mark.parametrize(
    ("name", "changes", "context"),
    [
        ("mistral", {"sliding_window": 7}, 7),
        ("mistral", {"sliding_window": None}, 64),
        ("mistral", {"sliding_window": 100}, 64),
        ("mistral", {"sliding_window": 7, "layer_types": ["full_attention"] * 3}, 64),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 7}, 64),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}, 7),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3}, 64),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 7, "layer_types": ["sliding_attention"] * 3}, 7),
    ],
)
def test_the_context_ends_where_a_sliding_window_begins(name, changes, context, caplog):
    """Within its window, sliding and full attention are the same."""
    with caplog.at_level(logging.WARNING, "halve"):
        metadata = exported(config_of(name), **changes).metadata
    assert metadata[f"{metadata['general.architecture']}.context_length"] == context
    assert bool(caplog.records) == (context < 64)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model_type": "gemma3"}, UnsupportedError, "model type 'gemma3'"),
        ({"model_type": None}, UnsupportedError, "model type None"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act = 'gelu'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, UnsupportedError, "rope scaling .* 'longrope'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, UnsupportedError, "'dynamic'"),
        ({"rope_parameters": {"full_attention": {}}}, UnsupportedError, "with full_attention"),
        ({"partial_rotary_factor": 0.5}, UnsupportedError, "with partial_rotary_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "attention_factor": 1}}, UnsupportedError, "attention_factor"),
        ({"rope_scaling": [1]}, CheckpointError, "no object"),
        ({"rope_scaling": {"type": "linear"}}, CheckpointError, "has no factor"),
        ({"rope_theta": 0}, CheckpointError, "0 for rope_theta"),
        ({"rope_theta": 1e40}, CheckpointError, "1e\\+40 for rope_theta"),
        ({"hidden_size": ...}, CheckpointError, "has no hidden_size"),
        ({"hidden_size": "32"}, CheckpointError, "'32' for hidden_size"),
        ({"num_hidden_layers": True}, CheckpointError, "True for num_hidden_layers"),
        ({"num_hidden_layers": 2.5}, CheckpointError, "not a whole number"),
        ({"num_hidden_layers": 4}, CheckpointError, r"blk\.3\.attn_norm\.weight' is missing"),
        ({"num_hidden_layers": 2}, UnsupportedError, r"blk\.2\.attn_norm|blk\.2\."),
        ({"intermediate_size": 64}, CheckpointError, "has shape"),
        ({"num_key_value_heads": 3}, CheckpointError, "no attention geometry"),
        ({"model_type": "qwen2"}, UnsupportedError, "cannot hold this set of biases: none"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 2, "original_max_position_embeddings": 8,
                                 "low_freq_factor": 4, "high_freq_factor": 1}},
            CheckpointError,
            "not below",
        ),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_differently_is_refused(changes, error, says):
    with pytest.raises(error, match=says) as raised:
        exported(config_of(), **changes)
    assert raised.value.hint


def test_llama3_scaling_of_qwen_is_refused():
    """llama.cpp reads the table, and uses it for llama only."""
    scaling = llama.DECODERS["llama_rope_llama3"]["rope_parameters"]
    with pytest.raises(UnsupportedError, match="not of qwen3"):
        exported(config_of("qwen3"), rope_parameters=scaling)


def test_biases_of_qwen3_are_refused():
    with pytest.raises(UnsupportedError, match="no biases of Qwen3"):
        exported(config_of("qwen3_tied"))


@pytest.mark.parametrize(("name", "says"), [("llama_biased", "bias of an MLP"), ("qwen2", "forgets it in Qwen2's MLP")])
def test_nvfp4_where_llama_cpp_loses_its_tensor_scale_is_refused(name, says):
    """Found by running it: an assertion stops it, and Qwen2 gives NaN."""
    wide = {"hidden_size": 128, "intermediate_size": 256}
    config = config_of(name, **wide)
    for kind, refused in (("up_proj", True), ("q_proj", False)):
        infos, blocks = [], {}
        for info in entries(config):
            if info.name.endswith(f"{kind}.weight"):
                blocks[info.name] = ENCODING["NVFP4"]
                info = TensorInfo(info.name, "U8", (info.rows, info.columns // 64 * 36))  # noqa: PLW2901
            infos.append(info)
        if refused:
            with pytest.raises(UnsupportedError, match=says) as raised:
                export(infos, blocks, config, {})
            assert "mxfp4a16" in raised.value.hint
        else:
            assert export(infos, blocks, config, {}).metadata["general.architecture"]


def test_tensors_without_a_place():
    config = config_of()
    table = TensorInfo("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (4,))
    assert table.name not in export([*entries(config), table], {}, config, {}).tensors
    for name in (
        "score.weight",
        "model.layers.0.mlp.experts.0.up_proj.weight",
        "model.layers.0.self_attn.q_norm.weight",
    ):
        with pytest.raises(UnsupportedError, match=f"no place for tensor {name}"):
            export([*entries(config), TensorInfo(name, "BF16", (4, 4))], {}, config, {})
    with pytest.raises(UnsupportedError, match="F8_E4M3"):
        export([TensorInfo(e.name, "F8_E4M3", e.shape) for e in entries(config)], {}, config, {})


def test_a_tied_model_has_one_embedding():
    """transformers ignores a head that it ties; llama.cpp would use it."""
    config = config_of("llama_tied")
    head = TensorInfo("lm_head.weight", "BF16", (config["vocab_size"], config["hidden_size"]))
    assert head.name not in export([*entries(config), head], {}, config, {}).tensors
    assert head.name in exported(config_of()).tensors


def test_the_type_of_most_matrices_is_the_files():
    config = config_of(hidden_size=128, intermediate_size=256)
    plain = export(entries(config), {}, config, {}).metadata
    assert (plain["general.file_type"], plain["general.quantization_version"]) == (32, 2)
    blocks = {e.name: ENCODING["Q4_1"] for e in entries(config) if ".mlp." in e.name or ".o_proj" in e.name}
    infos = [
        TensorInfo(e.name, "U8", (e.rows, e.columns // 32 * 20)) if e.name in blocks else e for e in entries(config)
    ]
    assert export(infos, blocks, config, {}).metadata["general.file_type"] == 3


@pytest.mark.parametrize(
    ("said", "general"),
    [
        ({"_name_or_path": "org/model"}, {"name": "model"}),
        ({"_name_or_path": "/a/b/"}, {"name": "b"}),
        ({"_name_or_path": "", "gguf": []}, {}),
        ({"_name_or_path": "\ud800", "gguf": {"license": ["\udfff"], "url": 7, "tags": ["a", 1]}}, {}),
        ({"_name_or_path": "x", "gguf": {"name": "y", "license": "mit"}}, {"name": "y", "license": "mit"}),
        ({"gguf": {"architecture": "evil", "alignment": "1", "type": "x", "file_type": "y"}}, {}),
    ],
)
def test_what_is_said_of_the_model(said, general):
    metadata = exported(config_of(), **said).metadata
    assert metadata["general.architecture"] == "llama"
    found = {key.removeprefix("general."): value for key, value in metadata.items() if key.startswith("general.")}
    ours = {"architecture": "llama", "type": "model", "file_type": 32, "quantization_version": 2}
    assert found == ours | general


# --- tokenizers ---


def rebuilt(path: Path, metadata: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Tokenizer files and config.json that reading a GGUF file with ``metadata`` gives."""
    size = {"layers": 1, "hidden": 32, "intermediate": 32, "heads": 1, "kv_heads": 1, "head": 32}
    vocab = len(metadata["tokenizer.ggml.tokens"])
    checkpoint = GgufCheckpoint(TinyModel(vocab=vocab, metadata=metadata, **size).write(path))
    try:
        return checkpoint.auxiliary(), checkpoint.config
    finally:
        checkpoint.close()


@pytest.mark.parametrize("name", CASES)
def test_a_gguf_tokenizer_comes_back(tmp_path, name):
    """llama.cpp's ids for these vocabularies are recorded; the metadata that it read is what comes back."""
    original = CASES[name]
    files, config = rebuilt(tmp_path / "a.gguf", original)
    metadata = tokenizer_metadata(files, config, config["vocab_size"])
    for key, value in original.items():
        if key.endswith(".pre"):
            assert PRETOKENIZERS[metadata[key]] is PRETOKENIZERS[value or "default"]
        elif not key.endswith(".scores"):
            assert listed(metadata)[key] == value, key
    again, _ = rebuilt(tmp_path / "b.gguf", listed(metadata))
    assert again == files


def test_scores_order_pieces_as_sentencepiece_did(tmp_path):
    original = sentencepiece()
    files, config = rebuilt(tmp_path / "a.gguf", original)
    scores = tokenizer_metadata(files, config, config["vocab_size"])["tokenizer.ggml.scores"]
    merged = {"".join(pair) for pair in json.loads(files["tokenizer.json"])["model"]["merges"]}
    made = [id_ for id_, token in enumerate(original["tokenizer.ggml.tokens"]) if token in merged]
    before = np.array(original["tokenizer.ggml.scores"], np.float32)
    assert len(made) > 1000
    assert np.array_equal(np.argsort(-scores[made], kind="stable"), np.argsort(-before[made], kind="stable"))
    assert scores[made].min() > np.delete(scores[259:], np.array(made) - 259).max()  # what no merge makes comes last


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def hugging_face(steps, *, ignore_merges=False, special=("<s>", "</s>"), tokens=("he", "hel"), normalizer=None):
    """tokenizer.json of a byte-level BPE, as publishers write them."""
    vocab = {token: id_ for id_, token in enumerate([*ALPHABET, *tokens])}
    merges = [("h", "e"), ("he", "l")][: len(tokens)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def split(pattern, behavior="isolated", *, invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED = {  # how publishers write what llama.cpp has a name for
    "gpt-2": ([GPT2], {}),
    "smollm": ([pre_tokenizers.Digits(individual_digits=True), GPT2], {}),
    "llama-bpe": ([split(LLAMA3), BYTES], {"ignore_merges": True}),
    "falcon3": ([split(LLAMA3, "removed", invert=True), BYTES], {"ignore_merges": True}),
    "dbrx": ([split(LLAMA3), BYTES], {}),
    "qwen2": ([split(LLAMA3.replace("{1,3}", "")), BYTES], {"normalizer": normalizers.NFC()}),
    "deepseek-r1-qwen": ([split(LLAMA3.replace("{1,3}", "")), BYTES], {}),
}


def metadata_of(tokenizer, config=None, vocab=None, **files):
    content = {"tokenizer.json": tokenizer.to_str().encode()}
    content |= {name.replace("__", "."): json.dumps(value).encode() for name, value in files.items()}
    return tokenizer_metadata(content, config or {}, vocab or tokenizer.get_vocab_size())


@pytest.mark.parametrize("name", PUBLISHED)
def test_ways_to_split_text_as_publishers_write_them(name):
    steps, options = PUBLISHED[name]
    found = metadata_of(hugging_face(steps, **options))["tokenizer.ggml.pre"]
    assert PRETOKENIZERS[found] is PRETOKENIZERS[name]


@pytest.mark.parametrize(
    ("steps", "options", "says"),
    [
        ([split(r"\w+"), BYTES], {}, r"name for this way to split text: '\\\\w\+'"),
        ([BYTES], {}, "way to split text: ''"),
        ([split(LLAMA3), BYTES], {"normalizer": normalizers.NFKC()}, "of NFKC text"),
        ([GPT2], {"ignore_merges": True}, "words that are tokens taken whole"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], {}, "add_prefix_space"),
        ([pre_tokenizers.Punctuation(), GPT2], {}, "Punctuation"),
        ([split(LLAMA3, "removed"), BYTES], {"ignore_merges": True}, "Removed"),
        ([split(LLAMA3), split(LLAMA3, "removed", invert=True), BYTES], {"ignore_merges": True}, "Removed"),
    ],
)
def test_other_ways_to_split_text_are_refused(steps, options, says):
    with pytest.raises(UnsupportedError, match=says) as raised:
        metadata_of(hugging_face(steps, **options))
    assert "compressed-tensors" in raised.value.hint


def test_types_and_ids_of_tokens():
    tokenizer = hugging_face([GPT2], special=("<s>", "</s>", "<pad>", "<eot>"))
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<mask>", lstrip=True, special=True)])
    count = tokenizer.get_vocab_size()
    found = metadata_of(
        tokenizer,
        {"eos_token_id": [257, 261], "pad_token_id": 260},
        count + 3,
        tokenizer_config__json={"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True},
        special_tokens_map__json={"unk_token": "<mask>", "eos_token": "nonsense"},
        generation_config__json={"eos_token_id": [tokenizer.token_to_id(t) for t in ("</s>", "<eot>", "<pad>")]},
    )
    ids = {name: tokenizer.token_to_id(name) for name in ("<s>", "</s>", "<pad>", "<eot>", "<tool>", "<mask>")}
    expected = {
        "bos": ids["<s>"],
        "eos": ids["</s>"],
        "unknown": ids["<mask>"],
        "padding": 260,
        "eot": ids["<eot>"],
        "eom": ids["<pad>"],
    }
    assert {key: found[f"tokenizer.ggml.{key}_token_id"] for key in expected} == expected
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (True, False)
    types = found["tokenizer.ggml.token_type"]
    assert types.dtype == np.int32
    assert [types[id_] for id_ in ids.values()] == [3, 3, 3, 3, 4, 3]
    assert types[count:].tolist() == [5, 5, 5]
    assert found["tokenizer.ggml.tokens"][count:] == [f"[PAD{count + i}]" for i in range(3)]
    assert found["tokenizer.ggml.merges"] == ["h e", "he l"]


def test_a_token_that_strips_spaces_is_told_of(caplog):
    tokenizer = hugging_face([GPT2])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    with caplog.at_level(logging.WARNING, "halve"):
        metadata_of(tokenizer)
    assert "'<mask>'" in caplog.text


@pytest.mark.parametrize(
    ("single", "bos", "eos"),
    [("<s> $A", True, False), ("<s> $A </s>", True, True), ("$A", False, False), ("$A </s>", False, True)],
)
def test_the_post_processor_says_what_frames_a_text(single, bos, eos):
    """Whatever tokenizer_config.json says: it is what the tokenizer does."""
    tokenizer = hugging_face([GPT2])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
            ),
        ]
    )
    named = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": not bos}
    found = metadata_of(tokenizer, tokenizer_config__json=named)
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (bos, eos)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config__json": {"chat_template": "A"}}, {"tokenizer.chat_template": "A"}),
        ({"chat_template__json": {"chat_template": "B"}}, {"tokenizer.chat_template": "B"}),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [{"name": "default", "template": "A"}, {"name": "tools", "template": "T"}]
                }
            },
            {
                "tokenizer.chat_template": "A",
                "tokenizer.chat_templates": ["tools"],
                "tokenizer.chat_template.tools": "T",
            },
        ),
        ({}, {}),
    ],
)
def test_chat_templates(files, expected):
    found = metadata_of(hugging_face([GPT2]), **files)
    assert {key: value for key, value in found.items() if "chat" in key} == expected


def test_a_template_file_comes_first():
    content = {
        "tokenizer.json": hugging_face([GPT2]).to_str().encode(),
        "tokenizer_config.json": b'{"chat_template": "old"}',
        "chat_template.jinja": "ü".encode(),
    }
    assert tokenizer_metadata(content, {}, 300)["tokenizer.chat_template"] == "ü"
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: invalid UTF-8"):
        tokenizer_metadata(content | {"chat_template.jinja": b"\xff"}, {}, 300)


def test_a_model_without_tokenizer_takes_ids():
    assert tokenizer_metadata({"LICENSE": b""}, {}, 10) == {"tokenizer.ggml.model": "none"}


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "vocab.json"])
def test_a_tokenizer_in_another_file_is_refused_rather_than_left_out(name):
    with pytest.raises(UnsupportedError, match=name) as raised:
        tokenizer_metadata({name: b""}, {}, 10)
    assert "save_pretrained" in raised.value.hint


def changed(change, source=None):
    """tokenizer.json with ``change`` applied."""
    content = json.loads(source or hugging_face([GPT2]).to_str())
    change(content)
    return {"tokenizer.json": json.dumps(content).encode()}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda c: c.pop("model"), UnsupportedError, "type None"),
        (lambda c: c["model"].update(type="Unigram"), UnsupportedError, "type 'Unigram'"),
        (lambda c: c["model"].update(vocab={}), CheckpointError, "no vocabulary"),
        (lambda c: c["model"].update(vocab=[]), CheckpointError, "no vocabulary"),
        (lambda c: c["model"]["vocab"].update(he="x"), CheckpointError, "'he' has the id 'x'"),
        (lambda c: c["model"]["vocab"].update(he=True), CheckpointError, "'he' has the id True"),
        (lambda c: c["model"]["vocab"].update(he=0), CheckpointError, "'he' has the id 0"),
        (lambda c: c["model"]["vocab"].update(he=-1), CheckpointError, "from -1 to"),
        (lambda c: c["model"]["vocab"].update(he=1 << 40), CheckpointError, "the embedding has 300 rows"),
        (lambda c: c["added_tokens"][0].update(id=299, content="he"), CheckpointError, "'he' has two ids"),
        (lambda c: c["added_tokens"].append({"id": 1}), CheckpointError, "no added token"),
        (lambda c: c["added_tokens"].append(7), CheckpointError, "no added token"),
        (lambda c: c.update(added_tokens=7), CheckpointError, "added_tokens is no list"),
        (lambda c: c["model"].update(merges=7), CheckpointError, "merges is no list"),
        (lambda c: c["added_tokens"][0].update(content="\ud800"), CheckpointError, "half of a character"),
        (lambda c: c["model"]["merges"].append(["h"]), CheckpointError, "no merge"),
        (lambda c: c["model"]["merges"].append("he"), CheckpointError, "no merge"),
        (lambda c: c["model"].update(dropout=0.1), UnsupportedError, "dropout"),
        (lambda c: c.update(pre_tokenizer=[]), CheckpointError, "no step"),
        (lambda c: c.update(pre_tokenizer=None), UnsupportedError, "bytes as fallback"),
        (lambda c: c.update(post_processor={"type": "RobertaProcessing"}), UnsupportedError, "RobertaProcessing"),
    ],
)
def test_a_damaged_or_foreign_tokenizer(change, error, says):
    with pytest.raises(error, match=says) as raised:
        tokenizer_metadata(changed(change), {}, 300)
    assert raised.value.hint


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b'"\xff"'])
def test_tokenizer_files_that_are_no_json(content):
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        files = {"tokenizer.json": hugging_face([GPT2]).to_str().encode(), name: content}
        with pytest.raises(CheckpointError, match=name):
            tokenizer_metadata(files, {}, 300)


SPACE = "\u2581"


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer", "prefix"),
    [
        (None, normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]), True),
        (None, normalizers.Replace(" ", SPACE), False),
        (pre_tokenizers.Metaspace(SPACE, "first", split=False), None, True),
        (pre_tokenizers.Metaspace(SPACE, "always", split=False), None, True),
        (pre_tokenizers.Metaspace(SPACE, "never", split=False), None, False),
    ],
)
def test_sentencepiece_as_publishers_write_it(tmp_path, pre_tokenizer, normalizer, prefix):
    files, config = rebuilt(tmp_path / "a.gguf", sentencepiece())
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    content = json.loads(tokenizer.to_str())
    for key, step in (("pre_tokenizer", pre_tokenizer), ("normalizer", normalizer)):
        content[key] = None if step is None else json.loads(step.__getstate__())
    metadata = tokenizer_metadata({"tokenizer.json": json.dumps(content).encode()}, config, config["vocab_size"])
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix


def tear(merges):
    """Move one of two merges that make the same piece to the end."""
    pairs = pairwise(merges)
    merges.append(merges.pop(next(i for i, (a, b) in enumerate(pairs) if "".join(a) == "".join(b))))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["model"].update(byte_fallback=False), "without bytes as fallback"),
        (lambda c: c["model"]["vocab"].pop("<0x41>"), "without bytes as fallback"),
        (lambda c: c.update(normalizer={"type": "NFKC"}), "these steps before it: NFKC"),
        (lambda c: c.update(pre_tokenizer={"type": "Metaspace", "replacement": SPACE}), "Metaspace"),
        (lambda c: tear(c["model"]["merges"]), "merges in this order"),
        (lambda c: c["model"]["merges"].pop(), "keep"),
    ],
)
def test_sentencepiece_that_llama_cpp_would_read_otherwise_is_refused(tmp_path, change, says):
    files, config = rebuilt(tmp_path / "a.gguf", sentencepiece())
    with pytest.raises(UnsupportedError, match=says) as raised:
        tokenizer_metadata(changed(change, files["tokenizer.json"]), config, config["vocab_size"])
    assert raised.value.hint


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    files, config = rebuilt(tmp_path / "a.gguf", byte_level())
    with pytest.raises(CheckpointError, match="the embedding has 100 rows"):
        tokenizer_metadata(files, config, 100)
