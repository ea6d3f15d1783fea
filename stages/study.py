"""The whole study: every section's settings in one model, and the checks that reach across sections. Torch-free.

The planner calls `load` before any work starts. No stage imports this module, so a new key of one stage reruns no
other. From the command line: `python -m stages.study params.yaml` says ok or what is wrong;
`--schema FILE` writes the JSON schema that editors read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, StringConstraints, Tag

from stages import demands, names, plugins, study_files
from stages.checkpoints.settings import CheckpointSettings, names_checkpoint
from stages.curate.settings import CurateSettings, source_name
from stages.decided import check as check_decided
from stages.decided.settings import DecidedSettings
from stages.encode.settings import EncodeSettings
from stages.errors import InputError
from stages.finetune import method
from stages.finetune import resolve as methods
from stages.finetune.settings import FinetuneSettings, RunSettings
from stages.measure.settings import PASSED, MeasureSettings
from stages.params import Settings, read_study, require_known, validate
from stages.prepare import check_models, check_students, source
from stages.prepare.consistency_settings import ConsistencySettings
from stages.prepare.import_settings import ImportSettings
from stages.prepare.latent_settings import LatentSettings
from stages.prepare.pal_settings import PalSettings
from stages.prepare.settings import BaseSettings, ClipSettings, VaeSettings
from stages.renoise import check as check_renoise
from stages.renoise.settings import RenoiseSettings
from stages.report import figure
from stages.report.settings import ReportSettings, ReportStudy
from stages.runtime import run_and_leave, whole_file
from stages.sample import resolve as strategies
from stages.sample.settings import SampleSettings
from stages.score.settings import ScoreSettings
from stages.select import check as check_select
from stages.select import settings as selection
from stages.tune.settings import TuneSettings, require_methods, require_own_seed
from stages.world.settings import WorldSettings

BASE = "base"
"""What the base model is called where methods are named."""
RunEntry: TypeAlias = Annotated[
    Annotated[RunSettings, Tag(RunSettings.TAG)] | Annotated[CheckpointSettings, Tag(CheckpointSettings.TAG)],
    Discriminator(lambda entry: CheckpointSettings.TAG if _of_checkpoint(entry) else RunSettings.TAG),
]
"""A run is trained here, or named by a checkpoint."""
Name = Annotated[str, StringConstraints(pattern=names.PATTERN)]
"""Name of a study, model or method; `stages.names` says why it is so plain, and checks the others too."""


class AboutSettings(Settings):
    """Section `study`: what it is called and what it compares."""

    name: Name = Field(description="results stand under out/<name>/")
    description: str = Field("", description="a line for people")
    seed: int = Field(0, ge=0, description="of data, evaluation noise and bootstrap; training seeds stand in `runs`")
    reward: str = Field(description="the reward that every method is trained on")
    heldout: str = Field(description="a reward that no method sees: the alarm for over-optimisation")
    reference: str = Field(description="the method that differences are taken against, beside the base")
    tune: TuneSettings = Field(default_factory=TuneSettings, description="the sweep of `python -m stages.tune`")


class TrainSettings(Settings):
    """Models trained here, by kind and name; all empty where every model comes from outside."""

    vae: dict[Name, VaeSettings] = Field({}, description="autoencoders; the base takes the one called vae")
    base: dict[Name, BaseSettings] = Field({}, description="base models; the study uses the one called base")
    clip: dict[Name, ClipSettings] = Field({}, description="rewards and feature networks")
    latent: dict[Name, LatentSettings] = Field({}, description="rewards of noisy latents, trained on pairs")
    pal: dict[Name, PalSettings] = Field({}, description="rewards of several tastes, trained on pairs with annotators")
    consistency: dict[Name, ConsistencySettings] = Field(
        {}, description="distilled from the base, for methods and strategies that evaluate one"
    )

    @property
    def learns(self) -> bool:
        """Whether a model is trained on images."""
        return bool(self.vae or self.base or self.clip or self.latent or self.pal)


class PrepareSettings(Settings):
    """Section `prepare`: the models of a study."""

    import_: dict[Name, ImportSettings] = Field(alias="import", description="models from a folder, file or hub")
    train: TrainSettings = Field(description="recipes that train models here")

    @property
    def names(self) -> list[str]:
        """Every model that later stages may name."""
        return [*self.import_, *self.train.base, *self.train.clip, *self.train.latent, *self.train.pal]

    @property
    def everything(self) -> list[tuple[str, ImportSettings]]:
        """Every imported model and all that it is made of, each with its dotted name."""
        return [item for name, model in self.import_.items() for item in model.everything(name)]

    @property
    def rewards(self) -> list[str]:
        """Models that can judge an image."""
        bases = {name for name, model in self.import_.items() if model.kind in source.BASE_KINDS} | {*self.train.base}
        return [name for name in self.names if name not in bases]


class Study(Settings):
    """A study file. Entries of `methods` and of `sample.strategies` are checked by their own modules."""

    study: AboutSettings
    world: WorldSettings = Field(description="the simulated world; {} for its defaults, and where there is none")
    curate: CurateSettings
    prepare: PrepareSettings
    score: ScoreSettings
    select: selection.SelectSettings | None = Field(
        None, description="labels and choice of pairs; without it, pairs are as curated"
    )
    renoise: RenoiseSettings | None = Field(None, description="pairs that the base makes of real images; null: none")
    encode: EncodeSettings
    decided: DecidedSettings | None = Field(None, description="what is settled when; without it, not looked at")
    finetune: FinetuneSettings
    methods: dict[Name, dict[str, Any]] = Field(description="may be {} where every run is a checkpoint")
    runs: dict[str, RunEntry] = Field(min_length=1)
    sample: SampleSettings
    measure: MeasureSettings
    report: ReportSettings

    @property
    def trained(self) -> dict[str, RunSettings]:
        """The runs that are trained here."""
        return {name: run for name, run in self.runs.items() if isinstance(run, RunSettings)}

    @property
    def checkpoints(self) -> dict[str, CheckpointSettings]:
        """The runs that were trained elsewhere."""
        return {name: run for name, run in self.runs.items() if isinstance(run, CheckpointSettings)}


def _of_checkpoint(entry: object) -> bool:
    return isinstance(entry, CheckpointSettings) or names_checkpoint(entry)


def load(path: str | Path, raw: dict[str, Any] | None = None) -> Study:
    """The study at `path`, every section checked and all of them against one another.

    `raw` is what stands in the file, where it was read before. Raises InputError, one line, for the first thing that is
    wrong.
    """
    raw = read_study(path) if raw is None else raw
    names.check(raw, f"{path}: ")
    study = validate(Study, raw, f"{path}:")
    check_models.check(study, f"{path}: ")
    runs, sampling = _check_runs(study, path, raw), strategies.sampling_plan(path, raw)
    _check_strategies(study, sampling, f"{path}: ")
    demands.check(study, runs, sampling, f"{path}: ")
    check_select.check(study, f"{path}: ")
    check_renoise.check(study, f"{path}: ")
    check_decided.check(study, sampling, _measured(study), f"{path}: ")
    _check_report(study, f"{path}: ")
    validate(ReportStudy, raw, f"{path}:")
    study_files.check(study, sampling, f"{path}: ")
    return study


def _check_runs(study: Study, path: str | Path, raw: dict[str, Any]) -> dict[str, methods.TrainingPlan]:
    """Runs are called <method>-s<seed>, their methods exist, and all of a method's settings fit together; returns a
    plan of each method that is trained.

    `raw` is what stands in the file: read once, since a large study has thousands of runs.
    """
    plans = {}
    for name, run in study.trained.items():
        expected = f"{run.method}-s{run.seed}"
        require_known([run.method], study.methods, f"{path}: runs.{name}.method", "method")
        if name != expected:
            raise InputError(f"{path}: runs.{name}: a run is called <method>-s<seed>, expected {expected!r}")
        if run.method in plans:
            continue
        plans[run.method] = methods.training_plan(path, name, raw)
        check_students.of_method(study, plans[run.method], f"{path}: methods.{run.method}")
        own, common = plans[run.method].train.probe.oracle, study.finetune.probe.oracle
        if own not in (None, common):
            spot = f"{path}: methods.{run.method}.train.probe.oracle"
            raise InputError(f"{spot}: {own!r}; expected that of finetune.probe, which is {common or 'null'}")
    if study.trained and not study.methods:
        raise InputError(f"{path}: methods: expected at least 1 item, found an empty mapping")
    if BASE in study.methods:
        raise InputError(f"{path}: methods.{BASE}: tables call the base model so; call the method something else")
    for name, settings in study.methods.items():
        _, _, checked = methods.method(settings, f"{path}: methods.{name}")
        table = "pairs" if checked.needs.data == "pairs" else "images"
        sources = [source_name(source) for source in getattr(study.curate, table)]
        sources += [study.renoise.name] if table == "pairs" and study.renoise is not None else []
        if table == "pairs" and not sources:
            raise InputError(f"{path}: methods.{name}: learns from pairs, but curate.pairs names no source of them")
        named = [checked.source] if checked.source is not None else []
        require_known(named, sources, f"{path}: methods.{name}.source", f"source of curate.{table}")
    tune = study.study.tune
    if "seed" in tune.model_fields_set:
        require_own_seed(tune, {name: run.seed for name, run in study.trained.items()}, f"{path}: study.tune.seed")
    require_methods(tune, study.methods, f"{path}: study.tune.own")
    _check_checkpoint_names(study, f"{path}: ")
    shown = {run.method for run in study.trained.values()} | study.checkpoints.keys()
    require_known([study.study.reference], shown, f"{path}: study.reference", "trained method")
    return plans


def _check_checkpoint_names(study: Study, where: str) -> None:
    """A checkpoint's run has a name of its own, since tables call its method so."""
    for name in study.checkpoints:
        if name == BASE or name in study.methods:
            what = "the base model" if name == BASE else "a method"
            raise InputError(f"{where}runs.{name}: tables call {what} so; call the run something else")


def _check_strategies(study: Study, plan: strategies.SamplingPlan, where: str) -> None:
    """Rewards and further networks of sampling strategies are models and runs of the study."""
    for strategy in plan.strategies:
        spot = f"{where}sample.strategies.{strategy.name}"
        key = ".reward" if "reward" in type(strategy.settings).model_fields else ""
        require_known(strategy.settings.rewards(), study.prepare.rewards, f"{spot}{key}", "model")
        check_students.of_strategy(study, strategy.settings, spot)
        targets = strategy.settings.apply_to
        for run in [*(["base"] if "base" in targets else []), *(study.runs if "tuned" in targets else [])]:
            for network in strategy.settings.networks():
                strategies.run_of(network, run, study.runs, spot)


def _measured(study: Study) -> list[str]:
    """The measured diversities."""
    features = (f"{name}_diversity" for name in study.measure.features)
    found = ["attribute_diversity", *features, *study.measure.set_metrics]
    return found + ([f"{name}{PASSED}" for name in found] if study.measure.passing is not None else [])


def _check_report(study: Study, where: str) -> None:
    """The report shows what is measured."""
    measured = _measured(study)
    require_known(study.report.rewards, study.measure.rewards, f"{where}report.rewards", "measured reward")
    require_known(study.report.diversities, measured, f"{where}report.diversities", "measured diversity")
    for one in figure.figures(study.report.figures):
        if one.about.needs and getattr(study, one.about.needs, None) is None:
            raise InputError(
                f"{where}report.figures: {one.kind!r} shows the section {one.about.needs!r}, which the study lacks; add"
                " it, or leave the figure out"
            )


def schema() -> dict[str, Any]:
    """The JSON schema of a study file; methods and strategies are the ones of this project."""
    made = Study.model_json_schema(by_alias=True)
    definitions = made["$defs"]
    definitions["MethodEntry"] = _any_of(method.PACKAGE, definitions)
    definitions["StrategyEntry"] = _any_of(strategies.STRATEGIES, definitions)
    definitions["PairStep"] = _any_of(selection.PACKAGE, definitions)
    definitions["SelectSettings"]["properties"]["steps"]["items"] = {"$ref": "#/$defs/PairStep"}
    for properties, name, entry in (
        (made["properties"], "methods", "MethodEntry"),
        (definitions["SampleSettings"]["properties"], "strategies", "StrategyEntry"),
    ):
        properties[name].pop("patternProperties", None)
        properties[name]["additionalProperties"] = {"$ref": f"#/$defs/{entry}"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Study", **made}


def _any_of(package: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of an entry whose `kind` names a module of `package`.

    Definitions of a kind go into `definitions` under names of its own: two kinds may call different sections alike.
    """
    entries = []
    for kind in plugins.names(package, ""):
        template = f"#/$defs/{kind}.{{model}}"
        entry = plugins.load(package, "", kind, package).Settings.model_json_schema(ref_template=template)
        definitions.update({f"{kind}.{name}": value for name, value in entry.pop("$defs", {}).items()})
        entry["properties"]["kind"] = {"const": kind, "description": entry["description"]}
        entries.append({**entry, "title": kind})
    return {"oneOf": entries}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.study", description="Check a study file.")
    parser.add_argument("study", nargs="*", type=Path, help="study files (default: params.yaml)")
    parser.add_argument("--schema", type=Path, help="write the JSON schema of study files here")
    args = parser.parse_args()
    for path in args.study or ([] if args.schema else [Path("params.yaml")]):
        load(path)
        print(f"{path}: ok")
    if args.schema:
        with whole_file(args.schema) as partial:
            partial.write_text(json.dumps(schema(), indent=1) + "\n")


if __name__ == "__main__":
    run_and_leave(main)
