# make reproduce   run the notebooks and build the report        make test   run the tests
# Both create .venv on their first call; `make help` lists the rest.

PYTHON ?= python3
PROFILE ?= mini
MODEL ?= mini-sd
ONLY ?=
SEED ?= 0
LOCK_FLAGS ?=
# Another torch than the one in the lock, as TORCH="torch==..."; remembered in .venv until TORCH= takes it back.
TORCH ?= $(shell cat .venv/torch.txt 2>/dev/null)

PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
DIFFCLF := $(PY) -m diffclf
PYTEST := $(PY) -m pytest
# Files of tests, and notebooks, side by side.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile
CODE := diffclf tests notebooks

# Idle OpenMP threads that spin instead of sleeping cost torch most of its speed as soon as a core is shared.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup reproduce report test test-paper test-wheel test-all lint format lab train bench reference verify data-table lock FORCE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/installed  ## create .venv and install the pinned dependencies

reproduce: setup  ## run the notebooks at PROFILE (default mini), then build the report
	@$(DIFFCLF) reproduce --profile $(PROFILE)

report: setup  ## build the report of the last run at PROFILE
	@$(DIFFCLF) report --profile $(PROFILE)

test: setup  ## unit tests, then every notebook at the smoke profile
	@$(PYTEST) -q $(PARALLEL) tests
	@HF_HUB_OFFLINE=1 DIFFCLF_PROFILE=smoke OMP_NUM_THREADS=1 $(PYTEST) -q $(PARALLEL) --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 300 --nbval-kernel-startup-timeout 120 notebooks

test-paper: setup  ## every notebook at the paper profile, with tiny models and data sets in the layout of the hub
	@$(PYTEST) -q -m paper tests/test_paper_profile.py

# The new environment has .venv's packages by a .pth file. Python does not follow the link to this folder that is there.
test-wheel: setup  ## build the source distribution and from it the wheel, then run the unit tests on it elsewhere
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PY) -c 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])' "$$folder" > /dev/null; \
	$(PY) -m venv --without-pip "$$folder/venv"; python="$$folder/venv/bin/python"; \
	$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(echo "$$folder"/venv/lib/python*/site-packages)/packages.pth"; \
	$(PY) -m pip --python "$$python" install --quiet --no-index --no-build-isolation --no-deps "$$folder"/*.tar.gz; \
	mkdir "$$folder/away"; cd "$$folder/away"; tar -xzf "$$folder"/*.tar.gz --strip-components 1; rm -r diffclf; \
	"$$python" -c 'import diffclf; print("testing", diffclf.__file__)'; "$$python" -m pytest -q $(PARALLEL) tests

test-all: setup  ## all tests, the slow ones and those of the paper profile too
	@$(PYTEST) -q $(PARALLEL) -m "" tests

lint: setup  ## ruff over code, tests and notebooks
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check $(CODE)

format: setup  ## let ruff format and repair what it can
	@$(PY) -m ruff check --fix $(CODE)
	@$(PY) -m ruff format $(CODE)

lab: setup  ## open the notebooks in JupyterLab
	@$(PY) -m jupyterlab notebooks

train: setup  ## train the embedded MODEL (default mini-sd) again from its seed (hours)
	@$(DIFFCLF) train $(MODEL)

bench: setup  ## time evaluator and race against the plain loop (minutes)
	@$(DIFFCLF) bench

reference: setup  ## run ONLY (default all) at the full profile (hours, resumable), keep the results in reports/reference
	@$(DIFFCLF) reproduce --profile full --only "$(ONLY)"
	@$(DIFFCLF) reference --only "$(ONLY)"

verify: setup  ## run ONLY (default all) at the full profile again, with SEED (default 0), and compare with the reference
	@$(DIFFCLF) verify --only "$(ONLY)" --seed $(SEED)

data-table: setup  ## bring the table of sizes in data/README.md up to date
	@$(PY) -m tests.data_table

lock: setup  ## write requirements.lock anew; LOCK_FLAGS=--upgrade takes newer versions
	@$(PIP) uv
	@$(PY) -m uv pip compile pyproject.toml --quiet --extra report --extra lab --extra data --extra dev --universal --fork-strategy fewest --no-emit-index-url --no-annotate --custom-compile-command "make lock" $(LOCK_FLAGS) -o requirements.lock > /dev/null

# The stamp stands for a finished installation of these two files with this torch.
.venv/installed: requirements.lock pyproject.toml .venv/torch.txt
	@echo "installing the pinned dependencies into .venv (some minutes, once)"
	@sed "s|^torch==.*|$(or $(TORCH),&)|" requirements.lock > .venv/requirements.txt && $(PIP) -r .venv/requirements.txt
	@$(PIP) --no-build-isolation --no-deps -e . && touch $@

# Written only when the choice changes, so that nothing is installed again without need.
.venv/torch.txt: FORCE | .venv/bin/pip
	@echo "$(TORCH)" | cmp -s - $@ || echo "$(TORCH)" > $@

# pip is the last thing that venv writes: its presence means that venv got to its end.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; choose one with make PYTHON=...")'
	@$(PYTHON) -m venv .venv

FORCE:
