"""Settings of pairs that are drawn in the world of shapes, read from a table, or made of captions or by an editor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from stages import own_function
from stages.curate.datasets import Name, Text
from stages.params import Settings


class ShapesPairs(Settings):
    """Pairs of scenes for one prompt, judged by the simulated annotators."""

    kind: Literal["shapes"]
    name: Name = ""
    count: int = Field(2000, ge=1, description="pairs; the first n are the same whatever the count")
    seed: int = Field(0, ge=0, description="seed of scenes and votes, beside the world's own")
    votes: int = Field(1, ge=1, description="annotators that judge each pair")
    captions: bool = Field(False, description="the oracle writes a caption of each image's own, of what it shows")
    annotators: int = Field(
        0, ge=0, description="annotators of several tastes, of whom one judges each pair and is named; 0: nobody is"
    )
    tastes: tuple[Literal["large", "small", "light", "dark"], ...] = Field(
        ("large", "small"), min_length=1, description="annotator n likes what the entry n modulo their number says"
    )

    @model_validator(mode="after")
    def _one_judge(self) -> ShapesPairs:
        if self.annotators and self.votes > 1:
            raise ValueError("votes: with named annotators one judges each pair, expected 1")
        return self


JUDGED = ("image_a", "image_b", "preference", "votes_a", "votes_b")
"""Keys that say which two images there are and how they were judged; `chosen` and `rejected` say both."""


class FilePairs(Settings):
    """A csv, tsv, json, jsonl, Parquet or Arrow table of comparisons. A key may reach into a list or object:
    `file_path.0`. Without any of the keys of images and judgement, columns `chosen` and `rejected` are recognised.
    """

    kind: Literal["file"]
    name: Name = ""
    path: Text = Field(description="the table (for Parquet also a folder)")
    folder: str | None = Field(None, description="folder of the images that the table names; null: curated images")
    prompt: Text = Field("prompt", description="key of the prompt")
    image_a: Text = Field("image_a", description="key of image a: a name, an image_id, a file below `folder`, or bytes")
    image_b: Text = Field("image_b", description="key of image b")
    preference: str | None = Field("preference", description="key of the share of votes for a, or of a, b, tie")
    votes_a: str | None = Field(None, description="key of the number of votes for a, where there is no preference")
    votes_b: str | None = Field(None, description="key of the number of votes for b")
    chosen: str | None = Field(
        None, min_length=1, description="key of the preferred image, in place of image_a to votes_b"
    )
    rejected: str | None = Field(None, min_length=1, description="key of the other image")
    weight: str | None = Field(None, min_length=1, description="key of a pair's weight in training, 0 or more; null: 1")
    annotator: str | None = Field(None, min_length=1, description="key of who judged; null: nobody is named")
    caption_a: str | None = Field(
        None, min_length=1, description="key of a caption of image a's own (of the preferred one, with `chosen`)"
    )
    caption_b: str | None = Field(None, min_length=1, description="key of a caption of image b's own; null: the prompt")
    group: str | None = Field(None, description="key: images of one group stay in one split; null groups by prompt")

    @model_validator(mode="after")
    def _one_kind_of_judgement(self) -> FilePairs:
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("`chosen` and `rejected` go together")
        given = [key for key in JUDGED if key in self.model_fields_set and getattr(self, key) is not None]
        if self.chosen is not None and given:
            raise ValueError(f"`chosen` and `rejected` say what `{given[0]}` says; leave that out")
        if self.chosen is not None:
            return self
        if (self.votes_a is None) != (self.votes_b is None):
            raise ValueError("`votes_a` and `votes_b` go together")
        if (self.preference is None) == (self.votes_a is None):
            raise ValueError("expected either `preference`, or `preference: null` with `votes_a` and `votes_b`")
        return self


class PerturbedCaptions(Settings):
    """The captioned images of the study, each with its own caption, which is preferred, against a perturbed one (TPO).

    Words are exchanged by a rule, which needs no model: in the world of shapes a word for the colour, shape, size or
    background, in other captions one of another caption that stands between the same two words there.
    """

    kind: Literal["perturbed"]
    name: Name = ""
    of: str | None = Field(None, min_length=1, description="the one source of `curate.images` taken; null: all of them")
    each: int = Field(1, ge=1, le=16, description="perturbed captions per image, no two alike")
    seed: int = Field(0, ge=0, description="seed of the words that are exchanged")
    function: str | None = Field(
        None, description="`package.module:function` in place of the rule: a language model, or a rule of your own"
    )

    @field_validator("function")
    @classmethod
    def _module_and_name(cls, place: str | None) -> str | None:
        return None if place is None else own_function.named(place)


class EditedPairs(Settings):
    """The images of another source, which a critic compares with their prompts, against what an editor makes of them,
    which is preferred (RPO).

    In the world of shapes the oracle criticises and the renderer edits. A critic of one's own is called with a list of
    images (bytes of PNG or JPEG files) and a list of prompts, and returns a critique for each, empty for none; an
    editor with images, prompts, critiques and the seed, and returns bytes of image files, or None.
    """

    kind: Literal["edited"]
    name: Name = ""
    of: Text = Field(description="the source whose images are criticised: those that its rows bring")
    among: Literal["pairs", "images"] = Field("pairs", description="where that source stands: curate.pairs or .images")
    critic: str | None = Field(None, description="`package.module:function` in place of the oracle of the shapes world")
    editor: str | None = Field(None, description="`package.module:function` in place of the renderer of that world")
    limit: int | None = Field(None, ge=1, description="at most so many images, the first ones; null: all of them")
    seed: int = Field(0, ge=0, description="what an editor of one's own is given")

    @field_validator("critic", "editor")
    @classmethod
    def _module_and_name(cls, place: str | None) -> str | None:
        return None if place is None else own_function.named(place)
