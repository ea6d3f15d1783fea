"""The study of params.yaml, or of `--config study=PATH`. dvc.yaml runs the same command lines."""

import os
import shlex
import sys
import time

from snakemake.logging import logger
from snakemake.utils import min_version

from stages.errors import InputError
from stages.params import read_study
from workflow import chosen
from workflow.command_line import named_study
from workflow.dvc_sync import commit
from workflow.files import Files
from workflow.layout import one_of
from workflow.locks import held
from workflow.plan import Plan
from workflow.refusals import PREFIX, Refusals
from workflow.stamps import Stamps

min_version("9.27")
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/jobs.smk"


# Every output of every job, not the report alone: of a file that is missing in between Snakemake says "Nothing to be
# done" as long as what was made from it is there.
rule all:
    default_target: True
    input:
        JOBS.kept,


onsuccess:
    settle()
