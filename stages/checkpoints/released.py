"""Names that the original release of Stable Diffusion and SDXL has for the layers of a UNet. Torch-free.

LoRAs of SDXL that kohya's scripts train, the commonest single files, are named so. Source: the numbering of blocks in
CompVis' `openaimodel.py`: a level is a residual block and, where it attends, a transformer after it, as often as there
are layers, then what changes the resolution.
"""

from __future__ import annotations

import re
from collections.abc import Collection

RESNET = {
    "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
"""Layers of a residual block with a weight that a LoRA may update."""
ENDS = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_MOST = 16
"""More residual blocks than any level has. Ours."""
_LAYER = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def name(layer: str, layers: Collection[str]) -> str | None:
    """The name of one of a UNet's `layers` in the original release; None for a layer that it does not have."""
    if layer in ENDS:
        return ENDS[layer]
    found = _LAYER.fullmatch(layer)
    if found is None:
        return None
    side, level, kind, n, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        if rest not in RESNET:
            return None
        rest = RESNET[rest]
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * n}.{rest}"
    before, own = _sizes(side, level, layers)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{before + own + 1}.0.op"
        return f"input_blocks.{before + n + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        attends = any(other.startswith(f"up_blocks.{level}.attentions.") for other in layers)
        return f"output_blocks.{before + own - 1}.{1 + attends}.conv"
    return f"output_blocks.{before + n}.{int(kind == 'attentions')}.{rest}"


def _sizes(side: str, level: int, layers: Collection[str]) -> tuple[int, int]:
    """Numbered blocks before a level, and residual blocks of the level; going down, a change of resolution has a number
    of its own.
    """
    count = [
        len({n for n in range(_MOST) if f"{side}_blocks.{i}.resnets.{n}.conv1" in layers}) for i in range(level + 1)
    ]
    return sum(count[:level]) + (level if side == "down" else 0), count[level]
