"""Settings of the published data sets that `curate` reads in the layout in which they are published."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.params import Settings

Name = Annotated[str, Field(description="what the column `source` says of these rows; empty takes the kind")]
Limit = Annotated[
    int | None, Field(ge=1, description="keep this many prompts, the same ones when others are added; null keeps all")
]
Text = Annotated[str, Field(min_length=1)]
Split = Annotated[Literal["train", "validation", "test"], Field(description="the data set's own split")]
PickSplit = Annotated[
    Literal["train", "validation", "test", "validation_unique", "test_unique"],
    Field(description="the data set's own split"),
]
Style = Literal["anime", "concept-art", "paintings", "photo", "drawbench"]


class CocoImages(Settings):
    """COCO captions in Parquet: columns image, filename, cocoid, caption; each image comes with its first caption."""

    kind: Literal["coco"]
    name: Name = ""
    path: Text = Field(description="folder of Parquet files named `<split>-*.parquet`")
    split: Split = "train"


class LaionImages(Settings):
    """Webdataset tars as img2dataset writes them: image, .txt and .json of one key beside each other."""

    kind: Literal["laion"]
    name: Name = ""
    path: Text = Field(description="a tar, or a folder of tars")
    max_unsafe: float | None = Field(
        0.1, ge=0, le=1, description="largest probability of being unsafe (`punsafe`); null keeps all"
    )
    max_watermark: float | None = Field(
        0.5, ge=0, le=1, description="largest probability of a watermark (`pwatermark`); null keeps all"
    )
    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="least similarity of image and caption (`similarity`); null keeps all"
    )
    quality: str | None = Field(None, description="key of a score that `filters.min_quality` applies to")


class Hpdv2Images(Settings):
    """Images of HPDv2 with their prompts as captions."""

    kind: Literal["hpdv2"]
    name: Name = ""
    path: Text = Field(description="folder with `train.json` and `test.json` and the folders of images")
    split: Literal["train", "test"] = Field("train", description="the data set's own split")
    preferred: bool = Field(True, description="only images that people preferred, or all")


class Hpdv2Pairs(Settings):
    """HPDv2: pairs of its training part, or all pairs of the ranked images of its test part."""

    kind: Literal["hpdv2"]
    name: Name = ""
    path: Text = Field(description="folder with `train.json` and `test.json` and the folders of images")
    split: Literal["train", "test"] = Field("train", description="the data set's own split")


class ImageRewardPairs(Settings):
    """ImageRewardDB: all pairs of the ranked images of a prompt, from the zips of its images."""

    kind: Literal["image_reward_db"]
    name: Name = ""
    path: Text = Field(description="folder with `images/<split>/<split>_<n>.zip`")
    split: Split = "train"
    parts: int | None = Field(None, ge=1, description="read so many zips; 4, 8, 16 are the sets 1k, 2k, 4k; null: all")
    ties: bool = Field(False, description="keep pairs of equal rank, as half a vote for each")


class PickAPicPairs(Settings):
    """Pick-a-Pic v1 or v2 in Parquet, with the images inside."""

    kind: Literal["pick_a_pic"]
    name: Name = ""
    path: Text = Field(description="folder of Parquet files named `<split>-*.parquet`")
    split: PickSplit = "train"


class Hpdv2Prompts(Settings):
    """Prompts of HPDv2."""

    kind: Literal["hpdv2"]
    name: Name = ""
    path: Text = Field(description="folder with `train.json` and `test.json`")
    split: Literal["train", "test"] = Field(description="the data set's own split")
    limit: Limit = None


class ImageRewardPrompts(Settings):
    """Prompts of ImageRewardDB."""

    kind: Literal["image_reward_db"]
    name: Name = ""
    path: Text = Field(description="folder with `metadata-<split>.parquet`")
    split: Split
    limit: Limit = None


class PickAPicPrompts(Settings):
    """Captions of Pick-a-Pic, with or without its images."""

    kind: Literal["pick_a_pic"]
    name: Name = ""
    path: Text = Field(description="folder of Parquet files named `<split>-*.parquet`")
    split: PickSplit
    limit: Limit = None


class CocoPrompts(Settings):
    """Captions of COCO; those of one image never stand in both train and eval."""

    kind: Literal["coco"]
    name: Name = ""
    path: Text = Field(description="folder of Parquet files named `<split>-*.parquet`")
    split: Split
    limit: Limit = None


class LaionPrompts(Settings):
    """Captions of LAION-style metadata: Parquet with a column TEXT."""

    kind: Literal["laion"]
    name: Name = ""
    path: Text = Field(description="a file, or a folder of .parquet files")
    limit: Limit = None


class PartiPrompts(Settings):
    """PartiPrompts: `PartiPrompts.tsv` with columns Prompt, Category, Challenge, Note."""

    kind: Literal["parti_prompts"]
    name: Name = ""
    path: Text = Field(description="the file")
    categories: tuple[str, ...] = Field((), description="keep these categories; none keeps all")
    limit: Limit = None


class DrawBench(Settings):
    """DrawBench: a table with a column Prompts (or Prompt, prompt), or a .txt with one prompt per line."""

    kind: Literal["draw_bench"]
    name: Name = ""
    path: Text = Field(description="the file")
    limit: Limit = None


class Hpsv2Benchmark(Settings):
    """The benchmark prompts of HPSv2: one JSON list per style."""

    kind: Literal["hpsv2_benchmark"]
    name: Name = ""
    path: Text = Field(description="folder with `anime.json`, `concept-art.json`, `paintings.json`, `photo.json`")
    styles: tuple[Style, ...] = Field(
        ("anime", "concept-art", "paintings", "photo"), min_length=1, description="the lists to read"
    )
    limit: Limit = None


PublishedImages = CocoImages | LaionImages | Hpdv2Images
PublishedPairs = Hpdv2Pairs | ImageRewardPairs | PickAPicPairs
PublishedPrompts = (
    Hpdv2Prompts
    | ImageRewardPrompts
    | PickAPicPrompts
    | CocoPrompts
    | LaionPrompts
    | PartiPrompts
    | DrawBench
    | Hpsv2Benchmark
)
