"""Each curation filter against an oracle."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from stages.curate import filters
from stages.curate.catalogue import Catalogue
from stages.curate.decode import Unreadable, decode, square
from stages.curate.near import HashIndex, perceptual_hash
from stages.curate.quality import quality
from stages.curate.rows import ImageRow, PairRow, PromptRow, Tally, sift
from stages.curate.split import split_of
from stages.curate.text import has_text, normalised, prompt_id
from stages.errors import InputError

MANY = 10**8


def picture(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """A smooth random image, different for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def row(data: bytes, name: str = "an image", text: str = "a thing", **more: object) -> ImageRow:
    return ImageRow(name, data, text, "test", **more)  # type: ignore[arg-type]


def decoded(image: Image.Image, score: float | None = None) -> ImageRow:
    made = row(saved(image), quality=score)
    assert filters.decode(MANY).fault(made) == ""
    return made


# --- text -----------------------------------------------------------------------------------------------------------


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
        ("🚀🔫 ", "🚀🔫"),  # nothing else is left, so symbols stay
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
    assert has_text(text) is expected
    assert (filters.text().fault(PromptRow("here", text, "test")) == "") is expected


@pytest.mark.parametrize(("text", "expected"), [("one", False), ("one two", True), ("a b c", True), ("a b c d", False)])
def test_caption_words(text: str, expected: bool) -> None:
    assert (filters.caption_words(2, 3).fault(PromptRow("here", text, "test")) == "") is expected


def test_duplicate_prompts_keep_the_first_spelling() -> None:
    rows = [PromptRow(str(i), text, "test") for i, text in enumerate(["A cat!", "a dog", "a cat", "A  CAT", "a dog"])]
    tally = Tally(["duplicates"])
    assert [r.text for r in sift(rows, [filters.duplicate_prompts()], tally)] == ["A cat!", "a dog"]
    assert (tally.entered, tally.left, tally.steps["duplicates"].removed) == (5, 2, 3)
    assert tally.steps["duplicates"].examples[0] == "2: the same prompt as an earlier one"


def test_leakage_removes_training_rows_only() -> None:
    leak = filters.leakage({prompt_id("a cat")})
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


# --- decoding -------------------------------------------------------------------------------------------------------


def test_decode_keeps_the_bytes_of_plain_png_and_jpeg() -> None:
    image = picture(0)
    for kind in ("PNG", "JPEG"):
        data = saved(image, kind)
        made = decode(data, MANY)
        assert made.data == data
        assert made.image.mode == "RGB" and made.image.size == (40, 32)
    assert np.array_equal(np.asarray(decode(saved(image), MANY).image), np.asarray(image))


def test_digest_is_of_size_and_pixels_and_no_more() -> None:
    image = picture(0)
    expected = hashlib.sha256(b"40x32:" + np.asarray(image).tobytes()).hexdigest()
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert decode(saved(image, kind), MANY).digest == expected
    assert decode(saved(image, "WEBP", lossless=True), MANY).digest == expected
    flat = Image.new("RGB", (4, 6), "red")
    assert decode(saved(flat), MANY).digest != decode(saved(flat.resize((6, 4))), MANY).digest


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _png_with_size(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 100, "not an image of a known format"),
        (b"<html>404</html>", "not an image of a known format"),
        (saved(picture(0))[:-60], "."),
        (saved(picture(0), "JPEG")[:-200], "truncated"),
        (saved(picture(0))[:20], "."),
        (saved(picture(0), "WEBP")[:80], "."),
        (saved(picture(0), "EPS"), "not an image of a known format"),  # Pillow would start Ghostscript
        (_png_with_size(50_000, 50_000), "more than 100000000"),
        (_png_with_size(2_000_000_000, 2), "more than 100000000"),
        (saved(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "floating-point"),
        (saved(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "32-bit"),
    ],
)
def test_unreadable_images(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        decode(data, MANY)
    made = row(data)
    assert filters.decode(MANY).fault(made)
    assert made.image_id == ""


def test_max_pixels_is_the_largest_size_decoded() -> None:
    data = saved(picture(0, 40, 32))
    assert decode(data, 40 * 32).image.size == (40, 32)
    with pytest.raises(Unreadable, match="40x32 pixels, more than 1279"):
        decode(data, 40 * 32 - 1)


def test_sixteen_bits_become_eight() -> None:
    values = np.array([[0, 257, 32896, 65535]] * 4, np.uint16)
    made = decode(saved(Image.fromarray(values)), MANY)
    assert np.asarray(made.image)[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


def test_sixteen_bit_rgb_png_is_stored_with_eight() -> None:
    body = b"".join(b"\0" + struct.pack(">6H", 0, 65535, 32896, 257, 514, 771) for _ in range(2))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    deep = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    made = decode(deep, MANY)
    assert np.asarray(made.image)[0].tolist() == [[0, 255, 128], [1, 2, 3]]
    assert made.data != deep and made.data[24] == 8


def test_cmyk_palette_grey_and_transparency() -> None:
    cyan = decode(saved(Image.new("CMYK", (20, 20), (255, 0, 0, 0)), "TIFF"), MANY).image
    assert cyan.getpixel((0, 0)) == (0, 255, 255)
    grey = decode(saved(Image.new("L", (20, 20), 77)), MANY).image
    assert grey.getpixel((0, 0)) == (77, 77, 77)
    half = decode(saved(Image.new("RGBA", (20, 20), (255, 0, 0, 0))), MANY).image
    assert half.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(saved(palette), MANY).image.getpixel((3, 3)) == (10, 20, 30)
    assert decode(saved(palette, transparency=1), MANY).image.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    made = decode(data, MANY)
    assert made.image.getpixel((5, 5)) == (255, 0, 0)
    assert getattr(Image.open(io.BytesIO(made.data)), "n_frames", 1) == 1


def test_orientation_is_applied_and_dropped() -> None:
    image = picture(3)
    made = decode(saved(image, exif=exif_of(6)), MANY)
    assert np.array_equal(np.asarray(made.image), np.rot90(np.asarray(image), -1))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made.data))), np.asarray(made.image))
    upright = saved(image, exif=exif_of(1))
    assert decode(upright, MANY).data == upright


def test_square_cuts_about_the_centre() -> None:
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste("white", (20, 0, 40, 20))
    image, data = square(wide, b"", 10)
    assert image.size == (10, 10) and np.asarray(image).min() > 230  # the filter reaches a little beyond the cut
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))
    assert square(wide.crop((0, 0, 20, 20)), b"as it was", 20)[1] == b"as it was"


# --- images ---------------------------------------------------------------------------------------------------------


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
        assert near.fault(decoded(smaller.convert("RGB")))
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
        assert index.near(value) == any((value ^ other).bit_count() <= bits for other in added)
        index.add(value)
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
        index.add(int(value))
    Counted.compared = 0
    for value in rng.integers(0, 2**64, 100, dtype=np.uint64):
        index.near(Counted(int(value)))
    assert Counted.compared / 100 < 50  # of 20,000: five bands of 12 or 13 bits share about 5 * 20,000 / 2^12.8


# --- splits and pairs -----------------------------------------------------------------------------------------------


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


def test_filters_do_not_share_state() -> None:
    makers: list[Callable[[], filters.Filter[ImageRow]]] = [
        filters.exact_duplicates,
        lambda: filters.near_duplicates(4),
    ]
    for make in makers:
        assert make().fault(decoded(picture(0))) == make().fault(decoded(picture(0))) == ""
