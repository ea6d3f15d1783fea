"""The filters: each a function that makes one named condition, the same for every source of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from stages.curate.catalogue import Catalogue
from stages.curate.decode import Unreadable
from stages.curate.decode import decode as decode_bytes
from stages.curate.near import HashIndex, perceptual_hash
from stages.curate.near_text import NearTexts, near_earlier
from stages.curate.quality import quality as own_quality
from stages.curate.rows import Filter, ImageRow, PairRow, PromptRow, TextRow
from stages.curate.text import no_text, prompt_id, words
from stages.errors import InputError

LIMIT = "limit"


def text() -> Filter[TextRow]:
    """Removes rows whose text has no letter, digit or symbol, and those with characters that steer a terminal."""
    return Filter("text", lambda row: no_text(row.text))


def caption_words(fewest: int, most: int) -> Filter[TextRow]:
    """Removes rows whose text has less than `fewest` or more than `most` words."""

    def fault(row: TextRow) -> str:
        count = words(row.text)
        return "" if fewest <= count <= most else f"{count} words"

    return Filter("caption_words", fault)


def leakage(evaluation: Mapping[str, str]) -> Filter[TextRow]:
    """Removes training rows whose text is one of the evaluation prompts, given as their names by `prompt_id`."""

    def fault(row: TextRow) -> str:
        leaks = row.split == "train" and row.prompt_id in evaluation
        return f"its text is an evaluation prompt, {evaluation[row.prompt_id]}" if leaks else ""

    return Filter("leakage", fault)


def near_leakage(
    evaluation: NearTexts, names: Sequence[str], ahead: Sequence[TextRow] = (), marks: np.ndarray | None = None
) -> Filter[TextRow]:
    """Removes training rows whose text is nearly an evaluation prompt; rows known `ahead` are judged all at once.

    `names` are those of the evaluation prompts; `marks` are the signatures of the texts of `ahead`, if no two are the
    same prompt.
    """
    texts = {row.prompt_id: row.text for row in ahead}
    judged = dict(zip(texts, evaluation.near(list(texts.values()), marks).tolist(), strict=True))

    def fault(row: TextRow) -> str:
        if row.split != "train":
            return ""
        near = judged.get(row.prompt_id)
        if near is None:
            near = int(evaluation.near([row.text])[0])
        return f"its text is nearly an evaluation prompt, {names[near]}" if near >= 0 else ""

    return Filter("near_leakage", fault)


# --- prompts --------------------------------------------------------------------------------------------------------


def duplicate_prompts() -> Filter[PromptRow]:
    """Removes prompts that agree with an earlier one when normalised (`stages.curate.text`)."""
    seen: dict[str, str] = {}

    def fault(row: PromptRow) -> str:
        if row.prompt_id in seen:
            return f"the same prompt as {seen[row.prompt_id]}"
        seen[row.prompt_id] = row.name
        return ""

    return Filter("duplicates", fault)


def near_duplicate_prompts(
    rows: Sequence[PromptRow], threshold: float, marks: np.ndarray | None = None
) -> Filter[PromptRow]:
    """Removes those of `rows` that share at least `threshold` of their neighbouring words with an earlier one.

    `marks` are the signatures of their texts.
    """
    near = near_earlier([row.text for row in rows], threshold, marks).tolist()
    firsts = {row.prompt_id: rows[first].name for row, first in zip(rows, near, strict=True) if first >= 0}
    return Filter("near_duplicates", lambda row: f"nearly {firsts[row.prompt_id]}" if row.prompt_id in firsts else "")


def group_leakage(groups: Collection[str]) -> Filter[PromptRow]:
    """Removes prompts of a group that has evaluation prompts."""

    def fault(row: PromptRow) -> str:
        return f"group {row.group!r} has evaluation prompts" if row.group in groups else ""

    return Filter("group_leakage", fault)


def limit(rows: Iterable[PromptRow], counts: Mapping[str, int | None]) -> Filter[PromptRow]:
    """Removes all but so many of `rows` from each source with a count: those with the smallest ids are kept.

    Ids are hashes, so the choice is arbitrary, and a prompt added later pushes out one prompt at most.
    """
    ids: dict[str, list[str]] = {source: [] for source in counts}
    for row in rows:
        ids[row.source].append(row.prompt_id)
    kept = {prompt for source, count in counts.items() for prompt in sorted(ids[source])[:count]}
    return Filter(LIMIT, lambda row: "" if row.prompt_id in kept else "beyond the limit")


# --- images ---------------------------------------------------------------------------------------------------------


def metadata() -> Filter[ImageRow]:
    """Removes images that are unfit by the data set's own metadata."""
    return Filter("metadata", lambda row: row.unfit)


def decode(max_pixels: int) -> Filter[ImageRow]:
    """Removes what is not a readable image of at most `max_pixels`; turns the rest to RGB and digests the pixels."""

    def fault(row: ImageRow) -> str:
        try:
            decoded = decode_bytes(row.data, max_pixels)
        except Unreadable as error:
            return str(error)
        row.image, row.data, row.digest = decoded.image, decoded.data, decoded.digest
        return ""

    return Filter("decode", fault)


def min_side(pixels: int) -> Filter[ImageRow]:
    """Removes images whose shorter side has less than `pixels` pixels."""

    def fault(row: ImageRow) -> str:
        width, height = row.pixels.size
        return "" if min(width, height) >= pixels else f"{width}x{height} pixels"

    return Filter("min_side", fault)


def quality(bound: float) -> Filter[ImageRow]:
    """Removes images whose given score, or else own score (`stages.curate.quality`), is not at least `bound`."""

    def fault(row: ImageRow) -> str:
        score = own_quality(row.pixels) if row.quality is None else row.quality
        return "" if score >= bound else f"quality {score:.3g}"

    return Filter("quality", fault)


def exact_duplicates() -> Filter[ImageRow]:
    """Removes images with the very pixels of an earlier one. Raises InputError when two images share an id."""
    seen: dict[str, tuple[str, str]] = {}

    def fault(row: ImageRow) -> str:
        if row.image_id not in seen:
            seen[row.image_id] = (row.digest, row.name)
            return ""
        digest, first = seen[row.image_id]
        if digest != row.digest:
            raise InputError(f"{row.name}: shares its image_id {row.image_id} with {first}; leave one of the two out")
        return f"same pixels as {first}"

    return Filter("exact_duplicates", fault)


def near_duplicates(bits: int) -> Filter[ImageRow]:
    """Removes images whose perceptual hash is within `bits` bits of an earlier image's."""
    index = HashIndex(bits)

    def fault(row: ImageRow) -> str:
        value = perceptual_hash(row.pixels)
        first = index.near(value)
        if first is not None:
            return f"looks like {first}"
        index.add(value, row.name)
        return ""

    return Filter("near_duplicates", fault)


# --- pairs ----------------------------------------------------------------------------------------------------------


def judged() -> Filter[PairRow]:
    """Removes pairs that nobody judged."""
    return Filter("judged", lambda row: "no preference" if row.preference is None else "")


def images_kept(catalogue: Catalogue) -> Filter[PairRow]:
    """Removes pairs that lost an image to a filter; in the others, names of images become image ids."""

    def fault(row: PairRow) -> str:
        a, b = catalogue.kept(row.a), catalogue.kept(row.b)
        if not a or not b:
            return f"image {row.b if a else row.a} was removed"
        row.a, row.b = a, b
        return ""

    return Filter("images_kept", fault)


def captions(
    fewest: int, most: int, evaluation: Mapping[str, str], near: NearTexts | None = None, names: Sequence[str] = ()
) -> Filter[PairRow]:
    """Removes pairs that have a caption of an image's own which is no text of `fewest` to `most` words. Of training
    pairs, also those with such a caption that is an evaluation prompt, or nearly one of those in `near`.

    `evaluation` has the names of evaluation prompts by `prompt_id`, `names` those of the prompts in `near`.
    """

    def fault(row: PairRow) -> str:
        own = [caption for caption in (row.caption_a, row.caption_b) if caption]
        for caption in own:
            if why := no_text(caption):
                return f"caption: {why}"
            if not fewest <= (count := words(caption)) <= most:
                return f"a caption of {count} words"
            if row.split == "train" and (name := evaluation.get(prompt_id(caption))):
                return f"a caption is an evaluation prompt, {name}"
        if near is not None and own and row.split == "train" and (found := int(near.near(own).max())) >= 0:
            return f"a caption is nearly an evaluation prompt, {names[found]}"
        return ""

    return Filter("captions", fault)


def one_image() -> Filter[PairRow]:
    """Removes pairs of an image with itself, unless it has two captions."""

    def fault(row: PairRow) -> str:
        first, second = row.captions
        return "both sides are the same image" if row.a == row.b and prompt_id(first) == prompt_id(second) else ""

    return Filter("one_image", fault)


def across_splits(catalogue: Catalogue) -> Filter[PairRow]:
    """Removes pairs whose images belong to different splits: one of them would be seen in both."""

    def fault(row: PairRow) -> str:
        return "" if catalogue.split(row.b) == row.split else "one image is for training, the other for validation"

    return Filter("across_splits", fault)


def duplicate_pairs() -> Filter[PairRow]:
    """Removes pairs that one annotator, or nobody who is named, judged before: two images with their captions, either
    way round, and a prompt.
    """
    seen: dict[tuple[str, ...], str] = {}

    def fault(row: PairRow) -> str:
        key: tuple[str, ...] = (row.prompt_id, *sorted((row.a, row.b)), row.annotator)
        if row.caption_a or row.caption_b:
            key = (
                row.prompt_id,
                *sorted(map("\x1f".join, zip((row.a, row.b), row.captions, strict=True))),
                row.annotator,
            )
        if key in seen:
            return f"the same pair as {seen[key]}"
        seen[key] = row.name
        return ""

    return Filter("duplicates", fault)
