"""The study of params.yaml, or of `--config study=PATH`. dvc.yaml runs the same command lines."""

import os
import shlex
import sys
import time
from pathlib import Path

from snakemake.logging import logger
from snakemake.utils import min_version

from stages.errors import InputError
from stages.params import read_study
from stages.study import load
from workflow.asked import asked_study
from workflow.dvc_sync import Agreement, Beside, commit, whole
from workflow.layout import REPORT_FILES, Layout, one_of
from workflow.locks import held
from workflow.refusals import PREFIX, Refusals
from workflow.triggers import all_code, code, stamp, stamps, values

min_version("9.27")
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/curate.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/encode.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/sample.smk"


if STUDY.shards("sample"):

    include: "workflow/rules/sample_shards.smk"

else:

    include: "workflow/rules/sample_whole.smk"


include: "workflow/rules/measure.smk"


if STUDY.shards("measure"):

    include: "workflow/rules/measure_shards.smk"

else:

    include: "workflow/rules/measure_whole.smk"


include: "workflow/rules/report.smk"


localrules:
    prepare_import,  # a second's work, and nodes of a cluster rarely reach a hub


# Every output of every job, not the report alone: of a file that is missing in between Snakemake says "Nothing to be
# done" as long as what was made from it is there.
rule all:
    default_target: True
    input:
        STUDY.outputs,


onsuccess:
    settle()
