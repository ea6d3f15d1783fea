"""`snakemake --cores all --profile slurm` against a real Slurm of one node, which the test starts and stops."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import local_slurm
import pytest
import yaml
from local_slurm import LocalSlurm
from project import FUTURE, ROOT, Project, make, small_study

from benchmarks.study import copy_files

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SITE = {
    "all": {"cpus_per_task": 1, "mem_mb": "1500 * attempt", "runtime": 10},
    "gpu": {"gpu_model": "toy"},
    "snakemake": {"status_seconds": 2},
}
"""A site whose one node is small."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    """A running Slurm of one node with 4 cores and 3 GPUs."""
    if missing := local_slurm.missing():
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)")
    pytest.importorskip("snakemake_executor_plugin_slurm")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = LocalSlurm(folder, gpus=3)
    try:
        try:
            cluster.start()
        except RuntimeError as error:
            pytest.skip(f"Slurm is installed but does not start here: {str(error)[-500:]}")
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def tiny_study() -> dict[str, Any]:
    """The shapes study cut down to one run of two steps and a few images."""
    study = yaml.safe_load((ROOT / "studies/shapes.yaml").read_text())
    study["study"]["name"] = "tiny"
    study["curate"]["images"]["count"] = 64
    study["curate"]["pairs"]["count"] = 32
    study["curate"]["prompts"]["train"]["limit"] = 8
    study["curate"]["prompts"]["eval"]["limit"] = 2
    models = study["prepare"]["import"]
    study["prepare"]["import"] = {name: models[name] for name in ("base", "proxy", "heldout", "oracle")}
    study["score"]["rewards"] = ["proxy"]
    probe = {"every": 2, "prompts": 2, "samples": 2}
    study["finetune"] |= {"steps": 2, "batch_size": 4, "sampling_steps": 6, "probe": probe}
    study["methods"] = {"refl": {"kind": "refl", "middle": [4, 6]}}
    study["runs"] = {"refl-s0": {"method": "refl", "seed": 0}}
    sample = {"steps": 6, "samples_per_prompt": 2, "guidance": [1.0], "strategies": {"tuned": {"kind": "tuned"}}}
    study["sample"] |= sample
    scorers = {"rewards": ["proxy", "heldout", "oracle"], "text_image": "heldout", "features": {"heldout": "embedding"}}
    study["measure"] |= scorers | {"set_metrics": [], "bootstrap": 100}
    diversities = ["attribute_diversity", "heldout_diversity"]
    study["report"] = {"grid": {"prompts": 2, "samples": 2}, "rewards": scorers["rewards"], "diversities": diversities}
    return study


def snakemake(folder: Path, slurm: LocalSlurm, site: dict[str, Any], *flags: str) -> subprocess.CompletedProcess[str]:
    """`snakemake --cores all --profile slurm` as typed with the virtual environment active."""
    file = slurm.folder / "site.yaml"
    file.write_text(yaml.safe_dump(site))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{slurm.environment['PATH']}"
    environment = slurm.environment | {"PATH": programs, "IMAGEREFL_SITE": str(file), "LINEAGE": "off"}
    environment.pop("OMP_NUM_THREADS", None)
    command = ["snakemake", "--cores", "all", "--profile", "slurm", *flags]
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200
    )


def table(slurm: LocalSlurm, after: int = 0) -> dict[str, list[dict[str, str]]]:
    """Jobs that Slurm ran, after the first `after`, by the comment that the executor gives them."""
    found: dict[str, list[dict[str, str]]] = {}
    for job in slurm.jobs()[after:]:
        found.setdefault(re.sub("^rule_", "", job["Comment"]).replace("_wildcards_", "@"), []).append(job)
    return found


def test_every_job_of_a_study_goes_through_slurm(slurm: LocalSlurm, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    copy_files(ROOT, clone)
    (clone / "params.yaml").write_text(yaml.safe_dump(tiny_study()))
    before = len(slurm.jobs())
    done = snakemake(clone, slurm, SITE | {"rules": {"finetune": {"gpu": 2}}})
    assert done.returncode == 0, done.stdout[-6000:]
    assert (clone / "out/tiny/report/index.html").exists()

    jobs = table(slurm, before)
    gpu = {"score@proxy", "encode", "finetune@refl-s0", "sample_base", "sample@refl-s0", "measure_reference"}
    gpu |= {"measure@refl-s0", "measure@base"}
    assert jobs.keys() == gpu | {"curate", "report"}
    for name, (job, *again) in jobs.items():
        assert not again, f"{name} was submitted more than once"
        assert job["JobState"] == "COMPLETED", name
        assert job["Partition"] == ("gpu" if name in gpu else "cpu"), name
        count = 2 if name == "finetune@refl-s0" else 1
        assert job.get("TresPerJob") == (f"gres:gpu:toy:{count}" if name in gpu else None), name
        assert (job["NumCPUs"], job["TimeLimit"]) == ("1", "00:10:00"), name
        assert "mem=1500M" in job["TRES"], name
    assert "stages.finetune: 2 processes" in (clone / "logs/tiny/finetune/refl-s0.log").read_text()


def test_what_is_tried_again(slurm: LocalSlurm, tmp_path: Path) -> None:
    """A job that was killed is, with more memory; one that refused its input is not."""
    project = make(tmp_path, small_study())
    die_once(project, "curate")
    (project.root / "stages/encode/__main__.py").write_text("import sys\nsys.exit(2)\n")
    before = len(slurm.jobs())
    done = snakemake(project.root, slurm, SITE, "out/small/encodings/index.parquet")
    assert done.returncode != 0
    jobs = table(slurm, before)
    assert [job["JobState"] for job in jobs["curate"]] == ["CANCELLED", "COMPLETED"], done.stdout[-6000:]
    assert [re.findall("mem=([^,]+)", job["TRES"])[0] for job in jobs["curate"]] == ["1500M", "3000M"]
    assert [job["JobState"] for job in jobs["encode"]] == ["FAILED"], done.stdout[-6000:]
    assert "encode: bad input (exit code 2), not tried again" in done.stdout


def die_once(project: Project, stage: str) -> None:
    """Let a stand-in cancel its own Slurm job the first time, as preemption or a time limit would end it."""
    path = project.root / "stages" / stage / "__main__.py"
    dying = (
        f"{FUTURE}import os, subprocess, time\nfrom pathlib import Path\n"
        "if not Path('died').exists():\n"
        "    Path('died').touch()\n"
        "    subprocess.run(['scancel', os.environ['SLURM_JOB_ID']])\n"
        "    time.sleep(60)\n"
    )
    text = path.read_text()
    assert text.count(FUTURE) == 1
    path.write_text(text.replace(FUTURE, dying))
