"""The form: one HTML file that holds everything, asks one comparison at a time, and exports votes as JSON."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np

from stages.runtime import seed_from, whole_file
from stages.votes.sheets import Study

TEMPLATE = Path(__file__).parent / "form.html"


def write(study: Study, path: Path, title: str, seed: int) -> None:
    """Write the form, whole or not at all. Nothing in it tells the sides apart but the images themselves."""
    from jinja2 import Environment, StrictUndefined

    data = json.dumps(content(study, seed)).replace("</", "<\\/")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    with whole_file(path) as partial:
        partial.write_text(template.render(title=title, data=data), encoding="utf-8")


def content(study: Study, seed: int) -> dict[str, object]:
    """What the form knows: questions, images in random order, and for every item a prompt and places of images."""
    flat = [(key, n) for key in sorted(study.images) for n in range(len(study.images[key]))]
    order = np.random.default_rng(seed_from("votes form", seed)).permutation(len(flat))
    places = {flat[which]: place for place, which in enumerate(order)}
    uris = [base64.b64encode(study.images[flat[which][0]][flat[which][1]]).decode() for which in order]

    def images(prompt: str, side: str) -> list[int]:
        return [places[(prompt, side), n] for n in range(len(study.images[prompt, side]))]

    items = [
        {"id": i.id, "prompt": i.prompt, "left": images(i.prompt_id, i.left), "right": images(i.prompt_id, i.right)}
        for i in study.items
    ]
    return {"study": study.id, "questions": study.questions, "images": uris, "items": items}
