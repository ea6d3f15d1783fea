"""The stages on tiny random base models of every family: encode, fine-tune, sample; and from raw data to the report."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from stages import pictures, tables
from stages.models import record
from stages.models.calls import network_output
from stages.models.diffusion import load_diffusion
from stages.models.noise import KeyedNoise
from stages.models.policy import load_policy
from tests import bases, tiny, tiny_judges
from tests.bases import pipeline

FAMILIES = ("sd15", "sdxl", "pixart", "sd3")
REWARDS = ("proxy", "heldout", "third", "oracle")
GIVEN = "--base models/base.json --tensors encodings.safetensors --index index.parquet"
FIELDS = {"sd15": set(), "sdxl": {"pooled", "size"}, "pixart": {"mask"}, "sd3": {"pooled"}}
METHODS = {
    "refl": {"kind": "refl", "middle": [2, 4], "train": {"trainable": "lora", "lora": {"rank": 2}}},
    "imagerefl": {
        "kind": "imagerefl", "start": 1, "middle": [1, 4], "diffusion_weight": 0.1, "refl_every": 2,
        "likeness_weight": 0.1, "source": "scenes",
    },
}  # fmt: skip
STRATEGIES = {
    "tuned": {"kind": "tuned"}, "aig": {"kind": "aig", "p": [1]},
    "combined": {"kind": "combined", "k": [2], "base_guidance": 3.0},
    "reno": {"kind": "reno", "n": [2], "weights": {"proxy": 1.0}, "apply_to": ["base", "tuned"]},
}  # fmt: skip
STOCHASTIC = {
    "ddpo": {"kind": "ddpo", "eta": 0.7, "advantage": "batch", "updates": 2, "clip": 0.1, "kl_weight": 0.1},
    "refl": {"kind": "refl", "middle": [1, 4], "kl_weight": 0.1},
    "draft_k": {"kind": "draft_k", "k": 2, "kl_weight": 0.1},
    "dpok": {"kind": "dpok", "least_history": 1},
    "hrf": {"kind": "hrf", "advantage": "batch", "window": 2, "move": 1, "clip": 0.1},
    "awm": {"kind": "awm", "advantage": "batch", "kl_weight": 0.1},
    "d3po": {"kind": "d3po", "kl_weight": 0.1},
    "tailorpo": {"kind": "tailorpo", "kl_weight": 0.1},
    "spo": {"kind": "spo", "start": 1, "candidates": 2, "threshold": 0, "kl_weight": 0.1},
    "dense_reward": {"kind": "dense_reward", "images_per_prompt": 2, "kl_weight": 0.1},
    "large_scale_rl": {"kind": "large_scale_rl", "images_per_prompt": 2, "source": "scenes"},
    "sqdf": {"kind": "sqdf", "predictor": "ddim2"},
    "online": {"kind": "online", "round_steps": 2, "queries": [4], "optimism": "none", "proxy": {"prompts": False},
               "inner": {"kind": "gradient", "truncate": [1, 3]}},
}  # fmt: skip
"""Methods that need densities of sampling steps."""
FUSION = {"fusion": {"kind": "fusion", "k": [0, 2], "base_guidance": 3.0, "base_direction": 1.5}}
"""Only for bases with a noise schedule."""
ATTENDING = {"ebama": {"kind": "ebama", "a": [2.0], "apply_to": ["base", "tuned"]}}
"""Only for bases with cross-attention."""


def strategies(family: str) -> dict[str, Any]:
    """The strategies that a family can do."""
    return STRATEGIES if family == "sd3" else STRATEGIES | FUSION | ATTENDING


def study(folder: Path, family: str) -> dict[str, Any]:
    """A study in miniature, of pictures of 16 x 16. The training reward is HPS with the features of PickScore, which is
    held out; ImageReward measures too.
    """
    imports: dict[str, Any] = {"base": {"kind": "diffusers", "folder": str(folder / "base")}}
    imports |= {name: {"kind": name, "folder": str(folder / name)} for name in ("hps", "pickscore", "image_reward")}
    imports["proxy"] = {
        "kind": "with_features", "of": {"reward": imports.pop("hps"), "features": imports["pickscore"]}
    }  # fmt: skip
    imports |= {"heldout": imports.pop("pickscore"), "third": imports.pop("image_reward")}
    imports["oracle"] = {"kind": "shapes_oracle"}
    return {
        "study": {"name": "tiny", "seed": 0, "reward": "proxy", "heldout": "heldout", "reference": "refl"},
        "world": {"image_size": 16},
        "curate": {
            "images": {"kind": "shapes", "name": "scenes", "count": 24, "seed": 1},
            "pairs": {"kind": "shapes", "count": 24, "seed": 2},
            "prompts": {"train": {"kind": "shapes", "part": "train", "limit": 8},
                        "eval": {"kind": "shapes", "part": "eval", "limit": 3}},
            "filters": {"min_side": 16, "leakage": True}, "val_share": 0.2,
        },
        "prepare": {"import": imports, "train": {"vae": {}, "base": {}, "clip": {}}},
        "score": {"rewards": [*REWARDS]},
        "encode": {"batch_size": 5},
        "finetune": {"steps": 2, "batch_size": 4, "accumulate": 2, "sampling_steps": 4, "guidance": 1.5,
                     "probe": {"every": 2, "prompts": 2, "samples": 2}},
        "methods": METHODS,
        "runs": {f"{name}-s0": {"method": name, "seed": 0} for name in METHODS},
        "sample": {"steps": 4, "samples_per_prompt": 2, "batch_size": 4, "guidance": [1.0, 3.0],
                   "strategies": strategies(family)},
        "measure": {"rewards": [*REWARDS], "text_image": "heldout",
                    "features": {"heldout": "embedding"}, "set_metrics": ["vendi"], "bootstrap": 100},
        "report": {"grid": {"prompts": 2, "samples": 2}, "rewards": ["proxy", "heldout", "third"],
                   "diversities": ["heldout_diversity"]},
    }  # fmt: skip


class Place:
    """A folder with a study of one family; `stage` runs a stage with its command line."""

    def __init__(self, root: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._patch = root, monkeypatch
        bases.make(family, root / "base")
        tiny_judges.hps(root / "hps")
        tiny_judges.clip_folder(root / "pickscore", "pickscore")
        tiny_judges.image_reward(root / "image_reward")
        (root / "params.yaml").write_text(yaml.safe_dump(study(root, family)))
        monkeypatch.chdir(root)

    def stage(self, line: str, **values: str) -> None:
        name, *words = line.format(**values).split()
        study = [] if name == "export" else ["--params", "params.yaml"]
        self._patch.setattr("sys.argv", [name, *words, *study])
        importlib.import_module(f"stages.{name}.__main__").main()

    def until_encodings(self) -> None:
        """Everything that training begins with."""
        self.stage(
            "curate --prompts prompts.parquet --images images.parquet --pairs pairs.parquet --manifest manifest.json"
        )
        for model in ("base", *REWARDS):
            self.stage("prepare import --name {m} --record models/{m}.json", m=model)
        self.stage(f"encode {GIVEN} --prompts prompts.parquet --images images.parquet")

    def finetune(self, run: str) -> None:
        """Train one run."""
        self.stage(f"finetune {GIVEN} --run {run} --reward models/proxy.json --heldout models/heldout.json"
                   f" --weights runs/{run}/policy.safetensors --log runs/{run}/train_log.parquet")  # fmt: skip

    def until_samples(self) -> None:
        """Everything up to the images."""
        self.until_encodings()
        self.stage(f"sample base {GIVEN} --models models --samples samples/base.parquet --latents latents.safetensors")
        for run in (f"{name}-s0" for name in METHODS):
            self.finetune(run)
            self.stage(f"sample run {GIVEN} --run {run} --policy runs/{run}/policy.safetensors --models models"
                       f" --latents latents.safetensors --samples samples/{run}.parquet")  # fmt: skip


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, request.param, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("place", FAMILIES, indirect=True, ids=FAMILIES)
def test_from_raw_data_to_the_report(place: Place, request: pytest.FixtureRequest) -> None:
    place.until_samples()
    check_images(request.node.callspec.params["place"])
    check_exports(place, request.node.callspec.params["place"])
    Path("scores").mkdir()
    for reward in REWARDS:
        place.stage("score --reward {r} --model models/{r}.json --images images.parquet --pairs pairs.parquet"
                    " --scores scores/{r}.parquet --accuracy scores/{r}.json", r=reward)  # fmt: skip
    place.stage("measure reference --images images.parquet --models models --features reference.safetensors")
    for run in ("base", *(f"{name}-s0" for name in METHODS)):
        place.stage("measure samples --run {r} --samples samples/{r}.parquet --models models --reference"
                    " reference.safetensors --measures measures/{r}.parquet --summary measures/{r}.summary.parquet",
                    r=run)  # fmt: skip
    place.stage("report --data . --scores scores --runs runs --samples samples --measures measures --out report")
    numbers = json.loads(Path("report/metrics.json").read_text())
    assert numbers
    assert "imagerefl" in Path("report/index.html").read_text().lower()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sd3"], indirect=True)
def test_densities_and_divergences_on_flow_matching(place: Place) -> None:
    """Every method that needs densities of sampling steps trains an SD3-type base: it starts at the base, where ratios
    are 1 and divergences 0, and leaves it.
    """
    entries = study(place.root, "sd3")
    entries["methods"] = STOCHASTIC
    entries["runs"] = {f"{name}-s0": {"method": name, "seed": 0} for name in STOCHASTIC}
    entries["study"]["reference"] = "ddpo"
    entries["finetune"]["optimizer"] = {"lr": 1e-3}
    Path("params.yaml").write_text(yaml.safe_dump(entries))
    place.until_encodings()
    base, diverged = load_diffusion(record.load("models/base.json"), tiny.CPU, ("unet",)), set()
    for name in STOCHASTIC:
        place.finetune(f"{name}-s0")
        log: dict[str, list[float]] = {}
        for row in tables.read(f"runs/{name}-s0/train_log.parquet", tables.TRAIN_LOG).to_pylist():
            log.setdefault(row["term"], []).append(row["value"])
        assert all(torch.isfinite(torch.tensor(value)).all() for value in log.values())
        assert log.get("ratio", [1.0])[0] == pytest.approx(1, abs=1e-4)
        for term in {"kl", "loss_kl"} & set(log):
            assert log[term][0] == pytest.approx(0, abs=1e-6) and log[term][1] > 0, (name, term, log[term])
            diverged.add(name)
        policy = load_policy(base.unet, f"runs/{name}-s0/policy.safetensors", base.record.digest)
        before = dict(base.unet.named_parameters())
        assert any(not torch.equal(p, before[n]) for n, p in policy.parameters())
    every = {"ddpo", "refl", "draft_k", "d3po", "tailorpo", "spo", "dense_reward", "sqdf", "online"}
    assert every <= diverged


def check_images(family: str) -> None:
    """Encodings hold what the family needs, both methods moved the base, and every strategy made its images."""
    encodings = load_file("encodings.safetensors")
    found = {name.removeprefix("text_") for name in encodings if name.startswith("text_")} - {"embeddings"}
    assert found == FIELDS[family]
    if family == "sdxl":
        assert encodings["text_size"][0].tolist() == [16, 16, 0, 0, 16, 16]

    base = load_diffusion(record.load("models/base.json"), tiny.CPU, ("unet",))
    for name in METHODS:
        policy = load_policy(base.unet, f"runs/{name}-s0/policy.safetensors", base.record.digest)
        assert any(bool((p != 0).any()) for n, p in policy.parameters() if "lora_B" in n or name == "imagerefl")
        rows = tables.read(f"samples/{name}-s0.parquet", tables.SAMPLES)
        assert set(rows.column("strategy").to_pylist()) == set(strategies(family))
        assert rows.num_rows == 3 * 2 * (4 if family == "sd3" else 7)
        costs = {(row["strategy"], row["nfe"]) for row in rows.select(["strategy", "nfe"]).to_pylist()}
        assert {("combined", 2 * 2 + 2), ("reno", 2 * 4)} <= costs and len(costs) == (4 if family == "sd3" else 7)
        assert family == "sd3" or ("ebama", 4 + 2) in costs
        fused = {nfe for strategy, nfe in costs if strategy == "fusion"}
        assert fused == (set() if family == "sd3" else {4 * (2 + 2), 2 * 2 + 2 * (2 + 2)})
        log = tables.read(f"runs/{name}-s0/train_log.parquet", tables.TRAIN_LOG).to_pylist()
        assert {row["step"] for row in log if row["term"] == "reward"} == {0, 1}
        assert all(torch.isfinite(torch.tensor(row["value"])) for row in log)
        likeness = [row["value"] for row in log if row["term"] == "loss_likeness"]
        assert len(likeness) == (2 if name == "imagerefl" else 0) and all(0 < value < 2 for value in likeness)


@torch.no_grad()
def check_exports(place: Place, family: str) -> None:
    """The exported pipeline makes the images of the sample stage, to one level of 255; merged weights are the policy;
    the LoRA file loads into the family's pipeline.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    for run in ("refl-s0", "imagerefl-s0"):
        shared = f"--base models/base.json --policy runs/{run}/policy.safetensors"
        place.stage(f"export combined {shared} --out {run}-combined --switch-step 2 --steps 4 --base-guidance 3")
        place.stage(f"export merged {shared} --out {run}-merged")
        made = exported(f"{run}-combined")
        rows = [
            r for r in tables.read(f"samples/{run}.parquet", tables.SAMPLES).to_pylist() if r["strategy"] == "combined"
        ]
        noise = KeyedNoise(0, [("eval", r["prompt_id"], r["sample"]) for r in rows], (4, 8, 8), tiny.CPU)
        found = made([r["prompt"] for r in rows], height=16, width=16, latents=noise.initial(), step_noise=noise.step,
                     output_type="pt").images  # fmt: skip
        expected = pictures.tensor([r["image"] for r in rows], "test")
        assert float((found - expected).abs().max()) <= 1.5 / 255
        assert float((made([r["prompt"] for r in rows], switch_step=0, height=16, width=16, latents=noise.initial(),
                           step_noise=noise.step, output_type="pt").images - found).abs().max()) > 3 / 255  # fmt: skip

        base = load_diffusion(record.load("models/base.json"), tiny.CPU, ("unet",))
        policy = load_policy(base.unet, f"runs/{run}/policy.safetensors", base.record.digest)
        plain = DiffusionPipeline.from_pretrained(f"{run}-merged", local_files_only=True)
        network = plain.components[base.layout.family.network]
        mine = dict(base.unet.named_parameters())
        assert any(not torch.equal(value, mine[name]) for name, value in network.named_parameters())
        given = bases.conditions(family)
        outputs = [
            network_output(n, torch.ones(1, 4, 8, 8), torch.tensor(400), given) for n in (network, policy.network)
        ]
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
        if run == "refl-s0" and family != "pixart":  # which has no loader of LoRA files
            plain = pipeline(Path("base"))
            plain.load_lora_weights(f"runs/{run}", weight_name="policy.safetensors")
            network = plain.components[base.layout.family.network]
            output = network_output(network, torch.ones(1, 4, 8, 8), torch.tensor(400), given)
            torch.testing.assert_close(output, outputs[1], rtol=1e-5, atol=1e-6)


def exported(folder: str) -> Any:
    """An exported pipeline, loaded as its README says."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    made = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=f"{folder}/pipeline.py", trust_remote_code=True, local_files_only=True
    )
    made.set_progress_bar_config(disable=True)
    return made
