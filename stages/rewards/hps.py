"""Human Preference Score v2 and v2.1: the cosine of a fine-tuned CLIP ViT-H/14 (Wu et al. 2023).

Source: tgxs002/HPSv2 (Apache-2.0), hpsv2/img_score.py; weights `xswu/HPSv2`. The record holds one checkpoint: the
released `.pt`, a dictionary whose `state_dict` is in half precision, or its tensors as safetensors. The published
package is not needed. Its tables show 100 times this reward, which `factor` can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from stages.errors import InputError
from stages.gives import Gives
from stages.mappings import DECODER
from stages.models.record import ModelRecord
from stages.params import nearest
from stages.rewards.networks import checkpoint
from stages.rewards.networks.options import Options, options
from stages.rewards.open_clip import CONFIG, OpenClip, tokenizer
from stages.rewards.preprocess import Preprocess

GIVES = Gives(embedding=True, patches=True, text=True, words=True)

RELEASES = {
    "07cb0d20626232204ca3a6ec53ff5984e7e53212a8a7b0e0ec2bac1bdaf125a1": "v2.0",
    "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837": "v2.1",
}
"""sha256 of the released `HPS_v2_compressed.pt` and `HPS_v2.1_compressed.pt`."""


class HpsOptions(Options):
    """Options of kind `hps`."""

    version: Literal["v2.0", "v2.1"] | None = Field(
        None, description="the release that the file must be, by its sha256; null takes any weights of this shape"
    )
    model: str = Field("ViT-H-14", description="architecture, by its name in open_clip")
    factor: float = Field(1.0, gt=0, description="factor of the cosine; 100 gives the numbers of published tables")


OPTIONS = HpsOptions


def load(record: ModelRecord, device: torch.device | str = "cpu") -> OpenClip:
    """The reward; an `open_clip_config.json` beside the checkpoint goes before the option `model`.

    Raises InputError where the file is of another release than asked for (or than its name says), damaged, pickled
    with more than tensors, or of another architecture.
    """
    settings = options(record, HpsOptions)
    path = checkpoint.only_file(record)
    _check_release(path, record.files[path.name], settings.version)
    from open_clip.model import CLIP

    config = _architecture(record, settings.model)
    model: Any = checkpoint.build(lambda: CLIP(**config), checkpoint.read(path), path)
    # Its training padded images to a square with black and did not cut them (hpsv2, ResizeMaxSize).
    preprocess = settings.normalised(Preprocess(model.visual.image_size[0], resize_mode="longest"))
    words = tokenizer(Path(record.path), model)
    return OpenClip(record.name, model.to(device, settings.dtype), preprocess, words, settings.factor)


def _check_release(path: Path, digest: str, wanted: str | None) -> None:
    """The Space `xswu/HPSv2` serves v2.0 under the name of v2.1; scores of the two do not compare."""
    found = RELEASES.get(digest)
    named = next((version for version in ("v2.1",) if f"HPS_{version}" in path.name and found), None)
    for expected, why in ((wanted, "options.version"), (named, "its name")):
        if expected is not None and found != expected:
            what = f"is HPS {found}" if found else "is no released HPS"
            right = next(known for known, version in RELEASES.items() if version == expected)
            raise InputError(
                f"{path}: {what} (sha256 {digest[:12]}...), expected {expected} as {why} says ({right[:12]}...)"
            )


def _architecture(record: ModelRecord, name: str) -> Mapping[str, Any]:
    if CONFIG in record.files:
        try:
            return DECODER.decode(record.file(CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{Path(record.path) / CONFIG}: expected JSON with an object model_cfg") from None
    import open_clip

    config = open_clip.get_model_config(name) if "/" not in name else None
    if config is None:
        hint = nearest(name, open_clip.list_models())
        raise InputError(f"model {record.name!r}: options.model: open_clip has no {name!r}{hint}")
    return config
