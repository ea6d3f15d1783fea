"""Everything that decides a result is part of what the result is known by.

For every key of a study with an entry of every kind, another value changes the stamps of the jobs that the key concerns
(so that they run again) and the key of their interrupted work (so that it is not gone on from). Every file that a job
reads is among the inputs of both. What is left out on purpose stands here with its reason.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from identities import Known, changed, full_study, known, leaves, other, study_for, write, written
from project import ROOT, make

from stages import tables
from stages.measure.evaluation import Evaluation
from stages.measure.settings import PassingSettings
from stages.models import record
from stages.pictures import encode
from stages.prepare.source import import_model
from stages.rewards.base import load_reward
from tests.samples import PLAIN
from workflow.files import Files, fill
from workflow.jobs import STAGES
from workflow.plan import Plan
from workflow.stage import Chosen, Folder, Needed, Scores, Stage

CONCERNS = {
    "study.seed": ("curate", "renoise", "decided", "finetune", "sample_base", "sample", "measure", "report"),
    "study.reward": ("finetune", "report"), "study.heldout": ("finetune", "report"), "study": ("report",),
    "world": ("curate",), "curate": ("curate",), "score.batch_size": ("score",), "score": ("report",),
    "select": ("select", "report"), "encode": ("encode",), "finetune": ("finetune",), "methods": ("finetune", "report"),
    "runs": ("finetune", "sample", "report"), "sample.steps": ("decided", "sample_base", "sample", "measure", "report"),
    "sample.sampler": ("sample_base", "sample", "measure"), "sample.strategies": ("sample_base", "sample", "report"),
    "sample": ("sample_base", "sample"), "measure": ("decided", "measure_reference", "measure", "report"),
    "report": ("report",), "decided": ("decided", "report"), "renoise": ("renoise",),
}  # fmt: skip
"""Jobs whose result a key decides, by the beginning of the key; the longest counts. Models have jobs of their own."""

NO_OTHER = {
    "*.kind": "another kind is another entry",
    "runs.*": "a run is called after its method and seed",
    "study.name": "another name is another folder, in which nothing is built",
    "curate.versions": "is a file", "report.votes": "is a file", "report.against": "is a folder",
    "prepare.import.*": "swept for one model, the files of others are not here",
    "prepare.train.base": "the study has its base from outside",
    "prepare.train.*source": "the one source has no name of its own",
    "methods.*.source": "the one source has no name of its own",
    "*.sampler": "the trajectory methods of this study sample by ddpm alone",
    "methods.dpok.advantage": "is the prompt's alone",
    "methods.*.reference.decay": "goes with reference kind ema",
    "methods.*.reference.every": "goes with reference kind hard",
    "methods.*.safeguard": "is a section, given for one method",
    "methods.*.labels.range": "goes with labels of kind reward",
    "methods.*.robust": "goes with smoothing",
    "methods.*.labels.kind": "the method makes its own losers",
    "methods.dspo.reference.kind": "needs a reference, and kinds ema and hard need a key of their own",
    "sample.strategies.*.one_run": "needs as many candidates as a prompt has images",
    "methods.pso.model": "is the one distilled model, and is an input of its own",
    "methods.pso.eta": "the noise of few steps is given by the rule",
    "methods.diffusion_dro.timesteps.law": "timesteps are those of trajectories",
    "methods.sqdf.model": "goes with predictor consistency, and is an input of its own",
    "sample.strategies.*.apply_to": "the kind suits one of both",
    "sample.strategies.*.prediction": "the base has one prediction only",
    "sample.strategies.*.part": "goes with a prediction",
    "sample.strategies.few_steps_.model": "is the one distilled model, and an input of its own",
    "sample.strategies.*.flow_map": "is a distilled model, and an input of its own",
    "sample.strategies.*.critic": "no other model of the study criticises",
    "sample.strategies.*.aligner": "no model of the study is one",
    "sample.strategies.guidance.scales": "is written as sample.guidance",
    "measure.rewards": "the report names what is measured",
    "report.figures": "none is left out", "report.ablations": "names variants of a method",
}  # fmt: skip
"""Keys without another valid value in this study."""

SWEPT = (
    "study.seed", "study.reward", "world.seed", "curate.filters.min_side", "score.batch_size", "encode.dtype",
    "finetune.optimizer.lr", "finetune.guidance", "finetune.ema", "methods.sqdf.gamma", "methods.ddpo.clip",
    "methods.imagerefl.train.reward_scale", "prepare.train.clip.more.seed", "prepare.train.vae.code.widths",
    "prepare.train.consistency.student.guidance", "sample.steps", "sample.samples_per_prompt",
    "sample.strategies.combined.k", "sample.strategies.fk_.n", "measure.neighbours", "measure.directions",
    "measure.features.clip", "measure.as_released.bfloat16_means", "measure.passing.metric", "measure.passing.least",
    "report.bootstrap", "report.main", "decided.samples", "decided.indices", "decided.diversity", "decided.open",
    "methods.refl.middle", "sample.strategies.fusion_.k", "select.steps",
    "renoise.strengths", "renoise.name", "renoise.sampler",
)  # fmt: skip
"""Keys of every section that must have been changed."""

NOT_KEPT = {
    "*.nonfinite": "a run that stopped at a step without finite loss may go on by skipping it",
    "*.save_every": "how often work is saved decides nothing",
    "*.shards": "how the work is shared out decides nothing",
}
"""Keys that the work of an interrupted job does not belong to."""

UNDECIDED = {
    "measure.batch_size": "images per network call, up to rounding",
    "measure.shards": "jobs that share out the images",
    "measure.bootstrap": "decides intervals, not values",
    "measure.interval": "decides intervals, not values",
    "measure.set_metrics": "which metrics are asked for, not what one of them says",
    "measure.rewards": "which models are asked, not what one of them says",
    "measure.text_image": "which model is asked: its identity stands among the models",
}
"""Keys of `measure` that do not change which numbers may be compared."""

BUDGET: list[Any] = [{"steps": 9}]
GIVEN: dict[str, list[Any]] = {
    "study.tune.own": [{"refl": [1e-3]}],
    "study.description": ["other words"], "study.heldout": ["clip"], "encode.side": [16, 64], "curate.side": [32],
    "score.rewards": [["proxy", "clip"]],
    "curate.images": [[{"kind": "shapes", "count": 9}]], "renoise.name": ["twice"],
    "curate.pairs": [[{"kind": "shapes", "count": 9, "annotators": 4}]],
    "curate.prompts.train": [[{"kind": "shapes", "part": "train", "limit": 9}]],
    "curate.prompts.eval": [[{"kind": "shapes", "part": "eval", "limit": 9}]],
    "prepare.import.proxy.folder": ["shipped/shapes/heldout"], "prepare.import.proxy.only": [["*"]],
    "prepare.import.proxy.sha256": ["0" * 64], "prepare.import.proxy.options": [{"normalise": "half"}],
    "finetune.budget": BUDGET, "methods.imagerefl.train.budget": BUDGET, "finetune.probe.oracle": [None],
    "methods.imagerefl.train.probe.oracle": [None], "measure.set_space": ["proxy"],
    "measure.features.clip": ["distance"],
    "measure.features.patch": ["embedding"], "methods.sqdf.buffer": [None],
    "decided.diversity": ["clip_diversity"], "methods.refl.middle": [[14, 20]], "sample.strategies.fusion_.k": [[3]],
    "sample.strategies.das_.schedule": [2.0], "sample.strategies.chats_.lose": ["refl-s0"],
    "sample.strategies.carinox_.categories.round.pattern": ["square"],
    "sample.strategies.npo_.negative": ["refl-s0"],
    "sample.strategies.sgt_.concepts.a red circle": [["circle"]],
    "methods.awm.as_released.deviation": ["prompt"],
    "report.budgets": [{"evaluations": [40.0]}],
    "report.published": [{"source": "a paper", "values": {"base": {"proxy": 0.5}}}],
    "report.comparisons": [{"other": {"reference": "refl", "candidate": "draft_k"}}],
    "report.titles": [{"draft_k": "the last step alone"}],
    "report.long": ["draft_k"], "methods.diffusion_dpo.safeguard": [{"mu": 0.5}],
    "measure.passing.metric": ["oracle"], "report.main": [{"reward": "proxy", "diversity": "patch_diversity"}],
}  # fmt: skip
"""Values for keys whose other value does not follow from the one they have."""


def reason(key: str, exceptions: dict[str, str]) -> str:
    """Why a key is left out, by the first pattern that fits; empty for a key that counts."""
    return next((why for pattern, why in exceptions.items() if fnmatch(key, pattern)), "")


def concerned(key: str, plan: Plan) -> set[str]:
    """The jobs that a key decides."""
    first, *rest = key.split(".")
    if first == "prepare":
        return {f"prepare_{rest[1]}@{rest[2]}" if rest[0] == "train" else f"prepare_import@{rest[1]}"}
    stages = next(CONCERNS[prefix] for prefix in sorted(CONCERNS, key=len, reverse=True) if key.startswith(prefix))
    jobs = [(job, name) for job, stage, name in plan.jobs() if stage.name in stages]
    if first == "runs":
        return {job for job, name in jobs if name in ("", rest[0])}
    if first == "methods":
        return {job for job, name in jobs if not name or plan.layout.method(name) == rest[0]}
    return {job for job, _ in jobs}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("identities"), full_study()).root
    shutil.copytree(ROOT / "shipped", made / "shipped", dirs_exist_ok=True)  # the models themselves
    return made


@pytest.fixture
def plan(root: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of the study, in whose folder the test runs; the records of models and tables of samples are there."""
    monkeypatch.chdir(root)
    made = written(full_study())
    for name, model in made.study.prepare.import_.items():
        path = Path(made.layout.out(f"models/{name}.json"))
        if not path.exists():
            record.save(import_model(name, model, name), path)
    for name in ("base", *made.layout.runs):
        _samples(Path(made.layout.out(f"samples/{name}.parquet")), name)
    monkeypatch.setattr("stages.measure.judges.load_reward", _loaded)
    return made


def _samples(path: Path, run: str) -> None:
    """Two images of each of two prompts."""
    if path.exists():
        return
    image = encode(np.zeros((32, 32, 3), np.uint8))
    about = {"run": run, "method": run, "train_seed": 0, "strategy": "guidance", "setting": "g=1", "value": 1.0}
    rows = [
        about | {"prompt_id": f"p{n}", "prompt": "a red circle", "sample": s, "image": image, "nfe": 1, "seconds": 0.1}
        | PLAIN for n in range(2) for s in range(2)
    ]  # fmt: skip
    tables.write(path, tables.table(tables.SAMPLES, rows), tables.SAMPLES)


LOADED: dict[str, Any] = {}


def _loaded(about: record.ModelRecord, device: Any) -> Any:
    if about.name not in LOADED:
        LOADED[about.name] = load_reward(about, device)
    return LOADED[about.name]


def swept(plan: Plan) -> dict[str, Any]:
    """Every key and its value; settings of training, which all methods share, once."""
    return {
        ".".join(path): value
        for path, value in leaves(plan.values)
        if not (path[0] == "methods" and path[2] == "train" and path[1] != "imagerefl")
    }


@dataclass(frozen=True)
class Change:
    """The plan of a study in which a key stands, and that of the study with another value of it."""

    before: Plan
    after: Plan


@pytest.fixture(scope="module")
def changes(root: Path) -> dict[str, Change]:
    """For every key that has another value here, what that changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        keys, studies, lost = swept(written(full_study())), dict[str, Plan](), list[str]()
        found = dict[str, Change]()
        for key, value in keys.items():
            if fnmatch(key, "runs.*"):
                continue
            study = study_for(key)
            text = json.dumps(study)
            before = studies[text] = studies.get(text) or written(study)
            after = other(study, key.split("."), value, GIVEN.get(key))
            if after is None:
                lost.append(key)
            else:
                found[key] = Change(before, after)
    unknown = [key for key in lost if not reason(key, NO_OTHER)]
    assert not unknown, f"no other valid value is known of {unknown}: give one in GIVEN, or the reason in NO_OTHER"
    missing = [key for key in SWEPT if key not in found]
    assert not missing, f"these keys are not changed: {missing}"
    return found


def settings_of(plan: Plan, jobs: Collection[str] = ()) -> dict[str, Any]:
    """The settings stamp of every job, or of some."""
    return {job: plan.settings(stage, name) for job, stage, name in plan.jobs() if not jobs or job in jobs}


def test_every_key_changes_the_stamps_of_the_jobs_that_it_decides(plan: Plan, changes: dict[str, Change]) -> None:
    missed, known_before = {}, dict[int, dict[str, Any]]()  # many keys are changed in one study
    for key, change in changes.items():
        before = known_before[id(change.before)] = known_before.get(id(change.before)) or settings_of(change.before)
        wanted = concerned(key, change.before)
        assert wanted, key
        after = settings_of(change.after, wanted)
        same = {job for job in wanted if job in after and before[job] == after[job]}
        if same:
            missed[key] = sorted(same)
    assert not missed


KEEPS = ("score", "renoise", "encode", "decided", "finetune", "sample_base", "sample", "measure_reference", "measure")
"""Stages, besides training of models, whose jobs go on where they were interrupted."""


def jobs_that_keep(plan: Plan) -> list[tuple[str, Stage, str]]:
    """One job of a stage each, of fine-tuning one per method."""
    found: dict[str, tuple[str, Stage, str]] = {}
    for job, stage, name in plan.jobs():
        if stage.name in KEEPS or (stage.name.startswith("prepare_") and stage.name != "prepare_import"):
            found.setdefault(job if stage.name == "finetune" else stage.name, (job, stage, name))
    return list(found.values())


def test_every_key_changes_what_interrupted_work_belongs_to(
    plan: Plan, changes: dict[str, Change], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strategy concerns what it is applied to, the base or the runs; the reward's own record stands for its name."""
    before = dict[tuple[int, str], Known]()
    missed = {}
    for key, change in changes.items():
        wanted = concerned(key, change.before)
        mine = [one for one in jobs_that_keep(change.before) if one[0] in wanted]
        if reason(key, NOT_KEPT) or not mine:
            continue
        for job, stage, name in mine:
            if (id(change.before), job) not in before:
                write(change.before.layout.study)
                before[id(change.before), job] = known(change.before, stage, name, monkeypatch)
        write(change.after.layout.study)
        after = {job: known(change.after, stage, name, monkeypatch) for job, stage, name in mine}
        same = [job for job, found in after.items() if found == before[id(change.before), job]]
        either = key.startswith(("sample.strategies", "sample.guidance")) and len(same) < len(mine)
        if same and not either:
            missed[key] = same
    assert not missed
    assert {job for _, job in before} >= {job for job, _, _ in jobs_that_keep(plan)}
    assert all(found.settings for found in before.values())


def files_of(plan: Plan, stage: Stage, name: str) -> set[str]:
    """The files that a job reads: those of its flags, of folders the ones that its settings name."""
    out, found = plan.layout.out, set[str]()
    for flag, place in stage.reads.items():
        if isinstance(place, Chosen):
            found |= set(Files(plan.layout).chosen(stage, name))
        elif isinstance(place, str):
            named = place.replace("{reward}", plan.layout.reward).replace("{heldout}", plan.layout.heldout)
            named = named.replace("{features}", plan.layout.features)
            found.add(out(fill(named, name)))
        elif isinstance(place, Needed):
            path = place.path.replace("{oracle}", plan.layout.oracle)
            found |= {out(path)} if place.data in plan.layout.needs else set()
        elif isinstance(place, Scores):
            found |= {out(f"{place.path}/{reward}.parquet") for reward in plan.layout.selecting}
        elif flag == "models":
            measure = plan.study.measure
            models = [measure.space] if stage.name == "measure_reference" else measure.models
            found |= {out(f"models/{model}.json") for model in models}
        elif isinstance(place, Folder) and place.files:
            found |= {out(f"{fill(place.path, name)}/{file}") for file in place.files}
    return found


def test_every_file_is_an_input(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of interrupted work as of the record of the job."""
    for job, stage, name in jobs_that_keep(plan):
        found, wanted = known(plan, stage, name, monkeypatch), files_of(plan, stage, name)
        assert wanted <= set(found.kept), f"{job}: interrupted work does not know {wanted - set(found.kept)}"
        assert wanted <= set(found.recorded), f"{job}: its record does not name {wanted - set(found.recorded)}"


@pytest.mark.parametrize("method", ["sqdf", "online"])
def test_a_distilled_predictor_is_an_input(plan: Plan, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Of SQDF, and of the rounds of a black box that are tuned by it."""
    student = {"predictor": "consistency", "model": "student"}
    own: dict[str, Any] = student if method == "sqdf" else {"inner": {"kind": "sqdf"} | student}
    made = written(changed(full_study(), ("methods", method), {"kind": method} | own))
    stage = next(stage for stage in STAGES if stage.name == "finetune")
    found = known(made, stage, f"{method}-s0", monkeypatch)
    assert made.layout.out("encodings/student.json") in found.kept
    assert made.layout.out("encodings/student.json") in found.recorded


@pytest.mark.parametrize("name", ["base", "refl-s0"])
def test_a_distilled_flow_map_is_an_input(plan: Plan, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of the sampling jobs of what its strategy is applied to; other studies have no flag for it."""
    study = full_study(strategies=("fmtt",))
    study["prepare"]["train"]["consistency"]["student"]["sampling_steps"] = study["sample"]["steps"]
    path = ("sample", "strategies", "fmtt_")
    entry = study["sample"]["strategies"]["fmtt_"] | {"flow_map": "student"}
    made = written(changed(study, path, entry | {"apply_to": ["base" if name == "base" else "tuned"]}))
    stage = next(stage for stage in STAGES if stage.name == ("sample_base" if name == "base" else "sample"))
    found = known(made, stage, name, monkeypatch)
    assert made.layout.out("encodings/student.json") in found.kept
    assert made.layout.out("encodings/student.json") in found.recorded
    assert "--predictors" in Files(made.layout).command(stage)
    plain = written(full_study(strategies=("combined", "fmtt")))
    assert "--predictors" not in Files(plain.layout).command(stage)


def test_every_key_of_measure_changes_which_numbers_may_be_compared(plan: Plan, changes: dict[str, Change]) -> None:
    def evaluation(made: Plan) -> str:
        measure, sample = made.study.measure, made.study.sample
        sets = {"space": measure.space, "directions": measure.directions, "neighbours": measure.neighbours,
                "images": measure.reference_images}  # fmt: skip
        sampling = {"steps": sample.steps, "sampler": sample.sampler}
        models = dict.fromkeys(measure.models)
        released = measure.as_released.model_dump(exclude_none=True)
        passing = {} if measure.passing == PassingSettings() else (measure.passing or PassingSettings()).model_dump()
        return Evaluation("x", 2, 2, (32, 32), made.study.study.seed, sampling, models, sets, measure.spaces,
                          released=released, passing=passing).id  # fmt: skip

    before = evaluation(plan)
    others = ("sample.steps", "sample.sampler", "study.seed")
    keys = [key for key in changes if key.startswith("measure.") or key in others]
    assert not [key for key in keys if not reason(key, UNDECIDED) and evaluation(changes[key].after) == before]


def test_a_value_in_another_spelling_is_the_same(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default written out, 3 and 3.0."""
    spelled = full_study()
    for path, value in ((("sample", "steps"), 20.0), (("study", "seed"), 0.0), (("measure", "neighbours"), 3.0),
                        (("finetune", "optimizer", "lr"), 2e-4), (("encode", "dtype"), "float32")):  # fmt: skip
        spelled = changed(spelled, path, value)
    made = written(spelled)
    assert settings_of(made) == settings_of(plan)
    after = [known(made, stage, name, monkeypatch) for _, stage, name in jobs_that_keep(plan)]
    written(full_study())
    assert after == [known(plan, stage, name, monkeypatch) for _, stage, name in jobs_that_keep(plan)]
