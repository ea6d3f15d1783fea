"""The scale of every update of a LoRA: alpha / rank, from the settings of peft or diffusers. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from stages.checkpoints.files import PEFT_ALPHA, Checkpoint
from stages.checkpoints.lora_names import Update
from stages.errors import InputError
from stages.kinds import shown

CHANGED_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to initialise a LoRA that take something off the base's own weights; its updates fit only such a base."""
UNREAD = (
    "fan_in_fan_out",
    "use_qalora",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "megatron_config",
)
"""Settings of peft that change what an update means, or where it goes."""
MOST = 1e30
"""Above it a scale is not finite in float32, or makes weights that are not. The limit is ours."""


def scales(checkpoint: Checkpoint, found: Iterable[Update], where: str) -> dict[str, float | None]:
    """By layer, the factor alpha / rank (alpha / sqrt(rank) of rsLoRA) of its update; None where a tensor of the file
    holds alpha. Without any alpha the factor is 1.

    Source: peft, `LoraLayer.update_layer`. Raises InputError that starts with `where` for settings that are not read.
    """
    says = own_settings(checkpoint.settings)
    for key in UNREAD:
        if says.get(key):
            raise InputError(f"{where}: {key} is {says[key]!r}; such a LoRA is not read: merge it into the network")
    start = str(says.get("init_lora_weights", "")).lower()
    if start.startswith(CHANGED_BASE):
        raise InputError(
            f"{where}: init_lora_weights is {start!r}, which changes the base's weights too; convert it to a plain LoRA"
        )
    rslora = says.get("use_rslora") or False
    if not isinstance(rslora, bool):
        raise InputError(f"{where}: use_rslora: expected true or false, found {shown(rslora)}")
    ranks, made = checkpoint.shapes, {}
    for update in found:
        alpha, rank = _alpha(says, update.layer, where), ranks[update.down][0]
        root = rank**0.5 if rslora else float(rank)
        made[update.layer] = None if update.alpha else 1.0 if alpha is None else alpha / root
    return made


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the denoising network's LoRA: those of peft, or diffusers' without their `unet.`."""
    if isinstance(settings.get("lora"), Mapping):  # of a policy
        return {"lora_alpha": settings["lora"].get("alpha")}
    nested = {
        key.partition(".")[2]: value
        for key, value in settings.items()
        if key.partition(".")[0] in ("unet", "transformer")
    }
    return {"lora_alpha": PEFT_ALPHA} | nested if nested else dict(settings)


def _alpha(says: Mapping[str, Any], layer: str, where: str) -> float | None:
    """What the settings say of one layer: by the first pattern that fits, as peft has it, else for all."""
    patterns = says.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise InputError(f"{where}: alpha_pattern: expected a mapping of layers, found {patterns!r}")
    try:
        fits = [value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)]
    except re.error as error:
        raise InputError(f"{where}: alpha_pattern: no regular expression: {error}") from None
    if fits:
        return _number(fits[0], f"{where}: alpha_pattern")
    return _number(says["lora_alpha"], f"{where}: lora_alpha") if "lora_alpha" in says else None


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
        raise InputError(f"{where}: expected a finite number, found {shown(value)}")
    return float(value)
