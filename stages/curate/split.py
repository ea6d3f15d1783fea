"""Train or validation, by group."""

from __future__ import annotations

import hashlib


def split_of(group: str, val_share: float) -> str:
    """`val` for about `val_share` of all groups, else `train`.

    A hash of the group decides and nothing else, so a group keeps its split when data is added, and a larger share
    only moves groups from train to val.
    """
    digest = hashlib.sha256(f"split\x1f{group}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
