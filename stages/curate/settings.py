"""Settings of `curate`: where images, pairs and prompts come from, and which of them are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from stages.curate.datasets import Limit, Name, PublishedImages, PublishedPairs, PublishedPrompts, Text
from stages.curate.pair_settings import EditedPairs, FilePairs, PerturbedCaptions, ShapesPairs
from stages.emoji.settings import EmojiImages, EmojiPairs, EmojiPrompts
from stages.params import Settings, nearest


class ShapesImages(Settings):
    """Captioned scenes of the simulated world."""

    kind: Literal["shapes"]
    name: Name = ""
    count: int = Field(4096, ge=1, description="scenes; the first n are the same whatever the count")
    seed: int = Field(0, ge=0, description="seed of scenes and captions, beside the world's own")


class Captions(Settings):
    """A csv, tsv, json, jsonl or Parquet table with a row for each image of a folder."""

    path: Text = Field(description="the table")
    image: Text = Field("image", description="column: the image's path below the folder")
    caption: Text = Field("caption", description="column: the caption")
    group: str | None = Field(None, description="column: images of one group stay in one split; null groups by caption")
    quality: str | None = Field(None, description="column: a score that `filters.min_quality` applies to")


class FolderImages(Settings):
    """A folder of images, each with a .txt file of the same name beside it, or with one table of captions."""

    kind: Literal["folder"]
    name: Name = ""
    path: Text = Field(description="the folder; subfolders are searched")
    captions: Captions | None = Field(None, description="a table of captions; null reads a .txt beside each image")


class ParquetImages(Settings):
    """Parquet with an image column (bytes, a struct of bytes and path, or a path) and a caption column."""

    kind: Literal["parquet"]
    name: Name = ""
    path: Text = Field(description="a file, or a folder of .parquet files")
    image: Text = Field("image", description="column of the image; paths are taken from the file's own folder")
    caption: Text = Field("caption", description="column of the caption")
    id: str | None = Field(None, description="column by which pairs may name an image")
    group: str | None = Field(None, description="column: images of one group stay in one split; null groups by caption")
    quality: str | None = Field(None, description="column: a score that `filters.min_quality` applies to")


class ShapesPrompts(Settings):
    """Sentences of the simulated world."""

    kind: Literal["shapes"]
    name: Name = ""
    part: Literal["train", "eval"] = Field(description="train: every sentence; eval: the evaluation prompts")
    limit: Limit = None


class FilePrompts(Settings):
    """A list of prompts in txt (one per line), json, jsonl, csv, tsv or Parquet."""

    kind: Literal["file"]
    name: Name = ""
    path: Text = Field(description="the list (for Parquet also a folder)")
    key: Text = Field("prompt", description="key or column of the text; a list of plain strings needs none")
    group: str | None = Field(None, description="key: prompts of one group never stand in both train and eval")
    limit: Limit = None


JUDGES = ("weight", "annotator", "annotators")
"""Keys of a source of pairs that says what a pair weighs, or who judged it."""


def source_name(source: Settings) -> str:
    """What the column `source` says of a source's rows."""
    return getattr(source, "name", "") or getattr(source, "kind", "")


ImageSource = Annotated[
    ShapesImages | EmojiImages | FolderImages | ParquetImages | PublishedImages, Field(discriminator="kind")
]
PairSource = Annotated[
    ShapesPairs | EmojiPairs | FilePairs | PerturbedCaptions | EditedPairs | PublishedPairs, Field(discriminator="kind")
]
PromptSource = Annotated[ShapesPrompts | EmojiPrompts | FilePrompts | PublishedPrompts, Field(discriminator="kind")]


def _as_list(value: Any) -> Any:
    """One source may stand without the brackets of a list; null is no source."""
    if value is None:
        return []
    return [value] if isinstance(value, dict | Settings) else value


OneOrMoreImages = ImageSource | list[ImageSource] | None
OneOrMorePairs = PairSource | list[PairSource] | None
OneOrMorePrompts = PromptSource | list[PromptSource]
Images = Annotated[list[ImageSource], BeforeValidator(_as_list, json_schema_input_type=OneOrMoreImages)]
Pairs = Annotated[list[PairSource], BeforeValidator(_as_list, json_schema_input_type=OneOrMorePairs)]
Prompts = Annotated[list[PromptSource], BeforeValidator(_as_list, json_schema_input_type=OneOrMorePrompts)]


class PromptLists(Settings):
    """The prompts to train on and the ones to evaluate with: one list or several each."""

    train: Prompts = Field(min_length=1, description="training prompts; evaluation prompts are removed from them")
    eval: Prompts = Field(min_length=1, description="evaluation prompts")


class Filters(Settings):
    """What a row must satisfy to be kept; the same for every source."""

    min_side: int = Field(default=16, ge=1, description="shortest side of an image in pixels")
    max_pixels: int = Field(default=100_000_000, ge=1, description="images with more pixels are not decoded")
    near_duplicate_bits: int | None = Field(
        default=None, ge=0, le=12, description="perceptual hashes this many bits apart are one image; null keeps all"
    )
    near_duplicate_text: float | None = Field(
        default=None,
        ge=0.3,
        le=1,
        description="texts that share this much of their neighbouring words (Jaccard) are one prompt; null: only equal",
    )
    caption_words: tuple[int, int] = Field(default=(1, 77), description="fewest and most words of a caption or prompt")
    min_quality: float | None = Field(
        default=None, description="lower bound on an image's quality score; null keeps all"
    )
    leakage: bool = Field(
        default=True, description="remove training images and pairs whose text is an evaluation prompt"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Filters:
        fewest, most = self.caption_words
        if not 0 <= fewest <= most:
            raise ValueError(f"caption_words: expected 0 <= fewest <= most, found [{fewest}, {most}]")
        return self


class AsReleased(Settings):
    """What the released ImageReFL code does and its paper does not say; off. See docs/reproduction.md."""

    squash: bool = Field(
        default=False, description="make images square by scaling each side by its own factor, not by cutting"
    )


class StudySeed(Settings):
    """The one value that curation reads of section `study`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = Field(0, ge=0, description="seed of splits and of what is drawn of the simulated world")


class CurateSettings(Settings):
    """Section `curate` of a study."""

    images: Images = Field([], description="captioned images: one source, a list of them, or null")
    pairs: Pairs = Field([], description="preference pairs: one source, a list of them, or null")
    prompts: PromptLists = Field(description="prompt lists")
    filters: Filters = Field(Filters(), description="what is kept")
    side: int | None = Field(
        None, ge=8, description="scale captioned images and cut them to squares of so many pixels; null leaves them"
    )
    versions: str | None = Field(
        None, description="a table of versions (csv) that files of the sources must fit; null: the shipped one alone"
    )
    as_released: AsReleased = Field(AsReleased(), description="habits of the released code")
    val_share: float = Field(0.1, ge=0, lt=1, description="share of groups kept for validation")

    @model_validator(mode="after")
    def _distinct_names(self) -> CurateSettings:
        prompts = {"prompts.train": self.prompts.train, "prompts.eval": self.prompts.eval}
        for where, sources in {"images": self.images, "pairs": self.pairs, **prompts}.items():
            names = [source_name(source) for source in sources]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice:
                raise ValueError(f"{where}: two sources are called {twice!r}; give each its own `name`")
        return self

    @model_validator(mode="after")
    def _perturbed_of(self) -> CurateSettings:
        known = [source_name(source) for source in self.images]
        for source in self.pairs:
            if not isinstance(source, PerturbedCaptions):
                continue
            name, of = source_name(source), source.of
            if not known:
                raise ValueError(f"pairs: {name!r} perturbs captions of images, but `images` names no source")
            if of is not None and of not in known:
                raise ValueError(f"pairs: {name!r}: `of`: unknown source of images {of!r}{nearest(of, known)}")
        return self

    @model_validator(mode="after")
    def _edited_of(self) -> CurateSettings:
        for source in self.pairs:
            if isinstance(source, EditedPairs):
                self.criticised(source)
        return self

    def criticised(self, source: EditedPairs) -> ImageSource | PairSource:
        """The source whose images an editor is given; raises ValueError where there is none that brings images."""
        name = source_name(source)
        own = [one for one in self.pairs if not isinstance(one, PerturbedCaptions | EditedPairs)]
        known = {source_name(one): one for one in (own if source.among == "pairs" else self.images)}
        if source.of not in known:
            spot = f"pairs: {name!r}: `of`: unknown source of {source.among} that brings images"
            raise ValueError(f"{spot} {source.of!r}{nearest(source.of, known)}")
        return known[source.of]

    @model_validator(mode="after")
    def _quality_in_range(self) -> CurateSettings:
        bound = self.filters.min_quality
        tables = [getattr(source, "captions", None) or source for source in self.images]
        own = all(getattr(table, "quality", None) is None for table in tables)
        if bound is not None and own and not 0 <= bound <= 1:
            raise ValueError("filters.min_quality: expected 0 to 1 (no source names a quality column)")
        return self

    @property
    def sources(self) -> list[ImageSource | PairSource | PromptSource]:
        """Every source, in the order in which they are read."""
        return [*self.prompts.eval, *self.prompts.train, *self.images, *self.pairs]

    @property
    def judged(self) -> bool:
        """Whether any source says the weight of a pair, or who judged it."""
        return any(getattr(source, key, None) for source in self.pairs for key in JUDGES)

    @property
    def personal_pairs(self) -> list[str]:
        """Names of the sources of pairs that say who judged."""
        named = ("annotator", "annotators")
        return [source_name(source) for source in self.pairs if any(getattr(source, key, None) for key in named)]

    @property
    def captioned_pairs(self) -> list[str]:
        """Names of the sources of pairs whose images have captions of their own."""
        said = ("caption_a", "caption_b", "captions")
        return [
            source_name(source)
            for source in self.pairs
            if isinstance(source, PerturbedCaptions) or any(getattr(source, key, None) for key in said)
        ]

    @property
    def functions(self) -> dict[str, str]:
        """Functions of one's own that the sources call, by what names them in a study file."""
        every = {
            f"pairs.{number}.{key}": getattr(source, key, None)
            for number, source in enumerate(self.pairs)
            for key in ("function", "critic", "editor")
        }
        return {key: place for key, place in every.items() if place}

    @property
    def simulated(self) -> bool:
        """Whether any source is the simulated world, or edits by its renderer."""
        return any(source.kind in ("shapes", "edited") for source in self.sources)

    def paths(self) -> list[str]:
        """Files and folders that the sources read, as written in the study file."""
        holders = [holder for source in self.sources for holder in (source, getattr(source, "captions", None))]
        found = [getattr(holder, key, None) for holder in holders for key in ("path", "folder")] + [self.versions]
        return list(dict.fromkeys(path for path in found if path))
