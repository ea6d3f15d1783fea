"""`manifest.json`: what went into every table, what each filter removed, what came out, and from which settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.curate.rows import Tally
from stages.curate.settings import CurateSettings
from stages.curate.versions import Found, summary
from stages.runtime import sha256
from stages.world.settings import WorldSettings

VERSION = 1


def settings_digest(settings: CurateSettings, world: WorldSettings, study_seed: int) -> str:
    """16 hexadecimal digits that depend on all settings that curation reads; on the world's only where it is used."""
    parts = [settings.model_dump(mode="json")]
    if settings.simulated:
        parts += [world.model_dump(mode="json"), {"seed": study_seed}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write(
    path: Path, digest: str, tallies: Mapping[str, Tally], outputs: Mapping[str, Path], versions: Sequence[Found] = ()
) -> None:
    """Write the manifest; `outputs` gives, by the name it will have, each file as it stands now."""
    content: dict[str, object] = {
        "version": VERSION,
        "settings": digest,
        "tables": {name: tally.as_json() for name, tally in tallies.items()},
        "outputs": {name: {"sha256": sha256(file), "bytes": file.stat().st_size} for name, file in outputs.items()},
    }
    if versions:
        content["versions"] = summary(versions)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
