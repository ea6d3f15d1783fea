"""Each filter of texts and pairs against an oracle, the split, and the tally."""

from __future__ import annotations

import hashlib

import pytest

from stages.curate import filters
from stages.curate.catalogue import Catalogue
from stages.curate.rows import PairRow, PromptRow, Tally, sift
from stages.curate.split import split_of
from stages.curate.text import no_text, normalised, prompt_id, words
from stages.errors import InputError
from tests.unit.picture_rows import row

# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A  Cat,\tsitting!", "a cat sitting"),
        ("A cat—sitting", "a cat sitting"),
        ("ＦＵＬＬ width ①", "full width 1"),  # NFKC
        ("8k $100 c++", "8k 100 c"),
        ("snake_case", "snake case"),
        ("co\u200doperate\ufeff", "cooperate"),  # invisible joiners are nothing
        ("ÉCLAIR e\u0301clair", "éclair éclair"),  # composed and decomposed are one
        ("की कि", "की कि"),  # vowel signs are no punctuation: two words
        ("🚀🔫 ", "🚀 🔫"),  # emoji are words
        ("a red🍎, please", "a red 🍎 please"),
        ("❤\ufe0f", "❤"),  # with and without the selector of its form
        ("👩\u200d🚀 👍🏽", "👩 🚀 👍 🏽"),
        ("■ a © cat™", "a cattm"),  # NFKC makes letters of the last
        ("→ ∑", "→ ∑"),  # nothing else is left, so symbols stay
        ("\u202eقطة\u202c تجلس", "قطة تجلس"),  # marks of direction are nothing
        ("ｶﾞ １２", "ガ 12"),
        ("?!", "?!"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected
    assert normalised(normalised(text)) == expected


def test_prompt_id_is_the_digest_of_the_normalised_text() -> None:
    assert prompt_id("A cat!") == hashlib.sha256(b"a cat").hexdigest()[:12]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), (" \n\t", False), ("... --", False), ("\u200b", False), ("7", True), ("🚀", True)],
)
def test_text(text: str, expected: bool) -> None:
    assert (not no_text(text)) is expected
    assert (filters.text().fault(PromptRow("here", text, "test")) == "") is expected


@pytest.mark.parametrize(("text", "expected"), [("one", False), ("one two", True), ("a b c", True), ("a b c d", False)])
def test_caption_words(text: str, expected: bool) -> None:
    assert (filters.caption_words(2, 3).fault(PromptRow("here", text, "test")) == "") is expected


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("one two", 2), ("猫が座っている", 7), ("a 猫 cat", 3), ("一只cat", 3), ("고양이가 앉아", 2),
     ("قطة تجلس", 2), ("a red🍎", 2)],
)  # fmt: skip
def test_words(text: str, count: int) -> None:
    assert words(text) == count


def test_prompts_that_differ_in_an_emoji_are_two() -> None:
    texts = ["a red 🍎", "a red 🍌", "A red 🍎!", "❤\ufe0f", "☀\ufe0f", "❤"]
    rows = [PromptRow(str(i), text, "test") for i, text in enumerate(texts)]
    assert [r.name for r in sift(rows, [filters.duplicate_prompts()], Tally(["duplicates"]))] == ["0", "1", "3", "4"]


def test_duplicate_prompts_keep_the_first_spelling() -> None:
    rows = [PromptRow(str(i), text, "test") for i, text in enumerate(["A cat!", "a dog", "a cat", "A  CAT", "a dog"])]
    tally = Tally(["duplicates"])
    assert [r.text for r in sift(rows, [filters.duplicate_prompts()], tally)] == ["A cat!", "a dog"]
    assert (tally.entered, tally.left, tally.steps["duplicates"].removed) == (5, 2, 3)
    assert tally.steps["duplicates"].examples[0] == "2: the same prompt as 0"


def test_leakage_removes_training_rows_only() -> None:
    leak = filters.leakage({prompt_id("a cat"): "line 3"})
    cases = {("A CAT.", "train"): False, ("A CAT.", "val"): True, ("a cat sits", "train"): True}
    for (text, split), kept in cases.items():
        assert (leak.fault(PromptRow("here", text, "test", split=split)) == "") is kept


def test_group_leakage() -> None:
    leak = filters.group_leakage({"g1"})
    assert leak.fault(PromptRow("here", "a cat", "test", group="g1"))
    assert not leak.fault(PromptRow("here", "a cat", "test", group="g2"))


def test_limit_is_stable_when_prompts_are_added() -> None:
    rows = [PromptRow(str(i), f"prompt {i}", "many") for i in range(300)]
    few = [PromptRow(str(i), f"other {i}", "few") for i in range(5)]

    def kept(count: int) -> set[str]:
        limit = filters.limit([*rows[:count], *few], {"many": 50, "few": None})
        chosen = [r for r in [*rows[:count], *few] if not limit.fault(r)]
        assert len(chosen) == 55
        return {r.text for r in chosen}

    assert len(kept(200) & kept(201)) >= 54
    assert kept(300) != kept(200)


# --- splits and pairs -------------------------------------------------------------------------------------------------


def test_split_by_group() -> None:
    groups = [f"group {i}" for i in range(20_000)]
    val = {group for group in groups if split_of(group, 0.1) == "val"}
    assert abs(len(val) / len(groups) - 0.1) < 4 * (0.1 * 0.9 / len(groups)) ** 0.5
    assert val < {group for group in groups if split_of(group, 0.2) == "val"}  # a larger share moves none back
    assert all(split_of(group, 0.0) == "train" for group in groups)


def catalogue_of(**images: tuple[str, bool]) -> Catalogue:
    """A catalogue of images by name: (split, kept)."""
    catalogue = Catalogue()
    rows = [
        row(b"", name, digest=hashlib.sha256(name.encode()).hexdigest(), split=split)
        for name, (split, _) in images.items()
    ]
    for made in catalogue.watch(rows):
        if images[made.name][1]:
            catalogue.keep(made)
    return catalogue


def test_pairs_need_two_kept_images_of_one_split() -> None:
    catalogue = catalogue_of(a=("train", True), b=("train", True), c=("val", True), lost=("train", False))

    def fault(a: str, b: str) -> str:
        pair = PairRow("here", "a prompt", a, b, 1.0, "test", split=catalogue.split(a))
        steps = [filters.images_kept(catalogue), filters.one_image(), filters.across_splits(catalogue)]
        return next((step.name for step in steps if step.fault(pair)), "")

    assert fault("a", "b") == ""
    assert fault("a", "lost") == fault("lost", "a") == "images_kept"
    assert fault("a", "a") == "one_image"
    assert fault("a", "c") == fault("c", "b") == "across_splits"
    assert fault(hashlib.sha256(b"a").hexdigest()[:12], "b") == ""  # an image_id names an image too


def test_a_name_of_two_images_is_ambiguous() -> None:
    catalogue = Catalogue()
    rows = [row(b"", "same", digest=digest * 64) for digest in "12"] + [row(b"", "other", digest="3" * 64)]
    for made in catalogue.watch(rows):
        catalogue.keep(made)
    assert catalogue.kept("other") == "3" * 12
    assert catalogue.ambiguous("same") and not catalogue.ambiguous("other") and not catalogue.ambiguous("1" * 12)


def test_one_image_under_several_captions_is_one_name() -> None:
    """The first caption was too long, so the image was not decoded then; the second one was fine."""
    catalogue = Catalogue()
    for made in catalogue.watch([row(b"", "cat"), row(b"", "cat", digest="1" * 64), row(b"", "cat", digest="1" * 64)]):
        if made.digest:
            catalogue.keep(made)
    assert catalogue.kept("cat") == "1" * 12


def test_duplicate_pairs_either_way_round() -> None:
    duplicates = filters.duplicate_pairs()
    cases = [("a prompt", "a", "b", False), ("A prompt!", "b", "a", True), ("another", "a", "b", False)]
    for text, a, b, removed in cases:
        assert bool(duplicates.fault(PairRow("here", text, a, b, 1.0, "test"))) is removed


def test_judged() -> None:
    assert filters.judged().fault(PairRow("here", "a prompt", "a", "b", None, "test"))
    assert not filters.judged().fault(PairRow("here", "a prompt", "a", "b", 0.0, "test"))


def test_tally_adds_up_and_reports_an_empty_table() -> None:
    rows = [PromptRow(str(i), text, "test") for i, text in enumerate(["", "...", "a b c d", "fine"])]
    steps: list[filters.Filter[PromptRow]] = [filters.text(), filters.caption_words(1, 3)]
    tally = Tally([step.name for step in steps])
    assert [r.text for r in sift(rows, steps, tally)] == ["fine"]
    counts = tally.as_json()
    assert counts["in"] == 4 and counts["out"] == 1
    assert [(f["removed"], f["left"]) for f in counts["filters"]] == [(2, 2), (1, 1)]  # type: ignore[index]
    tally.require_rows("here")
    nothing = Tally(["text"])
    with pytest.raises(InputError, match="here: the sources hold no rows"):
        nothing.require_rows("here")
    list(sift(rows[:2], [filters.text()], nothing))
    with pytest.raises(InputError, match=r"here: nothing left of 2 rows; removed by text 2 \(such as 0: no text\)"):
        nothing.require_rows("here")
