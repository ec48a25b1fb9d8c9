"""Tiny models with random weights and a byte tokenizer: they can be evaluated on any text."""

from pathlib import Path

import numpy as np
from tokenizers import processors

from tiny import llama

SIZE = 264  # bytes, special tokens and a few that no text has


def config(**changes):
    """config.json; every linear layer divides into blocks of 128."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 32}
    return llama.decoder_config("llama", **{"vocab_size": SIZE, "max_position_embeddings": 128, **shape, **changes})


def write(folder: Path, *, seed=0, beginning=False, **changes):
    """Write one; with ``beginning`` its tokenizer puts a token before every text."""
    settings = config(**changes)
    weights = llama.decoder_weights(settings, seed)
    weights["lm_head.weight"] *= np.float32(0.1)  # a random model should not be as sure of itself as these are
    llama.write_decoder(folder, settings, weights)
    tokenizer = llama._byte_tokenizer()
    if beginning:
        tokenizer.add_special_tokens(["<s>"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A <|end|>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "<|end|>")]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


TEXT = "Numbers of fewer bits for deep learning, from the single bit to the rack. " * 20
