"""The word-level tokenizer of the miniature world, in CLIP's own format.

Every word of the captions is one token, built by chained byte-pair merges ("t-shirt" is three: CLIP's tokenizer cuts
at hyphens); any other text falls back to beginnings of words and single characters, so no prompt is an error.
"""

import json
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from diffclf.datasets.world import COLOURS, ITEMS

__all__ = ["MAX_LENGTH", "WORDS", "build_tokenizer"]

MAX_LENGTH = 16
WORDS = ("a", "photo", "of", "to", "the", "left", "right", "above", "below", "and", *COLOURS, *ITEMS)


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write `vocab.json` and `merges.txt` into `folder` and return the tokenizer made of them.

    Both files stay beside `tokenizer.json`: older releases of transformers read only these two.
    """
    symbols = list(bytes_to_unicode().values())
    vocabulary = symbols + [f"{symbol}</w>" for symbol in symbols]
    chains = {}
    for word in dict.fromkeys(part for words in WORDS for part in words.split("-") if len(part) > 1):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        chain = chains.setdefault(word, [])
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            chain.append(pair)
            pieces = ["".join(pair), *pieces[2:]]
            if pieces[0] not in vocabulary:
                vocabulary.append(pieces[0])
    # A merge is applied wherever it fits, the first in the list first: "red" before "green" would make it "g re en".
    merges = list(dict.fromkeys(pair for word in sorted(chains, key=len, reverse=True) for pair in chains[word]))
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    table = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(table, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_LENGTH)
