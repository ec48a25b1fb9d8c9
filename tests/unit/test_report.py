"""Reports: one file, nothing loaded, everything escaped, pictures that hold the measured figures."""

import builtins
from dataclasses import replace
from pathlib import Path

import pytest

from halve.errors import OutputError, UnsupportedError
from halve.evaluate import report
from halve.evaluate.estimate import Estimate
from halve.evaluate.evaluation import Evaluation, Loss, Sample, TextFacts
from halve.evaluate.labels import Point, sides
from halve.evaluate.layers import LayerLoss
from tiny.page import Page

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'<b>"


def evaluation(label="nvfp4a16", *, kld=0.2, megabytes=116, base=True, operands=("weights",), names=None):
    names = names or [f"model.layers.{i}.mlp.{kind}_proj" for i in range(3) for kind in ("up", "down")]
    losses = tuple(
        Loss(
            operands=words,
            about=f"{words} in full",
            ppl=Estimate(12 + kld + more, 2.0),
            ppl_ratio=Estimate(1 + kld + more / 12, 0.01) if base else None,
            kld=Estimate(kld * (1 + more), 0.01) if base else None,
            kld_99=kld * 5 if base else None,
            kld_max=kld * 20 if base else None,
            same_top=Estimate(80.0, 1.0) if base else None,
            passages=(),
        )
        for more, words in enumerate(operands)
    )
    return Evaluation(
        path=Path("out") / label,
        against=Path("base") if base else None,
        against_bytes=269_000_000 if base else None,
        label=label,
        elements=("fp4_e2m1", "ue4m3"),
        bytes=megabytes * 1_000_000,
        bpw=4.5,
        texts=(TextFacts("a text", "ab" * 32, 4),),
        window=512,
        scored=1024,
        base_ppl=Estimate(12.0, 2.0) if base else None,
        losses=losses,
        layers=tuple(LayerLoss(n, 20.0 + i, 22.0 + i, None) for i, n in enumerate(names)) if base and kld else (),
        sample=Sample("Why?", f"Because of {label}.", 12.5),
        eval_tokens_per_s=500.0,
        seconds=3.0,
    )


MANY = [
    evaluation("fp32", kld=0, megabytes=538),
    evaluation("fp8_dynamic", kld=0.02, megabytes=163, operands=("weights", "weights + activations")),
    evaluation(),
]


def test_one_file_that_loads_nothing(tmp_path):
    report.write(tmp_path / "r.html", MANY)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    assert Page((tmp_path / "r.html").read_text()).loads_nothing()
    assert len((tmp_path / "r.html").read_bytes()) < 6e6


def test_tables_hold_what_was_measured():
    text = " ".join(Page(report.render(MANY, title="Three & more")).text.split())
    for words in ("Three & more", "fp8_dynamic", "weights + activations", "538.0", "4.50", "0.2000 ± 0.0100", "12.5"):
        assert words in text
    assert "Because of nvfp4a16." in text
    assert "ab" * 32 in text
    assert "model.layers.0.mlp.up_proj, 22.00 dB" in text
    assert "a text, 4 windows of 512 tokens" in text


def test_pictures_hold_what_was_measured():
    drawn = Page(report.render(MANY)).plotted
    assert drawn.keys() == {"cost", "layers", "numbers", "ranges"}
    weights = next(trace for trace in drawn["cost"] if trace.get("text") == ["fp8_dynamic", "nvfp4a16"])
    assert (weights["x"], weights["y"]) == ([163.0, 116.0], [0.02, 0.2])
    assert weights["error_y"]["array"] == [0.01, 0.01]
    assert [len(trace["z"]) for trace in drawn["layers"]] == [2, 2]
    assert drawn["layers"][1]["z"][0] == [22.0, 24.0, 26.0]
    fp4 = drawn["numbers"][0]
    assert [float(text) for text in fp4["customdata"]] == [
        v * s for s, v in zip([-1] * 7 + [1] * 8, [6, 4, 3, 2, 1.5, 1, 0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6], strict=True)
    ]
    assert len(drawn["ranges"][0]["y"]) == 2


def stairs(evaluations):
    return [t for t in Page(report.render(evaluations)).plotted["cost"] if t.get("line", {}).get("shape") == "hv"]


def test_a_stair_through_the_best_for_their_size():
    dominated = evaluation("mxfp8", kld=0.03, megabytes=170)
    mixed = replace(evaluation("nvfp4a16 + fp8", kld=0.12, megabytes=125), bpw=5.0)
    wider = replace(evaluation("nvfp4a16 + fp8", kld=0.07, megabytes=135), bpw=5.5)
    divergence, perplexity = stairs([*MANY, dominated, wider, mixed])
    assert divergence["x"] == [116.0, 125.0, 135.0, 163.0]
    assert divergence["y"] == [0.2, 0.12, 0.07, 0.02]
    assert perplexity["x"] == [116.0, 125.0, 135.0, 163.0, 538.0]
    (points,) = [t for t in Page(report.render([mixed, wider])).plotted["cost"] if len(t.get("text", ())) == 2][:1]
    assert points["text"] == ["nvfp4a16 + fp8, 5.00 bits", "nvfp4a16 + fp8, 5.50 bits"]


def test_one_checkpoint_has_no_stair():
    assert stairs([evaluation()]) == []
    assert stairs([evaluation(), evaluation("larger and worse", kld=0.3, megabytes=200)]) == []


def test_what_is_equal_to_the_base_is_said_not_drawn():
    page = report.render(MANY)
    assert "exactly 0, below this axis: fp32" in page
    assert "cost" in Page(report.render(MANY[:1])).plotted


def test_without_a_base_there_is_perplexity_only():
    page = Page(report.render([evaluation(base=False)]))
    drawn = page.plotted
    assert drawn.keys() == {"cost", "numbers", "ranges"}
    assert [trace["y"] for trace in drawn["cost"]] == [[12.2]]
    assert "KLD" not in page.text


def test_titles():
    assert "<h1>What nvfp4a16 costs</h1>" in report.render([evaluation()])
    assert "<h1>What fp32, fp8_dynamic and nvfp4a16 cost</h1>" in report.render(MANY)
    assert "<h1>What 4 precisions cost</h1>" in report.render([*MANY, evaluation("w4a16")])


def test_equal_measurements_give_equal_bytes():
    assert report.render(MANY) == report.render(MANY)


def test_everything_is_escaped():
    hostile = replace(
        evaluation(ATTACK, names=[f"model.layers.0.{ATTACK}", "model.layers.1.mlp.up_proj"]),
        against=Path(ATTACK),
        texts=(TextFacts(ATTACK, ATTACK, 1),),
        sample=Sample(ATTACK, ATTACK, 1.0),
    )
    page = Page(report.render([hostile], title=ATTACK))
    plain = Page(report.render([evaluation()]))
    assert [tag for tag, _ in page.tags].count("script") == [tag for tag, _ in plain.tags].count("script")
    assert not [tag for tag, attrs in page.tags if tag in ("img", "b") or "onerror" in attrs]
    assert page.text.count("alert(1)") >= 5
    assert not any("<script>" in script or "<img" in script for script in page.scripts[1:])
    assert "<img" not in hostile._repr_html_()


def test_experts_share_a_row_which_shows_the_worst():
    names = [f"model.layers.0.mlp.experts.{i}.up_proj" for i in range(3)]
    found = evaluation(names=[*reversed(names), "model.layers.0.mlp.shared_expert.up_proj"])
    (trace,) = Page(report.render([found])).plotted["layers"]
    assert trace["y"] == ["*.up_proj", "shared_expert.up_proj"]
    assert trace["z"] == [[22.0], [25.0]]
    assert trace["customdata"][0][0].startswith(names[2])


def test_names_that_no_heat_map_has_a_place_for():
    drawn = Page(report.render([evaluation(names=["lm_head", "odd"])])).plotted
    assert "layers" not in drawn
    assert "odd" in report.render([evaluation(names=["lm_head", "odd"])])


def test_formats_of_every_kind_are_drawn():
    found = replace(evaluation(), elements=("nf4", "int4", "fp32", "fp8_e4m3fnuz", "e8m0", "gguf"))
    drawn = Page(report.render([found])).plotted
    assert [trace["y"][0].strip() for trace in drawn["numbers"]] == ["nf4", "int4", "fp8_e4m3fnuz"]
    assert [len(trace["y"]) for trace in drawn["numbers"]] == [16, 16, 255]
    assert len(drawn["ranges"][0]["y"]) == 5
    assert Page(report.render([replace(found, elements=("gguf",))])).plotted.keys() == {"cost", "layers"}


def test_without_plotly_the_extra_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UnsupportedError, match="plotly, which is not installed") as raised:
        report.write(tmp_path / "r.html", MANY)
    assert raised.value.hint == "pip install 'halve[report]'"


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="is a folder"):
        report.check(tmp_path)
    with pytest.raises(OutputError, match="there is no folder"):
        report.check(tmp_path / "no" / "r.html")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        report.write(tmp_path / "r.html", MANY)


def test_labels_keep_apart():
    assert sides([Point(0.5, 0.5, "one")]) == ["middle right"]
    assert sides([Point(0.97, 0.5, "at the border")]) == ["middle left"]
    one, two = sides([Point(0.5, 0.5, "left"), Point(0.52, 0.5, "right")])
    assert (one, two) == ("middle left", "middle right")
    assert sides([Point(0.5, 0.5, "a")], [Point(0.53, 0.5, "")]) == ["middle left"]
    crowd = [Point(0.5, 0.5, "a long label")] * 9
    assert len(sides(crowd)) == 9
