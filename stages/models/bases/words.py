"""Where the words of a prompt stand among the tokens that a denoising network attends to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from stages.models.bases.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.models.bases.layout import BaseLayout


@dataclass(frozen=True)
class Words:
    """The tokenizer of a base's first text encoder. Words are what stands between blanks, punctuation included; all are
    put in lower case, as CLIP's tokenizer and PixArt's pipeline do it.
    """

    tokenizer: PreTrainedTokenizerBase
    known: dict[str, list[list[int]]] = field(default_factory=dict)

    def places(self, prompt: str) -> list[list[int]]:
        """The places of the tokens of each word; beyond the encoder's length too, where no token is left."""
        if prompt not in self.known:
            words = prompt.lower().split()
            ends = [self._count(words[:number]) for number in range(len(words) + 1)]
            self.known[prompt] = [list(range(*ends[number : number + 2])) for number in range(len(words))]
        return self.known[prompt]

    def _count(self, words: Sequence[str]) -> int:
        """Tokens up to the end of the words, with the token of the start where there is one."""
        ids = self.tokenizer(" ".join(words), verbose=False)["input_ids"]
        return len(ids) - 1  # type: ignore[arg-type]  # the end of the text


@cache
def words_of(layout: BaseLayout) -> Words:
    """The words of a base model; raises InputError where its tokenizer is missing or damaged."""
    return Words(load_tokenizer(layout, layout.texts[0]))
