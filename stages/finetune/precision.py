"""The region in which networks compute in the precision of the study."""

from __future__ import annotations

import torch

from stages.finetune.settings import FinetuneSettings


def autocast(settings: FinetuneSettings, device: torch.device) -> torch.autocast:
    """A region for one pass. Nothing is cached in it: a weight cast without gradient must not reach a pass with one."""
    wanted = settings.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)


def exactly(device: torch.device) -> torch.autocast:
    """A region without autocast within one with it, for backward passes."""
    return torch.autocast(device.type, enabled=False)
