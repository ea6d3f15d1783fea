"""What the sections of a study ask of its models, held against what the kinds of these models give. Torch-free.

All of it is known from the study file; unchecked, the same refusal would come hours later, from the job that loads the
model. Models of kinds that say nothing of themselves (`stages/gives.py`) pass here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages import gives, model_options, own_code, plugins
from stages.curate.settings import source_name
from stages.errors import InputError
from stages.gives import Gives
from stages.measure.settings import GROUP, PACKAGE, SCOPES, MeasureSettings
from stages.models.bases.layout import SCHEDULER, flow_matching, read_json
from stages.models.lora_targets import require_targets
from stages.params import nearest
from stages.prepare import source
from stages.rewards import base as rewards

if TYPE_CHECKING:
    from stages.curate.settings import CurateSettings
    from stages.finetune.resolve import TrainingPlan
    from stages.finetune.settings import MethodSettings
    from stages.prepare.import_settings import ImportSettings
    from stages.sample.resolve import SamplingPlan
    from stages.study import Study

TRAINED = "open_clip"
"""The kind of a model trained under prepare.train.clip."""
BASE, TRAINED_STEPS = "base", 1000
"""The base model, and the timesteps of one that is trained here."""
SPANNED_BY = {"embedding": "embedding", "patches": "patches", "distance": "embedding"}
"""What the spaces in measure.features are spanned by."""


@dataclass(frozen=True)
class Demand:
    """The model `name` is asked, by the section at `key`, for `what` (a field of Gives); `why` ends the message."""

    key: str
    name: str
    what: str
    why: str = ""


def check(study: Study, runs: Mapping[str, TrainingPlan], sampling: SamplingPlan, where: str) -> None:
    """Raise InputError that starts with `where` and names the key, where a section asks a model for what it lacks, or a
    model lacks its files or the models that it is made of. `runs` has a plan of each method that is trained.
    """
    models = known(study, where)
    for demand in (*_sections(study), *_methods(study, runs), *_strategies(sampling)):
        about = models.get(demand.name)
        if about is not None and not getattr(about, demand.what):
            why = demand.why or (f"; take one of kind {_oracles()}" if demand.what == "sees" else "")
            lacking = f"expected {gives.WORDS[demand.what]}, but model {demand.name!r} gives none{why}"
            raise InputError(f"{where}{demand.key}: {lacking}")
    _check_metrics(study.measure, where)
    _check_sets(study.measure, where)
    _check_steps(study, runs, sampling, where)
    _check_targets(study, runs, where)
    for method, plan in runs.items():
        if plan.method_settings.needs.data == "pairs":
            _check_captions(study.curate, plan.method_settings, f"{where}methods.{method}")
            _check_annotators(study.curate, plan.method_settings, f"{where}methods.{method}")
    for strategy in sampling.strategies:
        if strategy.settings.annotators() and not any(one.method_settings.needs.annotators for one in runs.values()):
            raise InputError(
                f"{where}sample.strategies.{strategy.name}: draws for annotators, but no trained method is told of any;"
                " expected one such as ppd"
            )
    for key, what, named in _data(study, runs):
        sources = [source_name(each) for each in getattr(study.curate, what)]
        if not sources:
            raise InputError(f"{where}{key}: takes the {what} of the study, but curate.{what} names none")
        if named and named not in sources:
            raise InputError(f"{where}{key}: unknown source of curate.{what} {named!r}{nearest(named, sources)}")


def known(study: Study, where: str) -> dict[str, Gives | None]:
    """What each model that can judge gives, by its name; None where that is not known."""
    found = dict.fromkeys(study.prepare.train.clip, gives.declared(TRAINED))
    found |= dict.fromkeys(study.prepare.train.latent, gives.declared("latent"))
    found |= dict.fromkeys(study.prepare.train.pal, gives.declared("pal"))
    for dotted, part in study.prepare.everything:
        model_options.check(part, f"{where}prepare.import.{dotted}")
        own_code.of_model(part.kind, part.options, f"{where}prepare.import.{dotted}")
    for name, model in study.prepare.import_.items():
        if name in study.prepare.rewards:
            found[name] = gives.of_model(model, f"{where}prepare.import.{name}")
        elif not (model.folder or model.file or model.hub):
            raise InputError(f"{where}prepare.import.{name}: a base model has files; name them in folder, file or hub")
        else:
            source.check_base_options(model, f"{where}prepare.import.{name}")
    return found


def _sections(study: Study) -> Iterator[Demand]:
    measure, heldout = study.measure, study.study.heldout
    network = "; a feature network stands in measure.features"
    yield Demand("study.reward", study.study.reward, "score", network)
    yield Demand("study.heldout", heldout, "score", network)
    yield Demand("study.heldout", heldout, "embedding", "; probes during training take the diversity of its features")
    for key, names in (("score.rewards", study.score.rewards), ("measure.rewards", measure.rewards)):
        yield from (Demand(key, name, "score", network) for name in names)
    for name, settings in study.prepare.train.pal.items():
        yield Demand(f"prepare.train.pal.{name}.features", settings.features, "text")
    if measure.text_image:
        yield Demand("measure.text_image", measure.text_image, "text")
    for name, kind in measure.features.items():
        yield Demand(f"measure.features.{name}", name, SPANNED_BY[kind])
    if oracle := study.finetune.probe.oracle:
        yield Demand("finetune.probe.oracle", oracle, "sees")


def _oracles() -> str:
    """The kinds of oracles, in words."""
    said = {kind: gives.declared(kind) for kind in rewards.known_kinds()}
    *others, last = [kind for kind, about in said.items() if about is not None and about.sees]
    return f"{', '.join(others)} or {last}" if others else last


def _methods(study: Study, runs: Mapping[str, TrainingPlan]) -> Iterator[Demand]:
    pair = "; a reward of kind with_features or black_box takes them from another model"
    number = "; take a differentiable reward, or a method that sees the reward as a number"
    for method, plan in runs.items():
        needs, key, reward = plan.method_settings.needs, f"methods.{method}", study.study.reward
        if needs.reward == "gradient":
            yield Demand(key, reward, "gradient", number)
        if needs.features:
            yield Demand(key, reward, "embedding", pair)
        if needs.latents:
            yield Demand(key, reward, "latents", "; train one under prepare.train.latent (kind latent)")
        if needs.texts:
            yield Demand(key, reward, "words", pair)


def _strategies(sampling: SamplingPlan) -> Iterator[Demand]:
    for strategy in sampling.strategies:
        wanted = dict.fromkeys(strategy.settings.rewards(), "score")
        wanted |= dict.fromkeys(strategy.settings.critics(), "criticises")
        wanted |= dict.fromkeys(strategy.settings.aligners(), "aligns")
        for name, what in wanted.items():
            yield Demand(f"sample.strategies.{strategy.name}", name, what)
            if strategy.settings.needs_gradient():
                yield Demand(f"sample.strategies.{strategy.name}", name, "gradient")


def _data(study: Study, runs: Mapping[str, TrainingPlan]) -> Iterator[tuple[str, str, str]]:
    """(key, images or pairs, the one source that is taken or empty) of everything that takes curated data."""
    train = study.prepare.train
    for kind, models in (("vae", train.vae), ("base", train.base), ("clip", train.clip)):
        for name, settings in models.items():
            yield f"prepare.train.{kind}.{name}", "images", settings.source
    for name, settings in train.clip.items():
        if settings.preference_steps or settings.pair_source:
            key = "preference_steps" if settings.preference_steps else "pair_source"
            yield f"prepare.train.clip.{name}.{key}", "pairs", settings.pair_source
    for name, settings in train.latent.items():
        yield f"prepare.train.latent.{name}.source", "pairs", settings.source
    for name, settings in train.pal.items():
        yield f"prepare.train.pal.{name}.source", "pairs", settings.source
    for method, plan in runs.items():
        if plan.method_settings.needs.data == "images":
            yield f"methods.{method}", "images", ""
    if study.measure.space is not None:
        yield "measure.features", "images", ""


def _check_captions(curate: CurateSettings, method: MethodSettings, where: str) -> None:
    """A method that learns from captions of images takes sources that give them; one that does not learn from them has
    two images to compare.
    """
    taken = [one for one in curate.pairs if method.source in (None, source_name(one))]
    without = [source_name(one) for one in taken if source_name(one) not in curate.captioned_pairs]
    if method.needs.captions and without:
        raise InputError(
            f"{where}.captions: is curated, but source {without[0]!r} of curate.pairs gives no captions; name another"
            " one in `source`, or say there what they are called (`caption_a`, `caption_b`)"
        )
    if not method.needs.captions and taken and all(one.kind == "perturbed" for one in taken):
        raise InputError(
            f"{where}: source {source_name(taken[0])!r} of curate.pairs has one image with two captions; expected a"
            " method with `captions: curated`, or another source"
        )


def _check_annotators(curate: CurateSettings, method: MethodSettings, where: str) -> None:
    """A method that is told who judged takes a source that says so."""
    taken = [source_name(one) for one in curate.pairs if method.source in (None, source_name(one))]
    if method.needs.annotators and not set(taken) & set(curate.personal_pairs):
        name = taken[0] if taken else method.source
        raise InputError(
            f"{where}: learns who likes what, but source {name!r} of curate.pairs names no annotators; say who judged"
            " (`annotator`, in the shapes world `annotators`)"
        )


def _check_steps(study: Study, runs: Mapping[str, TrainingPlan], sampling: SamplingPlan, where: str) -> None:
    """No more sampling steps than the noise schedule of the base has timesteps, and a noise schedule where a
    strategy or a method lays a grid of its own on it.
    """
    base = study.prepare.import_.get(BASE)
    most = TRAINED_STEPS if base is None else source.timesteps(base)
    own = {f"sample.strategies.{one.name}": one.settings.grids() for one in sampling.strategies}
    own |= {f"methods.{name}": plan.method_settings.grids() for name, plan in runs.items()}
    own = {key: grids for key, grids in own.items() if grids}
    wanted = {"sample.steps": study.sample.steps}
    wanted |= {} if study.renoise is None else {"renoise.steps": study.renoise.steps}
    wanted |= {f"methods.{name}: sampling_steps": plan.train.sampling_steps for name, plan in runs.items()}
    wanted |= {f"{key}: steps": max(grids) for key, grids in own.items()}
    if own and base is not None and _flows(base):
        raise InputError(
            f"{where}{next(iter(own))}: lays steps on a noise schedule, but the base is a flow-matching model"
        )
    for key, steps in wanted.items():
        if most is not None and steps > most:
            raise InputError(f"{where}{key}: {steps}, but the noise schedule of the base has {most} timesteps")


def _flows(base: ImportSettings) -> bool:
    """Whether the scheduler of a base model on this machine is one of flow matching."""
    layout = source.layout_of(base)
    file = None if layout is None else layout.folder / SCHEDULER
    return file is not None and file.is_file() and flow_matching(read_json(file))


def _check_targets(study: Study, runs: Mapping[str, TrainingPlan], where: str) -> None:
    """Every target of LoRA is the end of a layer of the base, where its layers are known."""
    base, trained = study.prepare.import_.get(BASE), [n for n, p in runs.items() if p.train.trainable == "lora"]
    layers = source.linear_layers(base) if base is not None and trained else None
    for name in trained if layers is not None else ():
        require_targets(runs[name].train.lora.targets, layers or (), f"{where}methods.{name}: lora.targets")


def _check_metrics(measure: MeasureSettings, where: str) -> None:
    """Every metric says what it is a metric of, and has a function, as far as its source says."""
    for name in measure.set_metrics:
        has, scope = plugins.defined(PACKAGE, GROUP, name), plugins.constant(PACKAGE, GROUP, name, "SCOPE")
        if has is not None and not ({"SCOPE", "metric"} <= has and scope in (None, *SCOPES)):
            raise InputError(
                f"{where}measure.set_metrics: {name!r}: expected SCOPE image, prompt or set and a function metric in"
                " its module"
            )


def _check_sets(measure: MeasureSettings, where: str) -> None:
    """Metrics of sets compare embeddings, so that one must be measured."""
    sets = (name for name in measure.set_metrics if plugins.constant(PACKAGE, GROUP, name, "SCOPE") == "set")
    first = next(sets, None)
    if first is not None and measure.space is None:
        raise InputError(
            f"{where}measure.set_metrics: {first!r} compares embeddings, but no model in measure.features gives one"
        )
