"""A budget is kept, and spent where it matters: by Fisher information where there is some."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import halve
from halve.errors import RecipeError, UnsupportedError
from halve.evaluate import passages
from halve.evaluate.builtin import builtin
from halve.evaluate.scores import score
from halve.pipeline import sensitivity as sensitivity_module
from halve.pipeline.budget import Budget
from halve.pipeline.calibrate import calibrate
from halve.pipeline.quantize import planned
from halve.pipeline.runnable import runnable
from halve.pipeline.sensitivity import WINDOW, Sensitivity
from halve.pipeline.statistics import KIND
from tiny import llama, speaker

ALLOW = ("fp8",)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("budget")
    source = speaker.write(root / "source")
    (root / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    calibrate(source, root / "stats", texts=[str(root / "text.txt")], windows=3, window=32)
    return source, root / "stats"


def mixed(made, out, budget, *, stats=None, allow=ALLOW, **choices):
    return halve.quantize(
        made[0], out, "nvfp4a16", stats=stats or made[1], algorithm="rtn", budget=budget, allow=allow, **choices
    )


def schemes_of(result):
    return {t.source.name: t.scheme.name for t in result.plan.quantized}


def with_fisher(made, out, matters):
    """The statistics, and gradients as a backward pass finds them: ``matters`` says how large a module's are."""
    tensors = load_file(made[1])
    with safe_open(made[1], "numpy") as opened:
        metadata = opened.metadata()
    checkpoint = load_file(made[0] / "model.safetensors")
    for name, w in checkpoint.items():
        if name.endswith("_proj.weight"):
            tensors[name.removesuffix("weight") + "gradient_square"] = np.full(len(w), matters(name), np.float32)
    save_file(tensors, out, {KIND: metadata[KIND]})
    return out


def test_bits_are_kept(made, tmp_path):
    found = [mixed(made, tmp_path / str(bpw), Budget(bpw=bpw)).plan for bpw in (5.0, 6.0, 7.0)]
    for bpw, plan in zip((5.0, 6.0, 7.0), found, strict=True):
        assert bpw - 0.7 < plan.bpw <= bpw
    assert found[0].bpw < found[1].bpw < found[2].bpw


def test_a_size_is_kept(made, tmp_path):
    largest = sum(t.nbytes for t in halve.quantize(made[0], tmp_path / "a", "fp8").plan.tensors)
    smallest = sum(t.nbytes for t in halve.quantize(made[0], tmp_path / "b", "nvfp4a16").plan.tensors)
    size = (largest + smallest) // 2 + 20_000  # headers
    result = mixed(made, tmp_path / "out", Budget(nbytes=size))
    assert sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) <= size
    assert set(schemes_of(result).values()) == {"nvfp4a16", "fp8"}


def test_fused_layers_are_one_choice(made, tmp_path):
    chosen = schemes_of(mixed(made, tmp_path / "out", Budget(bpw=6.0)))
    for layer in range(2):
        attention = {chosen[f"model.layers.{layer}.self_attn.{part}_proj.weight"] for part in "qkv"}
        assert len(attention) == 1
        assert len({chosen[f"model.layers.{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up")}) == 1


@pytest.mark.parametrize("kind", ["o_proj", "down_proj"])
def test_what_matters_to_the_loss_gets_the_bits(made, tmp_path, kind):
    stats = with_fisher(made, tmp_path / "fisher", lambda name: 100.0 if kind in name else 1e-6)
    chosen = schemes_of(mixed(made, tmp_path / "out", Budget(bpw=6.5), stats=stats))
    assert {scheme for name, scheme in chosen.items() if kind in name} == {"fp8"}


def test_without_gradients_what_each_group_does_to_the_model_is_measured(made, tmp_path, monkeypatch):
    asked = []

    def divergence(self, weights):
        asked.append(set(weights))
        return 1.0 if any("o_proj" in module for module in weights) else 1e-6

    monkeypatch.setattr(Sensitivity, "divergence", divergence)
    chosen = schemes_of(mixed(made, tmp_path / "out", Budget(bpw=6.5)))
    assert {scheme for name, scheme in chosen.items() if "o_proj" in name} == {"fp8"}
    assert {f"model.layers.0.self_attn.{part}_proj" for part in "qkv"} in asked
    assert len(asked) == 8  # four fused groups in each of two layers


def test_a_divergence_is_that_of_the_model_with_these_weights(made):
    sensitivity, model = Sensitivity(made[0]), halve.load(made[0])
    name = "model.layers.1.mlp.down_proj"
    other = model.linears[name].weight + np.float32(0.05)
    cut = [
        p
        for t in builtin("pick")
        for p in passages.cut(t, model.tokenizer, windows=1, window=min(WINDOW, model.context))
    ]
    before = [model.logits(p.inputs, start=p.start) for p in cut]
    model.linears[name].weight[:] = other
    after = [model.logits(p.inputs, start=p.start) for p in cut]
    expected = np.mean([score(b, p.targets, a).base.kld for a, b, p in zip(before, after, cut, strict=True)])
    for _ in range(2):  # the model is as it was after each
        assert sensitivity.divergence({name: other}) == pytest.approx(expected, rel=1e-6)
        assert sensitivity.divergence({name: halve.load(made[0]).linears[name].weight}) == 0
    assert expected > 0


def test_a_tied_head_is_no_layer_of_its_own(tmp_path):
    sensitivity = Sensitivity(llama.write(tmp_path / "tied"))
    assert sensitivity.divergence({"lm_head": np.zeros((1, 1), np.float32)}) is None
    assert sensitivity.divergence({"model.layers.0.mlp.router": np.zeros((1, 1), np.float32)}) is None


def test_a_model_that_cannot_be_run_is_told(made, tmp_path, monkeypatch, caplog):
    def load(path):
        raise UnsupportedError("run and eval do not know MambaForCausalLM")

    monkeypatch.setattr(sensitivity_module, "load", load)
    result = mixed(made, tmp_path / "out", Budget(bpw=6.0))
    assert 5.3 < result.plan.bpw <= 6.0
    assert "halve cannot run the model: run and eval do not know Mamba" in caplog.text


def test_a_dry_run_tells_the_same_mixture(made, tmp_path):
    plan = planned(made[0], "nvfp4a16", stats=made[1], algorithm="rtn", budget=Budget(bpw=6.0), allow=ALLOW)
    result = mixed(made, tmp_path / "out", Budget(bpw=6.0))
    assert {t.source.name: t.scheme.name for t in plan.quantized} == schemes_of(result)
    assert plan.bpw == result.plan.bpw


def test_the_recipe_reproduces_it(made, tmp_path):
    result = mixed(made, tmp_path / "a", Budget(bpw=6.0))
    recipe = json.loads((tmp_path / "a" / "halve.json").read_text())["recipe"]
    again = halve.quantize(
        made[0], tmp_path / "b", "nvfp4a16", algorithm="rtn", overrides=[tuple(pair) for pair in recipe["overrides"]]
    )
    assert schemes_of(again) == schemes_of(result)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("budget", "choices", "error", "why"),
    [
        (Budget(bpw=3.0), {}, UnsupportedError, "less than the .* of the smallest choice"),
        (Budget(bpw=12.0), {}, UnsupportedError, "the most that nvfp4a16 and fp8 can take"),
        (Budget(nbytes=1000), {}, UnsupportedError, "less than the"),
        (Budget(bpw=5.0), {"allow": ()}, RecipeError, "there is nvfp4a16 only"),
        (Budget(bpw=5.0), {"transforms": ("smoothquant",)}, UnsupportedError, "do not go together yet"),
        (Budget(bpw=5.0), {"allow": ("mxfp6_e2m3a16",)}, UnsupportedError, "mxfp6_e2m3a16"),
    ],
)
def test_budgets_that_cannot_be(made, tmp_path, *, budget, choices, error, why):
    with pytest.raises(error, match=why):
        mixed(made, tmp_path / "out", budget, **choices)
    assert not (tmp_path / "out").exists()


def test_a_budget_needs_statistics(made, tmp_path):
    with pytest.raises(UnsupportedError, match="a budget needs the statistics") as refused:
        halve.quantize(made[0], tmp_path / "out", "nvfp4a16", budget=Budget(bpw=5.0), allow=ALLOW)
    assert "--calibrate builtin" in refused.value.hint


def test_machine_lacks_a_format(made, tmp_path, caplog):
    with pytest.raises(UnsupportedError, match=r"RK3588 does not run nvfp4a16: .*block scales") as error:
        planned(made[0], "nvfp4a16", hardware="RK3588")
    assert "w8a8" in error.value.hint
    with pytest.raises(UnsupportedError, match="does not run mxfp4a16"):
        planned(made[0], "w8a8", hardware="RK3588", overrides=[("lm_head", "mxfp4a16")])
    assert planned(made[0], "nvfp4a16", hardware="H100").recipe.scheme == "nvfp4a16"
    with pytest.raises(RecipeError, match="nothing|only"):
        mixed(made, tmp_path / "out", Budget(bpw=8.0), allow=(), hardware="B200")
    assert not caplog.records
    assert runnable("RK3588", ["w8a8"], ["fp8", "w8a8"]) == ("w8a8",)
    assert "fp8 is left out: RK3588 does not run it" in caplog.text
