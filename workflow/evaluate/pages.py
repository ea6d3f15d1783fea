"""Write the documentation's page of every protocol: `python -m workflow.evaluate.pages --out docs/protocols`.

A page says all that its protocol fixes, from the protocol's own file, so that it cannot say anything else.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages import curate
from stages.runtime import run_and_leave, whole_file
from workflow.evaluate import protocol
from workflow.evaluate.protocol import Protocol

VERSIONS = Path(curate.__file__).with_name("versions.csv")
FIRST = 7
"""Digits of a revision or a digest that a table shows."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m workflow.evaluate.pages", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write NAME.md into, for every protocol")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name in protocol.names():
        with whole_file(folder / f"{name}.md") as partial:
            partial.write_text(page(protocol.load(name)), encoding="utf-8")


def page(found: Protocol) -> str:
    """A protocol in Markdown."""
    own = found.settings
    parts = [
        f"# {found.name}", f"`{found.id}`", f"{own.description}.", f"    {_command(found)}",
        "| fixed | value |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in _fixed(found)),
        "| judge | kind | weights | for |\n|---|---|---|---|\n" + "\n".join(_judges(found)),
    ]  # fmt: skip
    if own.notes:
        parts.append(own.notes.strip())
    parts.append(
        "The eight digits of the id change with everything in both tables. A list of prompts that was edited does not\n"
        "change them; it changes the *evaluation id*, which stands beside every number.\n"
        "[How to change a setting](../evaluate.md#change-a-protocol), and what the report then says."
    )
    return "\n\n".join(parts) + "\n"


def _command(found: Protocol) -> str:
    own = found.settings
    words = ["imagerefl evaluate --base FOLDER --checkpoint CHECKPOINT", f"--protocol {found.name}"]
    words += ["--prompts PLACE"] if "path" in own.prompts else []
    words += ["--images PLACE"] if own.real else []
    asked = sorted({url for judge in own.judges.values() if (url := _url(judge)).startswith("$")})
    return " ".join([*(f"{name[1:]}=http://HOST:PORT" for name in asked), *words])


def _url(judge: dict[str, Any]) -> str:
    return str(judge.get("options", {}).get("url", ""))


def _fixed(found: Protocol) -> Iterator[tuple[str, str]]:
    own = found.settings
    every = f"all {own.count}" if own.count else "all"
    yield "prompts", f"{every if own.limit is None else f'the first {own.limit}'} of {_source(own.prompts)}"
    yield "images per prompt", str(own.images)
    yield "steps and sampler", f"{own.steps}, `{own.sampler}`"
    yield "guidance", f"{own.guidance:g} of the checkpoint, {own.base_guidance:g} of the base"
    yield "size", f"{own.side} x {own.side} pixels"
    yield "seed of the noise", str(own.seed)
    yield "diversities", ", ".join(f"`{name}`" for name in own.diversities)
    if own.real:
        scaled = "scaled to one length" if own.directions else "as they are"
        yield "set metrics", f"{', '.join(f'`{name}`' for name in own.set_metrics)}, features {scaled}"
        yield "real images", _source(own.real)
    if own.filters:
        yield "filters", ", ".join(f"`{name}: {value}`".lower() for name, value in own.filters.items())


def _source(source: dict[str, Any]) -> str:
    """A source of prompts or images: its settings, and where the world has it under which licence, if that is known."""
    said = ", ".join(f"`{name}: {value}`" for name, value in source.items() if name != "path")
    with VERSIONS.open(encoding="utf-8", newline="") as file:
        known = {
            (row["name"], row["source"], row["licence"])
            for row in csv.DictReader(file)
            if row["kind"] == source["kind"]
        }
    return said + "".join(f"; [{name}]({link}), licence: {licence}" for name, link, licence in sorted(known))


def _judges(found: Protocol) -> Iterator[str]:
    own = found.settings
    for name, judge in own.judges.items():
        uses = ["a score of every image"] if name in own.rewards else []
        uses += ["CLIPScore"] if name == own.text_image else []
        uses += [f"diversity ({own.features[name]})"] if own.features.get(name) == "patches" else []
        uses += ["set metrics"] if own.set_metrics and own.features.get(name) == "embedding" else []
        yield f"| `{name}` | `{judge['kind']}` | {_weights(judge)} | {', '.join(uses) or 'attributes'} |"


def _weights(judge: dict[str, Any]) -> str:
    """Where the weights of a judge are from."""
    if "hub" in judge:
        file = f", `{judge['only'][0]}`" if "only" in judge else ""
        return f"`{judge['hub']}` at `{judge['revision'][:FIRST]}`{file}"
    if url := _url(judge):
        options = judge["options"]
        return f"a server at `{url}`: `{options['reward']}`, `{options['sub']}`"
    place = judge.get("folder") or judge.get("file")
    return f"`{place}`" if place else "none: it reads the image"


if __name__ == "__main__":
    run_and_leave(main)
