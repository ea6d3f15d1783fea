"""The images that `sample` writes are those that plain torch makes of the base, the policies and the settings."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.wiring.mini import STEPS, STUDY, Mini
from tests.wiring.plain import Plain

RUN = "refl-s8"


@pytest.fixture(scope="module")
def plain(parts: Mini) -> Plain:
    return Plain(parts)


def written(parts: Mini, run: str, strategy: str, setting: str) -> Any:
    rows = pd.read_parquet(parts.path(f"samples/{run}.parquet"))
    return rows[(rows["strategy"] == strategy) & (rows["setting"] == setting)]


def compare(plain: Plain, rows: Any, clean: torch.Tensor) -> None:
    """Images to within one of 256 levels, but for a few that rounding moves further."""
    found = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in rows["image"]]).astype(int)
    made = (plain.decode(clean) * 255).round().permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(found - made).max() <= 2
    assert (found == made).mean() > 0.98
    assert len({image.tobytes() for image in found}) == len(found)  # every prompt and sample has noise of its own


def start(plain: Plain, rows: Any):
    prompts = plain.rows("prompt", "eval")
    assert dict(zip(rows["prompt_id"], rows["prompt"], strict=True)) == prompts["text"].to_dict()
    keys = [("eval", row.prompt_id, row.sample) for row in rows.itertuples()]
    noise = plain.noise(STUDY["study"]["seed"], keys)
    return noise, plain.tensors["text_embeddings"][prompts.loc[rows["prompt_id"], "row"].tolist()]


def tuned_network(plain: Plain, parts: Mini):
    network = plain.network()
    values = load_file(parts.path(f"runs/{RUN}/policy.safetensors"))
    network.load_state_dict({name.removeprefix("unet."): value for name, value in values.items()}, strict=False)
    return network


@pytest.mark.parametrize("scale", STUDY["sample"]["guidance"])
@torch.no_grad()
def test_the_base(parts: Mini, plain: Plain, scale: float):
    rows = written(parts, "base", "guidance", f"g={scale:g}")
    noise, text = start(plain, rows)
    compare(plain, rows, plain.walk(plain.predict(plain.network(), text, scale), noise.initial(), noise, 0, STEPS))
    assert set(rows["nfe"]) == {STEPS if scale == 1 else 2 * STEPS}


@torch.no_grad()
def test_the_tuned_network(parts: Mini, plain: Plain):
    rows = written(parts, RUN, "tuned", "tuned")
    noise, text = start(plain, rows)
    compare(
        plain, rows, plain.walk(plain.predict(tuned_network(plain, parts), text, 1.7), noise.initial(), noise, 0, STEPS)
    )
    assert set(rows["nfe"]) == {2 * STEPS}


@pytest.mark.parametrize("k", STUDY["sample"]["strategies"]["combined"]["k"])
@torch.no_grad()
def test_combined_generation(parts: Mini, plain: Plain, k: int):
    rows = written(parts, RUN, "combined", f"k={k}")
    noise, text = start(plain, rows)
    x = plain.walk(plain.predict(plain.network(), text, 2.5), noise.initial(), noise, 0, k)
    compare(plain, rows, plain.walk(plain.predict(tuned_network(plain, parts), text, 1.7), x, noise, k, STEPS))


@pytest.mark.parametrize("p", STUDY["sample"]["strategies"]["aig"]["p"])
@torch.no_grad()
def test_annealed_importance_guidance(parts: Mini, plain: Plain, p: int):
    rows = written(parts, RUN, "aig", f"p={p}")
    noise, text = start(plain, rows)
    base, tuned = plain.predict(plain.network(), text, 1.7), plain.predict(tuned_network(plain, parts), text, 1.0)

    def mixed(x: torch.Tensor, i: int) -> torch.Tensor:
        weight = (i / STEPS) ** p
        return (1 - weight) * base(x, i) + weight * tuned(x, i)

    compare(plain, rows, plain.walk(mixed, noise.initial(), noise, 0, STEPS))
    assert set(rows["nfe"]) == {3 * STEPS - 1}
