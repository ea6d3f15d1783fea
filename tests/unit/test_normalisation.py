from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.errors import InputError
from stages.rewards import open_clip
from stages.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from tests import tiny


def test_named_normalisations():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    other = Preprocess(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (images - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    torch.testing.assert_close(other.normalised("clip", "here")(images), expected)
    torch.testing.assert_close(other.normalised("half", "here")(images), 2 * images - 1)
    with pytest.raises(InputError, match=r"^here: unknown normalisation 'imagnet'; did you mean 'imagenet'\?$"):
        other.normalised("imagnet", "here")


def test_a_record_chooses_the_normalisation_of_a_model(tmp_path: Path):
    record = tiny.clip_folder(tmp_path / "clip")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    usual = open_clip.load(record)
    half = open_clip.load(replace(record, options={"normalise": "half"}))
    assert torch.equal(
        open_clip.load(replace(record, options={"normalise": "clip"})).embed(images), usual.embed(images)
    )
    assert not torch.allclose(half.embed(images), usual.embed(images), atol=1e-3)
    torch.testing.assert_close(half.embed(images), usual.model.encode_image(2 * images - 1))
    assert half.describe() != usual.describe()
    with pytest.raises(InputError, match=r"options\.normalize: unknown key; did you mean 'normalise'"):
        open_clip.load(replace(record, options={"normalize": "half"}))
