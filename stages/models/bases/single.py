"""What single files of the original layouts hold, by the names of their tensors. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from stages.errors import InputError
from stages.models.bases.layout import BaseLayout

PLACES = {
    "StableDiffusionPipeline": {
        "unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model.",
    },
    "StableDiffusionXLPipeline": {
        "unet": "model.diffusion_model.", "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "StableDiffusion3Pipeline": {
        "transformer": "model.diffusion_model.joint_blocks.", "vae": "first_stage_model.",
        "text_encoder": "text_encoders.clip_l.", "text_encoder_2": "text_encoders.clip_g.",
        "text_encoder_3": "text_encoders.t5xxl.",
    },
}  # fmt: skip
"""How the names of each part's tensors begin, by pipeline; diffusers reads such files."""


def require_family(file: Path, layout: BaseLayout) -> None:
    """Raise InputError for a family whose single files cannot be read."""
    if layout.family.pipeline not in PLACES:
        raise InputError(f"{file}: a single file of {layout.family.name} is not supported; use a diffusers folder")


def is_part(layout: BaseLayout, name: str) -> bool:
    """Whether a tensor of this name belongs to a part of the model, and is read."""
    return name.startswith(tuple(PLACES[layout.family.pipeline].values()))


def require_parts(file: Path, layout: BaseLayout, names: Collection[str]) -> None:
    """Raise InputError, saying what to do, where no tensor of `names` belongs to a part that the model has."""
    places = PLACES[layout.family.pipeline]
    parts = [part for part in places if part == layout.family.network or part == "vae" or part in layout.texts]
    lacking = [part for part in parts if not any(name.startswith(places[part]) for name in names)]
    if not lacking:
        return
    begin = f"{file}: holds no {', '.join(lacking)} of {layout.family.name} (names {places[lacking[0]]}...)"
    if lacking == ["text_encoder_3"]:
        raise InputError(
            f"{begin}; to do without, set text_encoder_3 and tokenizer_3 to [null, null] in the model_index.json of "
            f"{layout.folder}"
        )
    other = any(name.startswith(tuple(places.values())) for name in names)
    advice = "use a diffusers folder, or a file with all parts" if other else "is it of this family?"
    raise InputError(f"{begin}; {advice}")
