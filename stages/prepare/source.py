"""Models that exist already: found in a folder, a file or on a hub, and recorded by revision and digest. Torch-free."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from stages import contents, gives, model_options, own_code, plugins, walk
from stages.errors import InputError
from stages.kinds import shown
from stages.models import record
from stages.models.bases.finite import require_finite
from stages.models.bases.layout import INDEX, SCHEDULER, BaseLayout, flow_matching, read_json
from stages.models.bases.single import is_part, require_family, require_parts
from stages.models.bases.weights import check_safetensors, is_weights, tensor_names
from stages.models.bases.weights import linear_layers as base_layers
from stages.params import nearest
from stages.places import missing
from stages.plugins import names
from stages.prepare.import_settings import BASE_KINDS, ImportSettings
from stages.rewards.networks.options import checked

BASE_OPTIONS = ("variant", "config", "empty")
BASE_FILES = ("model_index.json", "scheduler/*", "unet/*", "transformer/*", "vae/*", "text_encoder*/*", "tokenizer*/*")
"""What is fetched of a base model on a hub."""
OTHER_FORMATS = ("*.msgpack", "*.onnx*", "*openvino*", "*.h5", "*non_ema*", "*flax*")

SAME_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "tf_model*.h5", "flax_model*.msgpack")
"""What hubs have beside model.safetensors: pickles, and weights for other libraries."""


def import_model(name: str, settings: ImportSettings, where: str) -> record.ModelRecord:
    """The record of an existing model; raises InputError that starts with `where` for an unknown kind or place."""
    known = (*BASE_KINDS, *names("stages.rewards", "imagerefl.rewards", ("base", "preprocess")))
    if settings.kind not in known:
        raise InputError(f"{where}.kind: unknown kind {settings.kind!r}{nearest(settings.kind, known)}")
    if settings.kind not in BASE_KINDS:
        return _reward(name, settings, where)
    if settings.hub is not None:
        return _from_hub(name, settings, where)
    place = settings.folder or settings.file
    if place is None:
        return record.ModelRecord(name=name, kind=settings.kind, options=settings.options)
    if fault := missing(place, "folder" if settings.folder else "file"):
        raise InputError(f"{where}: {place}: {fault}")
    return _base(name, settings, Path(place), where, source=place)


def _reward(name: str, settings: ImportSettings, where: str) -> record.ModelRecord:
    """The record of a reward or feature network: its files, whole, and those of the models that it is made of."""
    parts = {inner: import_model(inner, given, f"{where}.of.{inner}") for inner, given in settings.of.items()}
    about: dict[str, Any] = {"options": settings.options, "parts": parts}
    place = settings.folder or settings.file
    if settings.hub is not None:
        place = _fetched(settings, where, {"allow_patterns": [*settings.only]} if settings.only else {})
        about |= {"source": settings.hub, "revision": str(settings.revision)}
    elif place is None:
        if access := _access(settings.kind):
            return _served(name, settings, access, where)
        if (code := own_code.of_model(settings.kind, settings.options, where)) is None:
            return record.ModelRecord(name=name, kind=settings.kind, **about)
        folder = Path(os.path.relpath(code.folder)) if code.folder == Path.cwd() else code.folder
        return record.describe_files(name, settings.kind, folder, code.names, **about)
    elif fault := missing(place, "folder" if settings.folder else "file"):
        raise InputError(f"{where}: {place}: {fault}")
    else:
        about["source"] = place
    files = _files(Path(place), settings.only, where)
    declared = gives.declared(settings.kind)
    for wanted in declared.holds if declared is not None else ():
        if not any(file.name == wanted for file in files):
            raise InputError(f"{where}: {place}: has no {wanted}, which a model of kind {settings.kind} has")
    _require_fetched(files)
    for file in files:
        if file.suffix == ".safetensors":
            require_finite(file)
    base = Path(place).parent if Path(place).is_file() else Path(place)
    made = record.describe_files(name, settings.kind, base, [f.relative_to(base).as_posix() for f in files], **about)
    _check_digest(made, settings.sha256, where)
    return made


def _access(kind: str) -> tuple[str, ...]:
    """The options of a kind that say how a server is reached (its `ACCESS`); empty for a kind without server."""
    found = plugins.assigned("stages.rewards", "imagerefl.rewards", kind, "ACCESS")
    return () if found is None else tuple(ast.literal_eval(found))


def _served(name: str, settings: ImportSettings, access: tuple[str, ...], where: str) -> record.ModelRecord:
    """The record of a reward behind a server: it is known by what is asked of the server and by its version."""
    from stages.rewards.remote.setup import recorded_version

    kind = model_options.declared(settings.kind)
    assert kind is not None, settings.kind
    options = checked(kind, settings.options, (), False, f"{where}.options").model_dump()
    options["version"] = recorded_version(name, options, f"{where}.options")
    known = {key: value for key, value in options.items() if key not in access}
    return record.ModelRecord(
        name=name, kind=settings.kind, source=options["reward"], revision=options["version"], options=known,
        access={key: options[key] for key in access},
    )  # fmt: skip


def _files(place: Path, only: tuple[str, ...], where: str) -> list[Path]:
    """The file, or the files below a folder whose names match, hidden ones left out.

    Where a folder has safetensors, the same weights in other formats of transformers are left out too.
    """
    if place.is_file():
        return [place]
    below = [(path, path.relative_to(place).as_posix()) for path in walk.files(place)]
    found = [path for path, name in below if not only or any(fnmatch(name, pattern) for pattern in only)]
    safe = {path.parent for path in found if path.name in ("model.safetensors", "model.safetensors.index.json")}
    found = [p for p in found if p.parent not in safe or not any(fnmatch(p.name, other) for other in SAME_WEIGHTS)]
    if not found:
        wanted = f"no file matches {', '.join(only)}" if only else "no files here yet, expected those of a model"
        raise InputError(f"{where}: {place}: {wanted}")
    return found


def _require_fetched(files: Iterable[Path]) -> None:
    """Raise InputError for a file in whose place a Git LFS pointer or a web page stands, and for safetensors that are
    not whole.
    """
    for file in files:
        if said := contents.stand_in(contents.head(file)):
            raise InputError(f"{file}: is {said}")
        if file.suffix == ".safetensors":
            check_safetensors(file)


def _check_digest(made: record.ModelRecord, wanted: str | None, where: str) -> None:
    if wanted is None:
        return
    weights = {name: digest for name, digest in made.files.items() if is_weights(Path(name))}
    if len(weights) != 1:
        raise InputError(f"{where}.sha256: is of one file, but {len(weights)} hold weights; name one in `only`")
    [(name, digest)] = weights.items()
    if digest != wanted:
        raise InputError(f"{where}: {name} is another file: its sha256 is {digest}, expected {wanted}")


def check_base_options(settings: ImportSettings, where: str) -> None:
    """Raise InputError that starts with `where` for options that a base model does not take."""
    options = settings.options
    if odd := [key for key in options if key not in BASE_OPTIONS]:
        raise InputError(f"{where}.options.{odd[0]}: unknown key{nearest(odd[0], BASE_OPTIONS)}")
    for key in ("variant", "config"):
        if not isinstance(options.get(key), str | None):
            raise InputError(f"{where}.options.{key}: expected text or null, found {shown(options[key])}")
    if options.get("empty", "model") not in ("model", "encoded"):
        raise InputError(f"{where}.options.empty: expected model or encoded, found {options['empty']!r}")


def timesteps(settings: ImportSettings) -> int | None:
    """Timesteps of a base model's noise schedule, the most sampling steps that it can make; None where that is not
    known: for flow matching, and for a model that is not on this machine.
    """
    place = settings.options.get("config") or settings.folder
    file = Path(str(place)) / SCHEDULER
    if place is None or not file.is_file():
        return None
    config = read_json(file)
    count = config.get("num_train_timesteps", 1000)
    return count if isinstance(count, int) and not flow_matching(config) else None


def layout_of(settings: ImportSettings) -> BaseLayout | None:
    """The layout of a base model's folder, or of the folder of its configurations; None where it is not on this
    machine.
    """
    place = settings.options.get("config") or settings.folder
    if place is None or not Path(str(place)).is_dir():
        return None
    variant = settings.options.get("variant")
    return BaseLayout(Path(str(place)), str(variant) if variant else None)


def linear_layers(settings: ImportSettings) -> list[str] | None:
    """Names of the linear layers of a base model's denoising network; None where headers on this machine do not say."""
    if settings.folder is None or not Path(settings.folder).is_dir():
        return None
    variant = settings.options.get("variant")
    layout = BaseLayout(Path(settings.folder), str(variant) if variant else None)
    if not (layout.folder / layout.family.network).is_dir():
        return None
    weights = layout.weights(layout.family.network)
    if not weights.files or weights.missing or not weights.safetensors:
        return None
    return [name for path in weights.files if path.suffix == ".safetensors" for name in base_layers(path)]


def check_place(settings: ImportSettings, where: str) -> None:
    """Raise InputError that starts with `where` for a model on this machine whose files are not whole by their names
    and headers; a hub, a server, and a folder that does not say that it is a pipeline are left to the import job.
    """
    place = Path(settings.folder or settings.file or "")
    try:
        if settings.kind not in BASE_KINDS and place.name:
            files = _files(place, settings.only, where)
            _require_fetched(files)
            model_options.check_files(settings, files, where)
        elif place.is_file() or (place.name and (place / INDEX).is_file()):
            _base_files(settings, place, where)
    except InputError as error:
        said = str(error)
        raise InputError(said if said.startswith(where) else f"{where}: {said}") from None


def _base(name: str, settings: ImportSettings, place: Path, where: str, **about: str) -> record.ModelRecord:
    """The record of a base model: of the files that are read, all of which must be there, whole, and finite."""
    layout, names = _base_files(settings, place, where)
    base = place.parent if place.is_file() else place
    for file in names:
        if file.endswith(".safetensors"):
            require_finite(base / file, (lambda tensor: is_part(layout, tensor)) if place.is_file() else lambda _: True)
    return record.describe_files(name, settings.kind, base, names, options=settings.options, **about)


def _base_files(settings: ImportSettings, place: Path, where: str) -> tuple[BaseLayout, list[str]]:
    """Layout of a base model, and the names below its folder of the files that are read, all there and whole by their
    headers.
    """
    check_base_options(settings, where)
    variant, config = settings.options.get("variant"), settings.options.get("config")
    if place.is_file() and not config:
        raise InputError(
            f"{where}: {place}: a single file holds weights only; name in options.config the diffusers folder of the "
            "same family whose configurations and tokenizers go with it"
        )
    layout = BaseLayout(Path(str(config)) if config else place, str(variant) if variant else None)
    if config and not layout.folder.is_dir():
        raise InputError(f"{where}.options.config: {config}: no such folder")
    layout.check(("unet", "vae", "text_encoder"), configs_only=bool(config))
    if place.is_file():
        require_family(place, layout)
    base = place.parent if place.is_file() else place
    names = [
        os.path.relpath(layout.folder / file, base)
        for file in layout.files()
        if not (config and is_weights(Path(file)))
    ]
    names = [place.name, *names] if place.is_file() else names
    _require_fetched(base / file for file in names)
    if place.suffix == ".safetensors" and place.is_file():
        require_parts(place, layout, tensor_names(place))
    return layout, names


def _from_hub(name: str, settings: ImportSettings, where: str) -> record.ModelRecord:
    """The record of a base model on a hub."""
    other = () if settings.options.get("variant") else ("*.fp16.*", "*.fp16-*")
    wanted = {"allow_patterns": [*BASE_FILES], "ignore_patterns": [*OTHER_FORMATS, *other]}
    folder = Path(_fetched(settings, where, wanted))
    return _base(name, settings, folder, where, source=str(settings.hub), revision=str(settings.revision))


def _fetched(settings: ImportSettings, where: str, wanted: Mapping[str, Any]) -> str:
    """The folder of a hub model at its pinned revision; with HF_HUB_OFFLINE only the local cache is looked at."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert settings.hub is not None
    try:
        return snapshot_download(settings.hub, revision=settings.revision, **wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(f"{where}: {settings.hub} at {settings.revision}: cannot be fetched: {first}") from None
