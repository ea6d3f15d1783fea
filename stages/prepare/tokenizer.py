"""A small CLIPTokenizer over the words of a set of captions, for diffusers' text encoders and for open_clip models."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def build(captions: Iterable[str], context: int) -> CLIPTokenizer:
    """A tokenizer in which every word of `captions` is one token and other words are spelt with shorter ones.

    The vocabulary is letters, letters that end a word, merges, then start and end of text. The end has the largest id,
    since both CLIPTextModel and open_clip find the end of a text by the arg max of its ids.
    """
    words = Counter(
        word for caption in captions for word in caption.lower().split() if word.isascii() and word.isalpha()
    )
    merges = _merges(words)
    tokens = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS), *(a + b for a, b in merges), START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocab_file.write_text(json.dumps(vocab), encoding="utf-8")
        merges_file.write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n", encoding="utf-8")
        return CLIPTokenizer(
            vocab=str(vocab_file), merges=str(merges_file), unk_token=END, bos_token=START, eos_token=END,
            pad_token=END, model_max_length=context,
        )  # fmt: skip


def _merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair merges by frequency, until every word is one token.

    Going to the end matters: merging word by word instead would let one word's merges split another.
    """
    pieces = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    made: list[str] = []
    for part in parts:
        if made and (made[-1], part) == pair:
            made[-1] += part
        else:
            made.append(part)
    return tuple(made)


def ids(tokenizer: CLIPTokenizer, captions: list[str], context: int):
    """int64 [n, context] token ids, padded and cut to `context`."""
    return tokenizer(
        captions, padding="max_length", max_length=context, truncation=True, return_tensors="pt"
    ).input_ids  # fmt: skip
