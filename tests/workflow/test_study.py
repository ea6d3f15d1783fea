"""A bad study file is refused before anything starts, in one line that says what, where and what was expected."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from project import ROOT, Project, make, small_study

from stages import study
from stages.errors import InputError
from stages.finetune.resolve import training_plan
from stages.finetune.settings import BudgetSettings
from stages.params import read_study
from workflow.command_line import named_study

BAD = {
    "methods.refl.kind": ("refel", "methods.refl: unknown kind 'refel'; did you mean 'refl'?"),
    "methods.refl.midle": ([1, 2], "methods.refl.midle: unknown key; did you mean 'middle'?"),
    "methods.refl.middle": ([15, 25], "methods.refl: middle [15, 25) is not a range of indices"),
    "methods.refl.train": ({"steps": 0}, "methods.refl.train.steps: input should be greater than"),
    "methods.refl": (
        {"kind": "sqdf", "predictor": "consistency", "model": "none"},
        "methods.refl.model: unknown consistency model 'none'",
    ),
    "prepare.train.consistency.student": ({"stepz": 1}, "student.stepz: unknown key; did you mean 'steps'?"),
    "runs.refl-s0.method": ("rfl", "runs.refl-s0.method: unknown method 'rfl'; did you mean 'refl'?"),
    "runs.refl-s0.seed": (7, "runs.refl-s0: a run is called <method>-s<seed>, expected 'refl-s7'"),
    "runs.refl-s0": (None, None),
    "study.reference": ("draft1", "study.reference: unknown trained method 'draft1'"),
    "study.reward": ("proxi", "study.reward: unknown model 'proxi'; did you mean 'proxy'?"),
    "study.name": ("../up", "study.name: '../up' is not a name; expected 1 to 64 letters, digits, _ and -"),
    "study.seed": ("zero", "study.seed: expected a number, found text 'zero'"),
    "score.rewards": (["base"], "score.rewards: unknown model 'base'"),
    "sample.strategies.combined.k": ([20], "sample.strategies.combined: k 20 is not between 1 and 19"),
    "sample.strategies.combined.kind": ("combine", "unknown kind 'combine'; did you mean 'combined'?"),
    "sample.strategies.best": (
        {"kind": "best_of_n", "n": [2], "reward": "proxi"},
        "sample.strategies.best.reward: unknown model 'proxi'; did you mean 'proxy'?",
    ),
    "sample.strategies.tilt": (
        {"kind": "fmtt", "n": [2], "reward": "proxy", "flow_map": "none"},
        "sample.strategies.tilt.flow_map: unknown consistency model 'none'",
    ),
    "sample.strategies.few": (
        {"kind": "few_steps", "steps": [2]},
        "sample.strategies.few.model: unknown consistency model 'student'",
    ),
    "sample.strategies.again": (
        {"kind": "img", "n": [1], "critic": "proxy"},
        "sample.strategies.again: expected the words of a prompt that an image does not show, but model 'proxy' gives",
    ),
    "sample.strategies.noise": (
        {"kind": "reno", "n": [2], "weights": {"proxi": 1.0}},
        "sample.strategies.noise: unknown model 'proxi'; did you mean 'proxy'?",
    ),
    "sample.strategies.starts": (
        {
            "kind": "carinox", "n": [2], "weights": {"proxy": 1.0},
            "categories": {"a": {"pattern": "a", "weights": {"proxi": 1.0}}},
        },
        "sample.strategies.starts: unknown model 'proxi'; did you mean 'proxy'?",
    ),
    "sample.strategies.critic": (
        {"kind": "img", "n": [1], "critic": "orcale"},
        "sample.strategies.critic: unknown model 'orcale'; did you mean 'oracle'?",
    ),
    "sample.strategies.words": (
        {"kind": "ebama", "a": [1.0], "phrases": {"a red circle": [[1, 2]], "a red  star": [[1, 3]]}},
        "sample.strategies.words: phrases: no word 3 in 'a red  star', which has 3, counted from 0",
    ),
    "sample.strategies.empty": (
        {"kind": "ebama", "a": [1.0], "phrases": {"": [[0]]}},
        "sample.strategies.empty: phrases: no word 0 in '', which has 0, counted from 0",
    ),
    "sample.strategies.late": (
        {"kind": "svdd", "m": [2], "reward": "proxy", "part": "tuned", "apply_to": ["tuned"]},
        "sample.strategies.late: part tuned: expected a prediction in which the base makes the first steps",
    ),
    "sample.stepz": (3, "params.yaml: sample.stepz: unknown key; did you mean 'steps'?"),
    "measure.set_metrics": (["fidd"], "unknown metric 'fidd'; did you mean 'fid'?"),
    "measure.features": ({"clp": "embedding"}, "measure.features: unknown model 'clp'; did you mean 'clip'?"),
    "report.rewards": (["orcale"], "report.rewards: unknown measured reward 'orcale'; did you mean 'oracle'?"),
    "report.votes": ("votes/none.json", "report.votes: votes/none.json: no such file"),
    "study.tune": ({"seed": 0}, "params.yaml: study.tune.seed: 0 is the training seed of run 'imagerefl-s0'; take"),
    "study.tune.own": ({"rfl": [1e-3]}, "params.yaml: study.tune.own.rfl: no such method; did you mean 'refl'?"),
    "report.diversities": (["clip_diversty"], "did you mean 'clip_diversity'?"),
    "prepare.import.proxy.kind": ("open_klip", "proxy.kind: unknown kind 'open_klip'; did you mean 'open_clip'?"),
    "prepare.import.proxy.foldr": ("x", "prepare.import.proxy.foldr: unknown key; did you mean 'folder'?"),
    "prepare.import.proxy.folder": ("shipped/none", "prepare.import.proxy.folder: shipped/none: no such folder"),
    "prepare.import.base": (None, "prepare: there is no model 'base'"),
    "prepare.train.base": ({"other": {}}, "prepare.train.vae: there is no 'vae'"),
    "prepare.train.vae": ({"proxy": {}}, "prepare: two models are called 'proxy'"),
    "curate.images": ({"kind": "folder", "path": "data/none"}, "curate: data/none: no such file or folder"),
    "curate": (None, "params.yaml: curate: field required"),
    "methods.imagerefl.source": ("shape", "imagerefl.source: unknown source of curate.images 'shape'; did"),
    "methods.refl.source": ("shapes", "methods.refl: source 'shapes': these settings train on no images"),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project; the files that the study names are there."""
    return make(tmp_path_factory.mktemp("study"), small_study()).root


def changed(key: str, value: Any) -> dict[str, Any]:
    """The small study with one key set, or removed where `value` is None."""
    content = small_study()
    *path, last = key.split(".")
    spot = content
    for part in path:
        spot = spot.setdefault(part, {})
    spot[last] = value
    if value is None:
        del spot[last]
    return content


TWICE = ("score.rewards", "measure.rewards", "measure.set_metrics", "report.rewards", "report.diversities")


@pytest.mark.parametrize("key", TWICE)
def test_a_name_twice_in_a_list(root: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.chdir(root)
    section, name = key.split(".")
    names = small_study()[section][name]
    Path("params.yaml").write_text(yaml.safe_dump(changed(key, [*names, names[0]])))
    with pytest.raises(InputError, match=f"params.yaml: {key}: '{names[0]}' stands twice, expected every name once"):
        study.load("params.yaml")


LACKING: list[tuple[str, Any, str]] = [
    ("prepare.import.oracle", {"kind": "hps"}, "prepare.import.oracle: kind hps has files; name them in folder, file"),
    ("prepare.import.base.folder", None, "prepare.import.base: a base model has files; name them in folder, file or"),
    ("study.reward", "oracle", "imagerefl: expected a gradient of the score with respect to the image, but model 'or"),
    ("study.heldout", "oracle", "study.heldout: expected features of images, but model 'oracle' gives none"),
    ("finetune.probe.oracle", "heldout", "finetune.probe.oracle: expected a reading of what images show, but model"),
    ("finetune.probe.oracle", "orcale", "finetune.probe.oracle: unknown model 'orcale'; did you mean 'oracle'?"),
    ("methods.refl.train", {"probe": {"oracle": "proxy"}}, "refl.train.probe.oracle: 'proxy'; expected that of finet"),
    ("measure.text_image", "oracle", "measure.text_image: expected a comparison of images with texts, but model"),
    ("measure.features.oracle", "patches", "measure.features.oracle: expected features of patches, but model 'oracle'"),
    ("measure.features", {"patch": "patches"}, "measure.set_metrics: 'fid' compares embeddings, but no model"),
    ("curate.images", None, "takes the images of the study, but curate.images names none"),
    ("prepare.train.clip.more", {"source": "shape"}, "clip.more: unknown source of curate.images 'shape'; did"),
    ("sample.strategies.combined.k", [2, 2], "sample.strategies.combined: setting k=2 stands twice"),
    ("study.heldout", "proxy", "study.heldout: 'proxy' is the training reward; expected another one"),
    ("finetune.optimizer", {"betas": [0.9, 2]}, "finetune.optimizer.betas.1: input should be less than 1, found 2"),
    ("finetune.lora", {"targets": []}, "finetune.lora.targets: "),
    ("study.seed", 10**30, "study.seed: a whole number of this size does not fit 64 bits"),
    ("report.ablations", ["nothing"], "params.yaml: report.ablations 'nothing' is not a method that has a run"),
    ("report.long", "refl_long", "report.long 'refl_long' is not a method that has a run; did you mean 'refl'?"),
    ("report.titles", {"rfl": "ReFL"}, "report.titles: 'rfl' is not a method that has a run; did you mean 'refl'?"),
    ("report.titles", {"refl": "one", "imagerefl": "one"}, "report.titles.imagerefl 'one' is what another is called"),
    ("report.titles", {"refl": "a\tb"}, "report.titles.refl: "),
    ("report.titles", {"refl": "base"}, "report.titles.refl 'base' is what another is called"),
    ("report.titles", {"refl": ""}, "report.titles.refl"),
    ("report.truth", "orcale", "report.truth 'orcale' is none of report.rewards; did you mean 'oracle'?"),
    ("world", {"shaded": 0.8, "striped": 0.7}, "world: shaded 0.8 and striped 0.7 are more than all scenes together"),
    ("world", {"radius_low": 0.9}, "world: radius_low 0.9 is above radius_high 0.72"),
    ("prepare.train.vae", {"code": {"widths": [8] * 7}}, "vae.code.widths: make latents of 64 pixels, which world.im"),
    ("prepare.train.clip.more", {"pair_source": "nobody"}, "pair_source: unknown source of curate.pairs 'nobody'"),
    ("prepare.import.proxy.options", {"normalize": "clip"}, "normalize: unknown key; did you mean 'normalise'?"),
    ("prepare.import.base.options", {"varient": "fp16"}, "options.varient: unknown key; did you mean 'variant'?"),
    ("prepare.import.base.options", {"variant": 16}, "options.variant: expected text or null, found 16"),
    ("prepare.import.oracle.folder", "shipped", "oracle.folder: kind shapes_oracle has no files; leave it out"),
    ("methods.base", {"kind": "refl"}, "methods.base: tables call the base model so; call the method something else"),
    ("methods.refl", {"kind": None}, "methods.refl.kind: expected text, found null"),
    ("sample.strategies.combined", {"kind": 5}, "sample.strategies.combined.kind: expected text, found 5"),
    ("report.candidate", "imagrefl", "report.candidate 'imagrefl' is not a method that has a run; did you mean"),
    ("report.long", "refl", "report.long 'refl' is study.reference itself, expected it trained longer"),
    ("report.ablations", ["imagerefl"], "report.ablations 'imagerefl' is report.candidate itself"),
    ("finetune.\u200bsteps", 3, "finetune.\\u200bsteps: unknown key; did you mean 'steps'?"),
    ("finetune.lora", {"targets": [""]}, "finetune.lora.targets.0: string should have at least 1 character"),
    ("sample.guidance", [1.0, -2.0], "sample.guidance.1: input should be greater than or equal to 0"),
]  # fmt: skip
"""What a job would refuse when it loads a model or its data, known from the study."""


@pytest.mark.parametrize(("key", "value", "message"), LACKING)
def test_what_models_and_data_lack_is_known_before_the_first_job(
    root: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, message: str
) -> None:
    monkeypatch.chdir(root)
    Path("params.yaml").write_text(yaml.safe_dump(changed(key, value)))
    with pytest.raises(InputError) as error:
        study.load("params.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("params.yaml: ")
    assert "\n" not in str(error.value)


def test_models_that_are_trained_here_need_images_to_be_checked_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for recipe, refused in (({}, False), ({"clip": {"more": {}}}, True), ({"consistency": {"student": {}}}, False)):
        wanted = changed("curate.val_share", 0)
        wanted["prepare"]["train"] |= recipe
        Path("params.yaml").write_text(yaml.safe_dump(wanted))
        with pytest.raises(InputError, match=r"curate\.val_share: 0 leaves no images") if refused else nullcontext():
            study.load("params.yaml")


FEW = {"kind": "few_steps", "steps": [4, 1001, 2], "apply_to": ["tuned"]}
STEPS = [
    ("sample.steps", 1001, "sample.steps: 1001"),
    ("methods.refl.train", {"sampling_steps": 2000}, "2000"),
    ("sample.strategies.few", FEW, "sample.strategies.few: steps: 1001"),
]


@pytest.mark.parametrize(("key", "value", "message"), STEPS)
def test_more_sampling_steps_than_the_base_has_timesteps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, message: str
) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "study.yaml"
    for trained in (False, True):
        wanted = changed(key, value)
        if trained:
            del wanted["prepare"]["import"]["base"]
            wanted["prepare"]["train"] |= {"vae": {"vae": {}}, "base": {"base": {}}}
        file.write_text(yaml.safe_dump(wanted))
        with pytest.raises(InputError, match=f"{message}, but the noise schedule of the base has 1000 timesteps"):
            study.load(file)


@pytest.mark.parametrize(("targets", "students"), [(["tuned"], {}), (["base", "tuned"], {"student": {}})])
def test_few_steps_have_a_grid_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: list[str], students: dict[str, Any]
) -> None:
    """Whatever the student was distilled for; and without the base among what is sampled there need be no student. A
    strategy on the grid of `sample.steps` takes a student of that grid only.
    """
    wanted = changed("sample.strategies.few", {"kind": "few_steps", "steps": [2], "apply_to": targets})
    wanted["prepare"]["train"]["consistency"] = {name: {"sampling_steps": 7} for name in students}
    monkeypatch.chdir(ROOT)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(wanted))
    study.load(file)
    if students:
        wanted["sample"]["strategies"]["tilt"] = {"kind": "fmtt", "n": [2], "reward": "proxy", "flow_map": "student"}
        file.write_text(yaml.safe_dump(wanted))
        with pytest.raises(InputError, match=r"tilt: sample.steps \d+, but its model 'student' is distilled for 7"):
            study.load(file)


@pytest.mark.parametrize(("steps", "refused"), [(4, False), (1000, False), (1001, True)])
def test_so_have_methods_of_few_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, refused: bool
) -> None:
    wanted = changed("methods.refl", {"kind": "pso", "few_steps": steps})
    wanted["prepare"]["train"]["consistency"] = {"student": {}}
    monkeypatch.chdir(ROOT)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(wanted))
    if refused:
        with pytest.raises(InputError, match=r"methods.refl: steps: 1001, but the noise schedule of the base has"):
            study.load(file)
    else:
        study.load(file)


@pytest.mark.parametrize("scheduler", ["FlowMatchEulerDiscreteScheduler", "DDIMScheduler"])
def test_few_steps_of_a_flow_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    monkeypatch.chdir(ROOT)
    wanted = changed("sample.strategies.few", FEW | {"steps": [2]})
    base = tmp_path / "base"
    shutil.copytree(wanted["prepare"]["import"]["base"]["folder"], base)
    place = base / "scheduler/scheduler_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"_class_name": scheduler}))
    wanted["prepare"]["import"]["base"]["folder"] = str(base)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(wanted))
    if scheduler.startswith("Flow"):
        with pytest.raises(InputError, match=r"strategies.few: lays steps on a noise schedule, but the base is a flow"):
            study.load(file)
    else:
        study.load(file)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("votes/README.md", "votes/README.md: not readable as JSON"),
        ("TMP/list.json", "list.json: "),
        ("shipped/shapes/base/model_index.json", "model_index.json: "),
    ],
)
def test_a_file_of_votes_of_another_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, message: str
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    (tmp_path / "list.json").write_text("[1]")
    place = file.replace("TMP", str(tmp_path))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(changed("report.votes", place)))
    with pytest.raises(InputError, match=message):
        study.load(tmp_path / "study.yaml")


@pytest.mark.parametrize("targets", [["to_w"], ["to_q", "to_w"], ["to_q", "conv_in"]])
def test_layers_that_the_base_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: list[str]) -> None:
    monkeypatch.chdir(ROOT)
    wanted, file = (
        changed("methods.refl.train", {"trainable": "lora", "lora": {"targets": targets}}),
        tmp_path / "s.yaml",
    )
    file.write_text(yaml.safe_dump(wanted))
    with pytest.raises(InputError, match=rf"methods\.refl: lora\.targets: no linear layer .* '{targets[-1]}'"):
        study.load(file)
    wanted["methods"]["refl"]["train"]["lora"]["targets"] = ["to_q", "to_out.0"]
    file.write_text(yaml.safe_dump(wanted))
    study.load(file)


def test_a_budget_of_a_method_replaces_that_of_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    wanted = changed("finetune.budget", {"compute": 5000})
    wanted["methods"]["refl"]["train"] = {"budget": {"steps": 7}}
    Path("params.yaml").write_text(yaml.safe_dump(wanted))
    study.load("params.yaml")
    budgets = {name: training_plan("params.yaml", f"{name}-s0").train.budget for name in ("refl", "imagerefl")}
    assert budgets == {"refl": BudgetSettings(steps=7), "imagerefl": BudgetSettings(compute=5000)}


@pytest.mark.parametrize("key", ["sampling_steps", "guidance"])
def test_a_predictor_is_distilled_for_its_rollouts_and_what_pso_tunes_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(root)
    made = small_study()
    made["prepare"]["train"]["consistency"] = {"student": {key: 7}}
    made["methods"]["refl"] = {"kind": "pso", "train": {"trainable": "full"}}
    Path("distilled.yaml").write_text(yaml.safe_dump(made))
    study.load("distilled.yaml")
    made["methods"]["refl"] = {"kind": "sqdf", "predictor": "consistency", "model": "student"}
    Path("distilled.yaml").write_text(yaml.safe_dump(made))
    with pytest.raises(InputError, match=rf"{key} .*'student' is distilled for 7"):
        study.load("distilled.yaml")


@pytest.mark.parametrize("key", BAD)
def test_one_line_for_what_is_wrong(root: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.chdir(root)
    value, message = BAD[key]
    Path("params.yaml").write_text(yaml.safe_dump(changed(key, value)))
    if message is None:
        assert study.load("params.yaml").runs.keys() == small_study()["runs"].keys() - {"refl-s0"}
        return
    with pytest.raises(InputError) as error:
        study.load("params.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("params.yaml: ")
    assert "\n" not in str(error.value)


def test_snakemake_stops_at_the_door(root: Path) -> None:
    project = make(root / "door", changed("methods.refl.kind", "refel"))
    refused = project.snakemake(check=False)
    assert refused.code == 2
    said = [line for line in refused.text.splitlines() if not line.startswith("Using workflow specific profile")]
    assert said == ["error: params.yaml: methods.refl: unknown kind 'refel'; did you mean 'refl'?"]
    assert not (project.root / "out").exists()
    missing = project.snakemake("--config", "study=studies/none.yaml", check=False)
    assert missing.code == 2
    assert "studies/none.yaml: no such study file" in missing.text


COMMAND_LINES = {
    ("--config", "studdy=studies/smoke.yaml"): "--config studdy=...: unknown key; did you mean 'study'?",
    ("--config", "verbose=1"): "--config verbose=...: unknown key; known: study; expected study=FILE",
    ("--config", "finetune={steps: 9}"): "--config finetune=...: the command line cannot change a key of the study",
    ("--config", "study="): "--config study: expected the path of a study file, found null",
    ("--config", "study=[a.yaml]"): "--config study: expected the path of a study file, found the list",
    ("--config", "study=."): ".: is a folder, expected a study file in it",
    ("--config", "study=params.yaml", "study=a b.yaml"): "--config: params.yaml and a b.yaml: Snakemake runs one study",
    ("--config", "study=params.yaml", "--config=study=a b.yaml"): "--config: params.yaml and a b.yaml: Snakemake runs",
    ("--configfile", "params.yaml"): "--configfile params.yaml: a study file is named by --config study=params.yaml",
    ("--configfile", "a b.yaml"): "--configfile a b.yaml: a study file is named by --config 'study=a b.yaml'",
}
"""What stands on the command line, and the beginning of the refusal."""


TYPED = [words for words in COMMAND_LINES if words[1] in ("studdy=studies/smoke.yaml", "study=params.yaml", "a b.yaml")]
"""Of every way to be refused one, for Snakemake itself; how it is said of the others needs no Snakemake."""


@pytest.mark.parametrize("words", TYPED)
def test_no_word_of_the_command_line_is_passed_over(root: Path, words: tuple[str, ...]) -> None:
    project = Project(root)
    project.write(small_study())
    project.write(small_study(), "a b.yaml")
    refused = project.snakemake(*words, "--dry-run", check=False)
    assert refused.code == 2
    said = [line for line in refused.text.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert said[0].startswith(f"error: {COMMAND_LINES[words]}")


@pytest.mark.parametrize("words", [words for words in COMMAND_LINES if words not in TYPED])
def test_every_wrong_word_is_refused(root: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    named = [word for word in words if "=" in word]
    config = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in named)}
    files = [words[1]] if words[0] == "--configfile" else []
    with pytest.raises(InputError) as refused:
        study.load(named_study({} if files else config, files, "params.yaml", words))
    assert str(refused.value).startswith(COMMAND_LINES[words])


SCHEMA = jsonschema.Draft202012Validator(study.schema())
STUDIES = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "params.yaml", *(ROOT / "studies").glob("*.yaml")])


@pytest.mark.parametrize("file", STUDIES)
def test_ready_studies_are_valid(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = read_study(ROOT / file)
    monkeypatch.chdir(make(tmp_path, content).root)
    study.load("params.yaml")
    SCHEMA.validate(content)


def test_the_schema_is_one() -> None:
    SCHEMA.check_schema(SCHEMA.schema)


def test_the_command_writes_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stages.study", "--schema", str(tmp_path / "new/study.schema.json")])
    study.main()
    assert json.loads((tmp_path / "new/study.schema.json").read_text()) == study.schema()


@pytest.mark.parametrize("key", ["methods.refl.midle", "sample.stepz", "prepare.import.proxy.foldr"])
def test_schema_refuses_too(key: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(changed(key, BAD[key][0]))


@pytest.mark.parametrize(
    ("kind", "section", "fine"),
    [
        ("combined", "extra_step", True), ("combined", "drop_weights", False), ("fk", "drop_weights", True),
        ("fk", "extra_step", False),
    ],
)  # fmt: skip
def test_the_schema_tells_sections_of_one_name_apart(kind: str, section: str, fine: bool) -> None:
    """Two strategies have a section `as_released` of their own."""
    own = {"combined": {"k": [3]}, "fk": {"n": [2], "reward": "proxy"}}[kind]
    content = changed("sample.strategies.combined", {"kind": kind, **own, "as_released": {section: True}})
    refusal = nullcontext() if fine else pytest.raises(jsonschema.ValidationError)
    with refusal:
        SCHEMA.validate(content)
