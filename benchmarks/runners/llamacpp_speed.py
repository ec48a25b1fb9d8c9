"""Time llama.cpp on a GGUF file, one test a line: run by vs_llamacpp.py in the environment of its peer.

python llamacpp_speed.py MODEL.gguf

Reads lines "pp|tg TOKENS THREADS" and answers each with seconds; tokens are random, as llama-bench's are.
"""

import ctypes
import random
import sys
import time

import llama_cpp as api


def main() -> None:
    """Answer until the input ends."""
    api.llama_log_set(_silent, ctypes.c_void_p())
    api.llama_backend_init()
    model = api.llama_model_load_from_file(sys.argv[1].encode(), api.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {sys.argv[1]}")
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.no_perf = 2048, 2048, 512, True
    context = api.llama_init_from_model(model, settings)
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    print("ready", flush=True)
    for line in sys.stdin:
        test, tokens, threads = line.split()
        print(seconds(context, vocabulary, test, int(tokens), int(threads)), flush=True)


def seconds(context: object, vocabulary: int, test: str, count: int, threads: int) -> float:
    """How long a prompt of ``count`` tokens takes (pp), or as many tokens one by one (tg)."""
    api.llama_set_n_threads(context, threads, threads)
    api.llama_memory_clear(api.llama_get_memory(context), True)
    draw = random.Random(0)
    tokens = (api.llama_token * count)(*(draw.randrange(vocabulary) for _ in range(count)))
    step = count if test == "pp" else 1
    began = time.perf_counter()
    for first in range(0, count, step):
        part = (api.llama_token * step)(*tokens[first : first + step])
        if api.llama_decode(context, api.llama_batch_get_one(part, step)):
            sys.exit("llama_decode failed")
    api.llama_synchronize(context)
    return time.perf_counter() - began


@api.llama_log_callback
def _silent(level: int, text: bytes, data: object) -> None:
    del level, text, data


if __name__ == "__main__":
    main()
