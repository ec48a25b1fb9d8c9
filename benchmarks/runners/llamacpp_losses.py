"""Losses that llama.cpp finds, token by token; runs in the peer `xllamacpp`.

    llamacpp_losses.py GGUF WINDOWS.json OUT.json [--threads N]

WINDOWS is a list of windows, each a list of ids. OUT gets as many lists: the loss, in nats, of each token in the second
half of its window, given all before it. The wheel exports llama.h, whose functions are called here; nothing else is
needed, so that what is measured is llama.cpp alone.
"""

import argparse
import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp, log
from pathlib import Path

import xllamacpp.xllamacpp

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float


class Params(ctypes.Structure):
    """llama_model_params or llama_context_params, only ever passed from the function that makes it to its user."""

    _fields_ = (("opaque", ctypes.c_uint8 * 512),)


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("count", INT),
        *((name, POINTER) for name in ("tokens", "embeddings", "positions", "sequences", "ids", "logits")),
    )


SIGNATURES = {
    "llama_model_default_params": (Params, []),
    "llama_model_load_from_file": (POINTER, [ctypes.c_char_p, Params]),
    "llama_model_get_vocab": (POINTER, [POINTER]),
    "llama_model_free": (None, [POINTER]),
    "llama_vocab_n_tokens": (INT, [POINTER]),
    "llama_context_default_params": (Params, []),
    "llama_init_from_model": (POINTER, [POINTER, Params]),
    "llama_set_n_threads": (None, [POINTER, INT, INT]),
    "llama_get_memory": (POINTER, [POINTER]),
    "llama_memory_clear": (None, [POINTER, ctypes.c_bool]),
    "llama_batch_get_one": (Batch, [POINTER, INT]),
    "llama_decode": (INT, [POINTER, Batch]),
    "llama_get_logits_ith": (ctypes.POINTER(FLOAT), [POINTER, INT]),
    "llama_free": (None, [POINTER]),
}


def library() -> ctypes.CDLL:
    """llama.h's functions."""
    loaded = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


@contextmanager
def opened(llama: ctypes.CDLL, path: Path, threads: int) -> Iterator[tuple[int, int]]:
    """A context for the model ``path``, and the size of its vocabulary."""
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    context = llama.llama_init_from_model(model, llama.llama_context_default_params())
    try:
        llama.llama_set_n_threads(context, threads, threads)
        yield context, llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    finally:
        llama.llama_free(context)
        llama.llama_model_free(model)


def losses(llama: ctypes.CDLL, context: int, vocab: int, window: list[int]) -> list[float]:
    """Losses of the second half of ``window``."""
    first, count = len(window) // 2, len(window) - 1
    tokens = (ctypes.c_int32 * count)(*window[:-1])
    wanted = (ctypes.c_int8 * count)(*(place >= first - 1 for place in range(count)))
    batch = llama.llama_batch_get_one(tokens, count)
    batch.logits = ctypes.cast(wanted, POINTER)
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    if llama.llama_decode(context, batch):
        raise SystemExit("llama.cpp cannot decode")
    found = []
    for place in range(first - 1, count):
        logits = llama.llama_get_logits_ith(context, place)[:vocab]
        top = max(logits)
        found.append(top + log(sum(exp(logit - top) for logit in logits)) - logits[window[place + 1]])
    return found


def main() -> None:
    """Load, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("gguf", type=Path, metavar="GGUF")
    parser.add_argument("windows", type=Path, metavar="WINDOWS.json", help="lists of ids")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="file to write")
    parser.add_argument("--threads", type=int, default=1, help="more wait for each other on a busy machine")
    args = parser.parse_args()
    llama = library()
    with opened(llama, args.gguf, args.threads) as (context, vocab):
        found = [losses(llama, context, vocab, window) for window in json.loads(args.windows.read_text())]
    args.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
