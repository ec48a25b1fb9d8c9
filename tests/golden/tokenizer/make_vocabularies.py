"""Write vocabularies.json: two tiny vocabularies trained on the corpus. See README.md."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tiny.corpus import corpus

HERE = Path(__file__).parent
MERGES = 1500
WHOLE_WORDS = ("Ġlicense", "Ġstatement", "Ġexpression", "ĠLibrary", "isinstance", "ĊĊĠĠĠĠ")


def main() -> None:
    texts = corpus()
    plain = [line for name in ("licences", "topics", "code") for line in texts[name].splitlines(keepends=True)]
    foreign = texts["unicode"].splitlines(keepends=True)

    # Trained without splitting into words, so that tokens cross every boundary that a pre-tokenizer may draw:
    # wherever two ways to split differ, the ids differ.
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level.train_from_iterator(
        plain + 2 * foreign,
        trainers.BpeTrainer(
            vocab_size=len(alphabet) + MERGES, initial_alphabet=alphabet, max_token_length=8, show_progress=False
        ),
    )
    model = json.loads(byte_level.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].__getitem__)]
    # Tokens that no merge reaches: only `ignore_merges` ever gives them.
    tokens += [word for word in WHOLE_WORDS if word not in model["vocab"]]

    sentencepiece = Tokenizer(models.BPE())
    sentencepiece.normalizer = normalizers.Replace(" ", "\u2581")
    sentencepiece.train_from_iterator(
        plain,
        trainers.BpeTrainer(vocab_size=MERGES, max_token_length=12, show_progress=False),
    )
    merges = json.loads(sentencepiece.to_str())["model"]["merges"]
    merged = list(dict.fromkeys("".join(pair) for pair in merges))
    letters = sorted({letter for piece in merged for letter in piece})
    pieces = [*merged, *letters]
    content = {
        "byte_level": {"tokens": tokens, "merges": [" ".join(pair) for pair in model["merges"]]},
        "sentencepiece": {"pieces": pieces, "scores": [-float(rank) for rank in range(len(pieces))]},
    }
    (HERE / "vocabularies.json").write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
