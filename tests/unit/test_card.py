"""The model card: what the hub reads, what people read, that it never varies, and that people may write into it."""

import shlex
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from markdown_it import MarkdownIt  # rich brings it

import halve
from halve.cli.main import cli
from halve.evaluate.estimate import Estimate
from halve.evaluate.evaluation import Evaluation, Loss, TextFacts
from halve.evaluate.layers import LayerLoss
from halve.pipeline import card
from halve.pipeline.loss import TensorLoss
from halve.pipeline.serving import servings
from halve.schemes import get
from halve.schemes.recipe import Recipe
from tiny import llama
from tiny.page import Page

SHA = "5a" * 32
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ATTACK = "</table><img src=x onerror=alert(1)> | `` [a](javascript:b) \n# c"


def facts(**changed):
    usual = {
        "origin": card.Origin("org/model", SHA, "org/model", COMMIT),
        "command": "halve quantize org/model OUT --scheme nvfp4a16",
        "architecture": "LlamaForCausalLM",
        "schemes": {get("nvfp4a16"): 210},
        "recipe": Recipe(scheme="nvfp4a16", layout="compressed-tensors", rule="max"),
        "layout": "compressed-tensors",
        "lossy": "",
        "engines": ("vLLM 0.32", "transformers 5.17"),
        "weight_files": ("model.safetensors",),
        "bytes": 116_000_000,
        "source_bytes": 269_000_000,
        "bpw": 4.5,
        "losses": tuple(TensorLoss(f"model.layers.{i}.mlp.{k}_proj.weight", 20.0 + i) for i in range(12) for k in "ab"),
        "kept": (
            ("model.embed_tokens.weight", "embedding"),
            *((f"model.layers.{i}.input_layernorm.weight", "1-D") for i in range(12)),
        ),
    }
    return card.CardFacts(**usual | changed)


def shown(text):
    """The card as a Markdown reader that lets HTML through shows it, without the metadata."""
    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2]))


def metadata(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def evaluation(kld=0.2):
    loss = Loss(
        operands="weights",
        about="weights in full",
        ppl=Estimate(12.0, 2.0),
        ppl_ratio=Estimate(1.1, 0.01),
        kld=Estimate(kld, 0.01),
        kld_99=1.0,
        kld_max=4.0,
        same_top=Estimate(80.0, 1.0),
        passages=(),
    )
    return Evaluation(
        path=Path("out"),
        against=Path("/home/someone/base"),
        against_bytes=269_000_000,
        label="nvfp4a16",
        elements=("fp4_e2m1",),
        bytes=116_000_000,
        bpw=4.5,
        texts=(TextFacts("a text", "ab" * 32, 4),),
        window=512,
        scored=1024,
        base_ppl=Estimate(11.0, 2.0),
        losses=(loss,),
        layers=(LayerLoss("model.layers.0.mlp.up_proj", 20.0, 21.0, None),),
        sample=None,
        eval_tokens_per_s=500.0,
        seconds=3.0,
    )


def test_what_the_hub_reads():
    assert metadata(card.render(facts())) == {
        "base_model": "org/model",
        "base_model_relation": "quantized",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["halve", "nvfp4a16", "compressed-tensors", "vllm", "transformers"],
    }


def test_a_base_that_is_no_repository_is_not_given_to_the_hub():
    found = metadata(card.render(facts(origin=card.Origin("my model", SHA))))
    assert not {"base_model", "base_model_relation"} & found.keys()


def test_a_cast_is_no_quantization():
    text = card.render(facts(schemes={get("bf16"): 9}, layout="dense", recipe=Recipe(scheme="bf16", layout="dense")))
    assert "base_model_relation" not in metadata(text)
    assert "cast to bf16" in text
    assert "quantized weight" not in text


def test_other_architectures_and_engines():
    found = metadata(card.render(facts(architecture="BertModel", engines=("llama.cpp b9999",))))
    assert "pipeline_tag" not in found
    assert found["library_name"] == "gguf"


def test_what_people_read():
    text = card.render(facts())
    for words in (
        "# org/model in nvfp4a16",
        f"`org/model` at `{COMMIT}`",
        SHA,
        "without any data",
        f"halve {halve.__version__}",
        f"pip install 'halve=={halve.__version__}'\nhalve quantize org/model OUT --scheme nvfp4a16\n",
        "| weight files | 116.0 MB, 43.1 % of the source's 269.0 MB |",
        "| 1-D | `model.layers.*.input_layernorm.weight` | 12 |",
        "| `mlp.a_proj` | 12 | 25.50 | 20.00 |",
        "vllm serve OUT",
        'AutoModelForCausalLM.from_pretrained("OUT"',
    ):
        assert words in text, words
    worst = text[text.index("| worst tensors") :]
    assert worst.count("model.layers.") == card.WORST
    assert "Warnings" not in text
    assert "\n\n\n" not in text


def test_what_lost_nothing():
    same = card.render(facts(losses=(TensorLoss("a.weight", inf),)))
    assert "every weight has the value that it had" in same
    some = card.render(facts(losses=(TensorLoss("a.weight", inf), TensorLoss("b.weight", 30.0))))
    assert "1 more tensors have lost nothing" in some


def test_statistics_and_transforms_are_named():
    recipe = Recipe(
        scheme="nvfp4", layout="compressed-tensors", algorithm="gptq", statistics="cd" * 32, transforms=("smoothquant",)
    )
    text = card.render(facts(recipe=recipe))
    assert "without any data" not in text
    assert f"sha256 `{'cd' * 32}`" in text
    assert "`gptq`, after `smoothquant`" in text
    assert "STATS is the file" in text


def test_conversions_say_so():
    text = card.render(facts(converted="modelopt", losses=()))
    assert "nvfp4a16 as `modelopt`, converted to `compressed-tensors` with the codes that they had" in text
    assert "| codes |" not in text


@pytest.mark.parametrize(
    ("engine", "files", "says"),
    [
        ("vLLM 0.32", ["model.safetensors"], "vllm serve OUT"),
        ("SGLang 0.5", ["model.safetensors"], "sglang.launch_server --model-path OUT"),
        ("TensorRT-LLM 1.3", ["model.safetensors"], "trtllm-serve OUT"),
        ("llama.cpp b7000", ["model-nvfp4.gguf"], "llama-server -m OUT/model-nvfp4.gguf"),
        ("transformers 5.17 + amd-quark 0.13", ["model.safetensors"], "AutoModelForCausalLM"),
        ("onnxruntime 1.23", ["model.onnx", "model.onnx_data"], 'InferenceSession("OUT/model.onnx")'),
        ("torch 2.13", ["model.pt"], 'torch.load("OUT/model.pt", weights_only=True)'),
    ],
)
def test_how_to_run_it(engine, files, says):
    (serving,) = servings([engine], files)
    assert (serving.engine, says in serving.lines) == (engine, True)
    assert says in card.render(facts(engines=(engine,), weight_files=tuple(files)))


def test_only_what_the_layout_says_is_named():
    text = card.render(facts(engines=("llama.cpp b7000",), weight_files=("a.gguf",)))
    for other in ("vllm", "transformers", "trtllm"):
        assert other not in text
    assert "Run it" not in card.render(facts(engines=()))
    assert "Unheard Of 1 loads it." in card.render(facts(engines=("Unheard Of 1",)))
    assert [s.engine for s in servings(["every engine"], ["model.safetensors"])] == ["vLLM", "transformers"]
    assert servings(["llama.cpp b7000"], ["model.safetensors"])[0].lines == ""


def test_what_comes_from_a_checkpoint_is_no_markup():
    hostile = facts(
        origin=card.Origin(ATTACK, SHA),
        architecture=ATTACK,
        losses=(TensorLoss(ATTACK, 3.0),),
        kept=((ATTACK, ATTACK),),
        warnings=(ATTACK,),
        command=shlex.join(["halve", "quantize", ATTACK, "OUT"]),
    )
    text = card.render(hostile)
    page = shown(text)
    simple = {"kept": (("a", "why"),), "losses": (TensorLoss("a", 3.0),), "warnings": ("w",)}
    plain = shown(card.render(facts(origin=card.Origin("a", SHA), **simple)))
    assert page.tags == plain.tags
    assert page.text.count("onerror=alert(1)") >= 8
    yaml.safe_load(text.split("---\n")[1])


def test_where_a_source_comes_from(tmp_path):
    snapshot = tmp_path / "models--org--a-model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    found = card.origin(snapshot, SHA)
    assert found == card.Origin("org/a-model", SHA, "org/a-model", COMMIT, str(snapshot))
    assert found.spec == f"org/a-model@{COMMIT}"
    plain = card.origin(tmp_path / "my model", SHA)
    assert (plain.name, plain.repository, plain.spec) == ("my model", "", "my model")


@pytest.fixture
def source(tmp_path):
    return llama.write(tmp_path / "source")


def made(source, out, scheme, **choices):
    result = halve.quantize(source, out, scheme, **choices)
    return card.facts_of(
        result.plan,
        card.origin(source, SHA),
        weight_files=["model.safetensors"],
        nbytes=result.bytes,
        losses=result.losses,
        warnings=result.warnings,
    )


def test_the_command_makes_the_same_bytes(source, tmp_path, monkeypatch):
    choices = {
        "rule": "rceil",
        "ignore": ["re:.*layers\\.0\\..*q_proj", "model.layers.1.mlp.up_proj"],
        "include": ["model.layers.0.mlp.gate_proj"],
        "overrides": [("re:.*down_proj", "mxfp8a16")],
        "on_nonfinite": "keep",
    }
    found = made(source, tmp_path / "one", "mxfp4a16", **choices)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(found.command)
    assert words[:3] == ["halve", "quantize", "source"]
    done = CliRunner().invoke(cli, words[1:])
    assert done.exit_code == 0, done.output
    for name in ("model.safetensors", "config.json", "halve.json"):
        assert (tmp_path / "OUT" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


def test_a_long_recipe_is_read_from_halve_json(source, tmp_path):
    overrides = [(f"model.layers.{i}.mlp.{kind}_proj", "mxfp8a16") for i in range(2) for kind in ("up", "gate", "down")]
    ignore = [f"model.layers.{i}.self_attn.o_proj" for i in range(2)]
    found = made(source, tmp_path / "one", "mxfp4a16", overrides=overrides, ignore=[*ignore, "re:.*layers.1.*k_proj"])
    assert found.command == "halve quantize source OUT --recipe halve.json"


def test_facts_of_a_job(source, tmp_path):
    choices = {"overrides": [("re:.*down_proj", "fp8_dynamic")]}
    found = made(source, tmp_path / "out", "nvfp4a16", **choices)
    assert [scheme.name for scheme in found.schemes] == ["nvfp4a16", "fp8_dynamic"]
    assert list(found.schemes.values()) == [6 * llama.LAYERS, llama.LAYERS]
    assert found.label == "nvfp4a16 + fp8_dynamic"
    assert "vLLM 0.32" in found.engines
    assert found.source_bytes == sum(w.nbytes for w in llama.weights().values())
    assert {why for _, why in found.kept} == {"embedding", "1-D"}
    text = card.render(found)
    assert str(tmp_path) not in text
    assert text == card.render(made(source, tmp_path / "again", "nvfp4a16", **choices))


def test_warnings_name_no_path(source, tmp_path):
    (source / "tokenizer.json").unlink()
    text = card.render(made(source, tmp_path / "out", "w8a8"))
    assert "- source has no tokenizer files" in text
    assert str(tmp_path) not in text


def test_a_job_that_changes_nothing(source, tmp_path):
    text = card.render(made(source, tmp_path / "out", "bf16"))
    assert "# source in bf16" in text
    assert "every weight has the value that it had" in text


def test_an_evaluation_is_added_and_replaced():
    plain = card.render(facts())
    once = card.with_evaluation(plain, evaluation())
    assert "Not measured yet" not in once
    for words in ("| weights | 12.000 ± 2.000 | 1.1000 ± 0.0100 |", "`base`, the base", "`model.layers.0.mlp.up_proj`"):
        assert words in once, words
    assert "/home/someone" not in once
    assert card.with_evaluation(once, evaluation()) == once
    again = card.with_evaluation(once, evaluation(kld=0.3))
    assert "0.30000 ± 0.01000" in again
    assert "0.20000 ± 0.01000" not in again
    before, after = plain.split(card.BEGIN)[0], plain.split(card.END)[1]
    assert again.startswith(before)
    assert again.endswith(after)


def test_what_people_have_written_stays():
    mine = "# My model\r\n\r\nWords of mine.\n\n" + card.BEGIN + "\nold\n" + card.END + "\r\n\nMore words.  "
    text = card.with_evaluation(mine, evaluation())
    assert text.startswith("# My model\r\n\r\nWords of mine.\n\n")
    assert text.endswith("\r\n\nMore words.  ")
    assert "\nold\n" not in text


@pytest.mark.parametrize("readme", ["", "# Mine\n", f"# Mine\n{card.BEGIN}\n", f"{card.END}\n# Mine\n"])
def test_a_readme_without_the_section_gains_one(readme):
    text = card.with_evaluation(readme, evaluation())
    assert text.startswith(readme.rstrip())
    assert text.count("## Evaluation") == 1
    assert text.rstrip().endswith(card.END)
    assert text.count(card.BEGIN) == 1 + readme.count(card.BEGIN)


def test_an_evaluation_without_a_base():
    found = evaluation()
    alone = replace(
        found,
        against=None,
        base_ppl=None,
        layers=(),
        losses=(replace(found.losses[0], ppl_ratio=None, kld=None, kld_99=None, kld_max=None, same_top=None),),
    )
    text = card.with_evaluation("", alone)
    assert "| weights | 12.000 ± 2.000 |" in text
    assert "the base" not in text
