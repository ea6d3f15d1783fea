"""What a kind of reward or feature network takes and gives: its `GIVES`, read without importing its module.

A module of `stages/rewards` says `GIVES = Gives(files="needed", gradient=True, embedding=True)`, all values written
out; the planner reads that line off the source file, so that a study is checked without torch. Of a module without it
nothing is known, and its models are judged only once they are loaded. Torch-free.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from stages import plugins
from stages.errors import InputError
from stages.params import nearest

if TYPE_CHECKING:
    from stages.prepare.import_settings import ImportSettings

PACKAGE, GROUP, NAME = "stages.rewards", "imagerefl.rewards", "GIVES"
PLACES = ("folder", "file", "hub", "sha256")


@dataclass(frozen=True)
class Gives:
    """`files`: whether a model of this kind has files, named by `folder`, `file` or `hub`. `of`: which models stand
    under `of`: none, one, several, a `reward` and its `features`, or a `base` model; `inner` is what each of them (of a
    pair the features) must give.

    `holds`: names of files that are among them.

    `score`: a number per image. `gradient`: the number is differentiable with respect to the image; None: where that
    holds for all models under `of`. `embedding`, `patches`: features of images. `text`: it compares images with texts.
    `words`: features of texts, in the space of the embedding; None: where the features under `of` have them.
    `latents`: it judges noisy latents of a base too. `sees`: the class, `module:name`, of what an oracle sees in
    images (`stages.sight`). `criticises`: it says which words of a prompt an image does not show
    (`stages/sample/criticism.py`). `aligns`: it changes the condition of an image by these words.
    """

    files: Literal["needed", "none", "optional"] = "needed"
    of: Literal["none", "one", "several", "pair", "base"] = "none"
    inner: Literal["", "embedding", "text"] = ""
    holds: tuple[str, ...] = ()
    score: bool = True
    gradient: bool | None = True
    embedding: bool = False
    patches: bool = False
    text: bool = False
    words: bool | None = False
    sees: str = ""
    latents: bool = False
    criticises: bool = False
    aligns: bool = False


KNOWN = tuple(one.name for one in fields(Gives))


@cache
def declared(kind: str) -> Gives | None:
    """What `kind` says of itself; None where it says nothing.

    Raises InputError for a `GIVES` that is not written out or has an unknown word, and where the module has no `load`.
    """
    names = plugins.defined(PACKAGE, GROUP, kind)
    if names is not None and "load" not in names:
        raise InputError(f"reward kind {kind!r}: its module has no function load(record, device)")
    found = plugins.assigned(PACKAGE, GROUP, kind, NAME)
    if found is None:
        return None
    for word in found.keywords if isinstance(found, ast.Call) else ():
        if word.arg is not None and word.arg not in KNOWN:
            raise InputError(f"reward kind {kind!r}: {NAME}: unknown word {word.arg!r}{nearest(word.arg, KNOWN)}")
    try:
        if isinstance(found, ast.Call) and not found.args:
            return Gives(**{str(word.arg): ast.literal_eval(word.value) for word in found.keywords})
    except (ValueError, TypeError):
        pass
    raise InputError(f"reward kind {kind!r}: {NAME}: expected Gives(...) with its values written out")


def of_model(model: ImportSettings, where: str) -> Gives | None:
    """What an imported model gives, with the models that it is made of; None where a kind in it says nothing.

    Raises InputError that starts with `where` for files or models under `of` that the kind needs and the study does not
    name.
    """
    about = declared(model.kind)
    based = about is not None and about.of == "base"  # a base model judges nothing itself
    inner = {name: of_model(part, f"{where}.of.{name}") for name, part in model.of.items() if not based}
    if about is None:
        return None
    if about.files == "needed" and not (model.folder or model.file or model.hub):
        raise InputError(f"{where}: kind {model.kind} has files; name them in folder, file, or hub with its revision")
    if about.files == "none" and (place := next((key for key in PLACES if getattr(model, key) is not None), "")):
        raise InputError(f"{where}.{place}: kind {model.kind} has no files; leave it out")
    _check_parts(model, about, inner, where)
    parts = [found for found in inner.values() if found is not None]
    if len(parts) < len(inner):
        return None
    judges = [inner["reward"]] if about.of == "pair" else parts
    if about.gradient is None:
        about = replace(about, gradient=all(part is not None and part.gradient for part in judges))
    if about.words is None:
        features = inner.get("features")
        about = replace(about, words=bool(features and (features.words or features.text)))
    return about


def _check_parts(model: ImportSettings, about: Gives, inner: dict[str, Gives | None], where: str) -> None:
    wrong = {
        "none": ("no model", bool(inner)),
        "one": ("one model", len(inner) != 1),
        "several": ("at least one model", not inner),
        "pair": ("the models reward and features", set(inner) != {"reward", "features"}),
        "base": ("a base model called base", set(model.of) != {"base"}),
    }
    expected, failed = wrong[about.of]
    if failed:
        found = ", ".join(inner) or "none"
        raise InputError(f"{where}.of: kind {model.kind} is made of {expected}, found {found}")
    needed = {"features": "embedding"} if about.of == "pair" else dict.fromkeys(inner, about.inner)
    for name, what in needed.items():
        part = inner[name]
        if what and part is not None and not getattr(part, what):
            raise InputError(f"{where}.of.{name}: expected {WORDS[what]}, but kind {model.of[name].kind} gives none")


WORDS = {
    "score": "a score per image", "gradient": "a gradient of the score with respect to the image",
    "embedding": "features of images", "patches": "features of patches", "text": "a comparison of images with texts",
    "words": "features of texts", "latents": "a score of noisy latents", "sees": "a reading of what images show",
    "criticises": "the words of a prompt that an image does not show", "aligns": "a changed condition",
}  # fmt: skip
"""What a model can give, in words."""
