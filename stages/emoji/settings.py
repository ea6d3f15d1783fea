"""Settings of the sources of the emoji world."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.params import Settings

Vendor = Literal["google", "twitter"]
"""Vendors whose images are free: Noto Emoji (Apache-2.0), Twemoji (CC-BY 4.0)."""
CATEGORIES = ("People & Body",)
SUBCATEGORIES = (
    "person", "person-gesture", "person-role", "hands", "hand-fingers-open", "hand-fingers-partial",
    "hand-single-finger", "hand-fingers-closed", "hand-prop",
)  # fmt: skip


class EmojiSource(Settings):
    """Which real images there are."""

    kind: Literal["emoji"]
    name: Annotated[str, Field(description="what the column `source` says of these rows; empty takes the kind")] = ""
    path: str = Field(
        min_length=1, description="folder with the unpacked packages emoji-datasource-<vendor>, or Parquet made of them"
    )
    vendors: tuple[Vendor, ...] = Field(("google", "twitter"), min_length=1, description="whose images")
    categories: tuple[str, ...] = Field(CATEGORIES, min_length=1, description="categories of emoji")
    subcategories: tuple[str, ...] | None = Field(
        SUBCATEGORIES, min_length=1, description="those of their subcategories that are wanted; null takes all"
    )
    size: int = Field(32, ge=16, le=64, description="side of an image in pixels; published images have 64")


class EmojiImages(EmojiSource):
    """Images of emoji, captioned with their names without tone."""

    part: Literal["all", "train", "eval"] = Field(
        "all", description="all images, those whose caption is no evaluation prompt, or those whose caption is one"
    )


class EmojiPrompts(EmojiSource):
    """Names of emoji."""

    part: Literal["train", "eval"] = Field(description="train: all other names; eval: the evaluation prompts")
    limit: Annotated[
        int | None,
        Field(ge=1, description="keep this many prompts, the same ones when others are added; null keeps all"),
    ] = None


class EmojiPairs(EmojiSource):
    """Pairs of real images, with what may happen to images, judged by the simulated annotators."""

    count: int = Field(2000, ge=1, description="pairs; the first n are the same whatever the count")
    seed: int = Field(0, ge=0, description="seed of what is shown and of the votes")
    votes: int = Field(1, ge=1, description="annotators that judge each pair")
    taste: Literal["both", "coarse", "fine"] = Field("both", description="terms of the annotators' utility")
