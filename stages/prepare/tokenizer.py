"""A small CLIPTokenizer over the words of a set of captions, for diffusers' text encoders and for open_clip models."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def build(captions: Iterable[str], context: int) -> CLIPTokenizer:
    """A tokenizer in which every word of `captions` is one token and other words are spelt with shorter ones.

    What a word is, is CLIP's rule: a run of letters, one digit, a run of other signs; upper case is lower case. The
    vocabulary is letters, letters that end a word, the same for every other sign of the captions, merges, then start
    and end of text. The end has the largest id, since both CLIPTextModel and open_clip find the end of a text by the
    arg max of its ids. A sign that is in no caption is unknown, and read as the end of the text.
    """
    words = Counter(word for caption in captions for word in _words(caption))
    merges = _merges(words)
    signs = [*_LETTERS, *sorted({sign for word in words for sign in word} - {*_LETTERS})]
    tokens = [*signs, *(sign + "</w>" for sign in signs), *(a + b for a, b in merges), START, END]
    return _tokenizer(list(dict.fromkeys(tokens)), merges, context)


def _tokenizer(tokens: Sequence[str], merges: Iterable[tuple[str, str]], context: int) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocab_file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
        merges_file.write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n", encoding="utf-8")
        return CLIPTokenizer(
            vocab=str(vocab_file), merges=str(merges_file), unk_token=END, bos_token=START, eos_token=END,
            pad_token=END, model_max_length=context,
        )  # fmt: skip


def _words(caption: str) -> list[str]:
    """The words of a caption as CLIP's tokenizer finds them, a sign for each byte of their UTF-8."""
    rules = _rules()
    return [word for word, _ in rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(caption))]


@cache
def _rules() -> Any:
    return _tokenizer([START, END], (), 2).backend_tokenizer


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


def say_cut_off(key: str, tokenizer: CLIPTokenizer, captions: Iterable[str], context: int) -> None:
    """Print how many distinct captions have more tokens than `context`, start and end included; nothing where none
    has. `key` names the setting.
    """
    texts = sorted({*captions})
    lengths = [len(each) for each in tokenizer(texts).input_ids]
    if longer := sum(length > context for length in lengths):
        print(
            f"{key}: {longer} of {len(texts)} distinct captions have more than {context} tokens and are cut off there; "
            f"the longest has {max(lengths)}",
            file=sys.stderr,
            flush=True,
        )


def ids(tokenizer: CLIPTokenizer, captions: list[str], context: int):
    """int64 [n, context] token ids, padded and cut to `context`."""
    return tokenizer(
        captions, padding="max_length", max_length=context, truncation=True, return_tensors="pt"
    ).input_ids  # fmt: skip
