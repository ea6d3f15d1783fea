"""Each filter of images against an oracle."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from stages.curate import filters
from stages.curate.near import HashIndex, perceptual_hash
from stages.curate.quality import quality
from stages.curate.rows import ImageRow, Tally, sift
from stages.errors import InputError
from tests.unit.picture_rows import MANY, decoded, picture, row, saved


@pytest.mark.parametrize(("size", "kept"), [((15, 40), False), ((40, 15), False), ((16, 16), True), ((40, 16), True)])
def test_min_side(size: tuple[int, int], kept: bool) -> None:
    assert (filters.min_side(16).fault(decoded(Image.new("RGB", size))) == "") is kept


def stripes(low: float, high: float) -> Image.Image:
    """Grey columns one pixel wide, of luma `low` and `high` in turn."""
    values = np.where(np.arange(64) % 2, high, low) * 255
    return Image.fromarray(np.repeat(np.tile(values, (64, 1))[..., None], 3, 2).round().astype(np.uint8))


def test_quality_of_stripes_is_known() -> None:
    """Columns d apart have standard deviation d/2 and a Laplacian of 2 d everywhere."""
    low, high = 102 / 255, 153 / 255
    contrast, sharpness = (high - low) / 2 / 0.2, 1 - np.exp(-2 * (high - low) / 0.05)
    assert quality(stripes(low, high)) == pytest.approx((contrast * sharpness) ** (1 / 3), rel=1e-4)
    half_clipped = quality(stripes(0, 0.8))  # columns of luma 0 count as clipped, contrast and sharpness are full
    assert half_clipped == pytest.approx(0.5 ** (1 / 3), rel=1e-4)


def test_quality_falls_with_blur_and_is_zero_for_blank_images() -> None:
    image = picture(1, 64, 64)
    scores = [quality(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 2, 4, 8, 16)]
    assert scores == sorted(scores, reverse=True) and scores[-1] < 0.8 * scores[0]
    assert all(0 <= score <= 1 for score in scores)
    for blank in ("black", "white", "grey"):
        assert quality(Image.new("RGB", (64, 64), blank)) == pytest.approx(0, abs=1e-6)
    assert quality(Image.new("RGB", (2, 64))) == 0


def test_quality_prefers_a_given_score() -> None:
    blank, busy = Image.new("RGB", (20, 20)), stripes(0.3, 0.7)
    bound = filters.quality(0.5)
    assert bound.fault(decoded(blank)) and not bound.fault(decoded(busy))
    assert not bound.fault(decoded(blank, 6.1))
    assert bound.fault(decoded(busy, 0.49)) and bound.fault(decoded(busy, float("nan")))


def test_exact_duplicates_are_found_across_formats() -> None:
    images = [picture(0), picture(1), picture(0), picture(2), picture(1)]
    kinds = ["PNG", "PNG", "BMP", "PNG", "TIFF"]
    rows = [row(saved(image, kind), str(i)) for i, (image, kind) in enumerate(zip(images, kinds, strict=True))]
    tally = Tally(["decode", "exact_duplicates"])
    kept = list(sift(rows, [filters.decode(MANY), filters.exact_duplicates()], tally))
    assert [r.name for r in kept] == ["0", "1", "3"]
    assert tally.steps["exact_duplicates"].examples == ["2: same pixels as 0", "4: same pixels as 1"]


def test_two_images_with_one_id_are_an_error() -> None:
    duplicates = filters.exact_duplicates()
    duplicates.fault(row(b"", "first", digest="0123456789ab" + "c" * 52))
    with pytest.raises(InputError, match="second: shares its image_id 0123456789ab with first"):
        duplicates.fault(row(b"", "second", digest="0123456789ab" + "d" * 52))


def test_near_duplicates() -> None:
    near = filters.near_duplicates(6)
    originals = [picture(seed, 96, 80) for seed in range(12)]
    assert not any(near.fault(decoded(image)) for image in originals)
    for image in originals:
        smaller = Image.open(io.BytesIO(saved(image.resize((72, 60)), "JPEG", quality=85)))
        assert near.fault(decoded(smaller.convert("RGB"))).startswith("looks like ")
    assert not near.fault(decoded(picture(99, 96, 80)))


def test_perceptual_hash_is_the_published_one() -> None:
    import imagehash

    image = picture(4)
    assert f"{perceptual_hash(image):016x}" == str(imagehash.phash(image))


def _flip(value: int, count: int, rng: np.random.Generator) -> int:
    for bit in rng.choice(64, count, replace=False):
        value ^= 1 << int(bit)
    return value


@pytest.mark.parametrize("bits", [0, 1, 4, 7, 12])
def test_hash_index_agrees_with_comparing_all(bits: int) -> None:
    rng = np.random.default_rng(bits)
    index, added = HashIndex(bits), []
    for _ in range(600):
        value = int(rng.integers(0, 2**64, dtype=np.uint64))
        if added and rng.random() < 0.5:
            value = _flip(added[int(rng.integers(len(added)))], int(rng.integers(0, bits + 3)), rng)
        near = index.near(value)
        assert (near is not None) == any((value ^ other).bit_count() <= bits for other in added)
        assert near is None or (value ^ int(near)).bit_count() <= bits
        index.add(value, str(value))
        added.append(value)


class Counted(int):
    """An integer that counts how often it is compared by exclusive or."""

    compared = 0

    def __xor__(self, other: int) -> int:
        Counted.compared += 1
        return int(self) ^ other


def test_hash_index_compares_few() -> None:
    rng, index = np.random.default_rng(0), HashIndex(4)
    values = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    for value in values:
        index.add(int(value), str(value))
    Counted.compared = 0
    for value in rng.integers(0, 2**64, 100, dtype=np.uint64):
        index.near(Counted(int(value)))
    assert Counted.compared / 100 < 50  # of 20,000: five bands of 12 or 13 bits share about 5 * 20,000 / 2^12.8


def test_filters_do_not_share_state() -> None:
    makers: list[Callable[[], filters.Filter[ImageRow]]] = [
        filters.exact_duplicates,
        lambda: filters.near_duplicates(4),
    ]
    for make in makers:
        assert make().fault(decoded(picture(0))) == make().fault(decoded(picture(0))) == ""
