"""Trains a reward of several tastes (PAL) on pairs with annotators, on frozen features.

Beside it a model of one taste is trained alike, on the same pairs and for as many steps; the log has how often each
prefers the preferred image of held-out pairs, so that it says whether telling annotators apart was worth anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from stages.errors import InputError
from stages.models.plural import CONFIG, WEIGHTS, Form, PluralScorer, Taught, rows_of
from stages.prepare import quality
from stages.prepare.loop import Log, Probe, Terms, Trainer, draw_rows
from stages.prepare.pal_settings import PalSettings
from stages.prepare.pictures import Pictures
from stages.prepare.quality import Pairs
from stages.resume import State
from stages.rewards.base import TextImage
from stages.runtime import seed_from, whole_file, whole_files

SLICE = 256
"""Images at a time."""


@dataclass(frozen=True)
class Lesson:
    """Features [N, D] of both images of N pairs and of their prompts, the probability that the first is preferred, and
    who said so.
    """

    first: Tensor
    second: Tensor
    texts: Tensor
    label: Tensor
    annotators: Sequence[str]

    @classmethod
    @torch.no_grad()
    def of(cls, model: TextImage, pictures: Pictures, pairs: Pairs) -> Lesson:
        """Every image and every prompt seen by the frozen model once."""
        used, places = np.unique(np.concatenate([pairs.a, pairs.b]), return_inverse=True)
        parts = []
        for n in range(0, len(used), SLICE):
            pixels = torch.from_numpy(pictures.images[used[n : n + SLICE]])
            parts.append(model.embed(pixels.permute(0, 3, 1, 2).float() / 255).cpu())
        images, texts = torch.cat(parts), model.encode_text(pairs.prompts).cpu()
        first, second = (images[torch.from_numpy(side)] for side in np.split(places, 2))
        return cls(first, second, texts, torch.from_numpy(pairs.preference), pairs.annotators)

    def gaps(self, scorer: PluralScorer, rows: Tensor) -> Tensor:
        """Reward of the first image less that of the second, to whoever judged them; [B]."""
        shares = scorer.shares(rows_of(scorer, [self.annotators[int(row)] for row in rows]))
        first, second = (scorer.scores(side[rows], self.texts[rows], shares) for side in (self.first, self.second))
        return first - second

    @torch.no_grad()
    def accuracy(self, scorer: PluralScorer) -> float:
        """Share of the pairs with a preference whose preferred image has the higher reward; equal ones count half."""
        wanted = (self.label - 0.5).sign()
        right = (self.gaps(scorer, torch.arange(len(self.label))).sign() * wanted + 1) / 2
        return float(right[wanted != 0].mean()) if bool((wanted != 0).any()) else 0.5


def annotators(settings: PalSettings, pairs: Pairs, where: str) -> tuple[str, ...]:
    """Annotators who have a mixture of their own, in alphabetical order.

    Raises InputError that starts with `where` where nobody is named, for an annotator with one pair, unless such are
    pooled, and for a reward that is to judge for nobody among them.
    """
    counts = Counter(who for who in pairs.annotators if who)
    if not counts:
        raise InputError(f"{where}: no training pair names an annotator, expected pairs with annotators")
    lone = sorted(who for who, count in counts.items() if count == 1)
    if lone and settings.lone == "refuse":
        raise InputError(
            f"{where}: annotator {lone[0]!r} has one training pair ({len(lone)} of {len(counts)} annotators have); "
            "expected two or more of each, or `lone: pool`"
        )
    found = tuple(sorted(set(counts) - set(lone)))
    if settings.annotator is not None and settings.annotator not in found:
        some = ", ".join(repr(name) for name in found[:3])
        raise InputError(f"{where}.annotator: {settings.annotator!r} has no mixture; expected one such as {some}")
    return found


def train(
    settings: PalSettings, model: TextImage, pictures: tuple[Pictures, Pictures], pairs: Path, out: Path,
    where: str, state: State | None = None,
) -> Log:  # fmt: skip
    """Train on the first pictures and their pairs, check on the second; writes the model, returns the log."""
    every = quality.read_pairs(pairs, "train", settings.source, pictures[0])
    named = annotators(settings, every, where)
    lesson = Lesson.of(model, pictures[0], every)
    held = Lesson.of(model, pictures[1], quality.read_pairs(pairs, "val", settings.source, pictures[1]))
    width = lesson.first.shape[1]
    own, log = _trained(settings, "pal", Form(width, settings.hidden, settings.prototypes, named), lesson, held, state)
    _, pooled = _trained(settings, "pooled", Form(width, settings.hidden, 1, ()), lesson, held, state)
    log.rows += [(step, f"{term}_pooled", value) for step, term, value in pooled.rows if term.startswith("probe_")]
    with whole_files(out) as folder:
        with whole_file(folder / WEIGHTS) as partial:
            save_file({name: value.detach().contiguous() for name, value in own.state_dict().items()}, partial)
        content = asdict(own.form) | {"annotator": settings.annotator}
        (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return log


def _trained(
    settings: PalSettings, name: str, form: Form, lesson: Lesson, held: Lesson, state: State | None
) -> tuple[PluralScorer, Log]:
    """A model of that form, trained and checked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from("pal", settings.seed))
        scorer = PluralScorer(form)

    def terms(step: int) -> Terms:
        rows = draw_rows(settings.seed, "pal pairs", step, len(lesson.label), settings.batch)
        return {"loss": binary_cross_entropy_with_logits(lesson.gaps(scorer, rows), lesson.label[rows])}

    def measure(step: int) -> dict[str, float]:
        return {"probe_pairs": held.accuracy(scorer), "probe_training_pairs": lesson.accuracy(scorer)}

    modules = {"maps": Taught(scorer), "mixtures": scorer.mixtures}
    trainer = Trainer(name, modules, settings, state, {"mixtures": settings.mixture_rate})
    trainer.run(terms, Probe(max(1, settings.steps // 4), measure))
    return scorer, trainer.finish()
