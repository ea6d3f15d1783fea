"""The diffusion process of a scheduler configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stages.models.bases.layout import flow_matching
from stages.models.process import DiffusionProcess
from stages.models.process_flow import FlowMatching
from stages.models.process_noise import NoiseSchedule


def load_process(config: Mapping[str, Any], device: torch.device) -> DiffusionProcess:
    """The process that diffusers' `scheduler/scheduler_config.json` describes: flow matching where its class says so,
    else a noise schedule. Raises InputError for a configuration that is not known.
    """
    return (FlowMatching if flow_matching(config) else NoiseSchedule).from_config(config, device)
