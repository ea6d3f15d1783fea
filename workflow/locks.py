"""Whether a Snakemake is at work on a study here already.

Snakemake itself refuses to run twice on the same files, but only after it has planned; by then the second one would
have written stamps and set times under the first one's running jobs. So planning asks here first, and only looks.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(".snakemake/locks")


def held(study: str) -> bool:
    """Whether files below `out/<study>` are locked, by a Snakemake at work or by one that was killed."""
    try:
        files = [line for lock in FOLDER.glob("*.lock") for line in lock.read_text().splitlines()]
    except FileNotFoundError:  # it ended just now
        return False
    return any(file.startswith(f"out/{study}/") for file in files)
