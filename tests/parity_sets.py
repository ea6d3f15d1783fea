"""Where the reference numbers of the released code lie, if they are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(os.environ.get("PARITY_DIR") or Path(__file__).parents[2] / "shared" / "parity")

PARITY_SETS = sorted(
    path.parent for path in [*_ROOT.glob("expected.safetensors"), *_ROOT.glob("*/expected.safetensors")]
)
"""Folders of all sets; `PARITY_DIR` names one, or the folder that holds them (`../shared/parity` by default)."""

needs_parity = pytest.mark.skipif(not PARITY_SETS, reason=f"no parity sets in {_ROOT} (PARITY_DIR names the folder)")

NUMBERS = Path(os.environ.get("NUMBERS_DIR") or Path(__file__).parents[2] / "shared" / "numbers")
"""The folder of further reference numbers, one set for each family; `NUMBERS_DIR` names it."""
