"""transformers with compressed-tensors loads and runs what halve writes. Run by `nox -s "clients(transformers)"`."""

SCHEMES = ("nvfp4a16", "mxfp4a16", "fp8_dynamic", "w8a8", "w4a16")


def test_every_scheme_is_loaded_bit_for_bit(measured):
    met, missed = measured("transformers_loads.py")
    assert not missed
    assert met == ["transformers_loads"]


def test_layers_logits_and_tokens_are_ours(measured):
    met, missed = measured("transformers_generate.py")
    assert not missed
    assert set(met) == {
        f"transformers_{kind}_{scheme}" for kind in ("logits", "layers", "generate") for scheme in ("bf16", *SCHEMES)
    }
