# One command per purpose; each sets up what it needs in .venv. `make` alone lists them.
#
#   make study                            the study of params.yaml, and where its report is
#   make study STUDY=studies/smoke.yaml   another study
#   make study ARGS="-n"                  flags for Snakemake

STUDY ?= params.yaml
ARGS ?=
VENV := .venv
FILE := '$(subst ','\'',$(STUDY))'
IN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
.DEFAULT_GOAL := help
.PHONY: help study claims smoke doctor estimate test slow-test slurm-test mutants screenshots audit faults bench lint format schema protocols docs dvc-file clean-venv

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

study: $(VENV)/.study  ## run the study of STUDY (params.yaml) and say where the report is
	@$(IN) snakemake --cores all $(if $(subst params.yaml,,$(STUDY)),--config study=$(FILE)) $(ARGS)
	@$(IN) python -m workflow.layout $(FILE)

CLAIMS := emoji emoji-fine emoji-coarse
claims: $(VENV)/.study  ## run the claims studies (CLAIMS), keep their results in docs/results and print the verdicts
	@for study in $(CLAIMS); do \
	    $(MAKE) --no-print-directory study STUDY=studies/$$study.yaml || exit; done
	@for study in $(CLAIMS); do \
	    $(IN) python -m stages.report.results --params studies/$$study.yaml --study out/$$study --out docs/results/$$study \
	        || exit; done

smoke:  ## run the study in miniature
	@$(MAKE) --no-print-directory study STUDY=studies/smoke.yaml

doctor: $(VENV)/.study  ## say what this machine has, and what STUDY needs and lacks
	@$(IN) python -m workflow.doctor $(FILE)

estimate: $(VENV)/.study  ## encode what STUDY needs, time its networks for a moment: hours, memory and disk of the rest
	@$(IN) python -m workflow.estimate $(FILE)

screenshots: $(VENV)/.test  ## take the pictures of docs/page.md from the report of STUDY (needs Chromium)
	@$(IN); export PATH; page=$$(python -m workflow.layout $(FILE)) && \
	    python -m stages.report.screenshots --page "$${page#report: }" --out docs/img

audit: $(VENV)/.study  ## recompute the numbers of STUDY and say which differ
	@$(IN) python -m stages.audit --params $(FILE) $(ARGS)

# Many tests wait for a command of their own, so three files for two cores. Compiled modules are kept, whatever the shell
# says: each of these processes, and each command that a test starts, would compile all that it imports.
FILES := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 PYTEST_XDIST_AUTO_NUM_WORKERS=$$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 ))
test: $(VENV)/.test  ## run the tests, three files at a time for two cores (ARGS goes to pytest; ARGS="-n 0" for one at a time)
	@$(IN) $(FILES) python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slurm and not slow" $(ARGS)

slow-test: $(VENV)/.test  ## run the slow tests: whole studies, and long series of commands of both runners
	@$(IN) $(FILES) python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "slow and not slurm" $(ARGS)

slurm-test: $(VENV)/.test  ## run the tests that start a Slurm of one node; skipped where Slurm is not installed
	@$(IN) OMP_NUM_THREADS=1 python -m pytest -n 0 -m slurm $(ARGS)

mutants: $(VENV)/.test  ## put one fault after another into a copy of the code and see which the tests notice, in an hour
	@$(IN) python -m tests.mutants $(ARGS)

faults: $(VENV)/.test  ## kill and stop jobs of the smoke study at random moments and compare the results, in minutes
	@$(IN) FAULTS=1 OMP_NUM_THREADS=1 python -m pytest -m slow -s tests/faults $(ARGS)

BENCH := $(if $(QUICK),out/bench,benchmarks/results)
bench: $(VENV)/.test  ## measure everything on this machine, and write docs/benchmarks.md (see there)
	@$(IN) python -m benchmarks.steps --out $(BENCH)/steps.json $(if $(QUICK),--repeats 1 --width 8 --sweep-batch 4 --no-compile)
	@$(IN) python -m benchmarks.pairs --out $(BENCH)/pairs.json $(if $(QUICK),--repeats 1 --width 8)
	@$(IN) python -m benchmarks.curation --out $(BENCH)/curation.json $(if $(QUICK),--sizes 2000)
	@$(IN) python -m benchmarks.rows --out $(BENCH)/rows.json $(if $(QUICK),--sizes 2000 --sets 500)
	@$(IN) python -m benchmarks.searches --out $(BENCH)/searches.json $(if $(QUICK),--repeats 1 --width 8)
	@$(IN) python -m benchmarks.planning --out $(BENCH)/planning.json $(if $(QUICK),--jobs 30)
	@$(IN) python -m benchmarks.planning --out $(BENCH)/planning.json --runner dvc --jobs $(if $(QUICK),30,100 1000)
	@$(IN) python -m benchmarks --out $(BENCH)/studies.json $(if $(QUICK),studies/smoke.yaml,$(ARGS))
	@$(IN) python -m benchmarks.page --results $(BENCH) $(if $(QUICK),--out $(BENCH)/benchmarks.md)

lint: $(VENV)/.test  ## check style and types
	$(IN) ruff check .
	$(IN) ruff format --check .
	$(IN) pyright
	$(IN) snakefmt --check Snakefile workflow/rules

format: $(VENV)/.test  ## rewrite in the project's style
	$(IN) ruff check --fix .
	$(IN) ruff format .
	$(IN) snakefmt Snakefile workflow/rules

protocols: $(VENV)/.study  ## write docs/protocols anew from workflow/evaluate/protocols
	@$(IN) python -m workflow.evaluate.pages --out docs/protocols

schema: $(VENV)/.study  ## write workflow/schemas/study.schema.json, with which editors complete the keys of study files
	@$(IN) python -m stages.study --schema workflow/schemas/study.schema.json

docs: $(VENV)/.test  ## build the documentation site into out/site
	$(IN) python -m mkdocs build --strict --quiet

dvc-file: $(VENV)/.study  ## write dvc.yaml anew from workflow/jobs.py
	@$(IN) python -m workflow.dvc_file

clean-venv:  ## remove .venv
	rm -rf $(VENV)

# The first interpreter of a supported version; a pyenv shim without a version behind it fails the same way as none.
$(VENV)/bin/python:
	@for python in $(PYTHON) python3.11 python3.12 python3; do \
	    $$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || continue; \
	    echo "making $(VENV) with $$($$python --version)"; \
	    exec $$python -m venv $(VENV); \
	done; echo "error: no Python 3.11 or 3.12 with venv found; name one: make PYTHON=/path/to/python3.11" >&2; exit 2

$(VENV)/.study: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.study
