"""vLLM on a CPU generates from what halve writes, or at least loads it. Run by `nox -s "clients(vllm)"`."""

GENERATED = {"vllm_generates_w4a16", "vllm_generates_w8a8", "vllm_generates_fp8_dynamic"}
LOADED = {"vllm_loads_nvfp4", "vllm_loads_nvfp4a16", "vllm_loads_mxfp4", "vllm_loads_mxfp4a16"}


def test_greedy_tokens_are_ours_and_fp4_is_loaded(measured):
    met, missed = measured("vllm_cpu.py")
    assert not missed
    assert set(met) == GENERATED | LOADED
