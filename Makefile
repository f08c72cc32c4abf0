# Everything a newcomer types; `make` alone explains it.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env demo test lint

# an environment that is there keeps its Python
BASE_PYTHON ?= $(or $(shell test -x $(VENV)/bin/python && echo $(VENV)/bin/python),python3)
PYTHON ?=
TORCH ?=
ARGS ?=

ifeq ($(PYTHON),)
VENV := .venv$(if $(TORCH),-torch$(TORCH))
PY := $(VENV)/bin/python
ENVIRONMENT = $(BASE_PYTHON) tools/setup_env.py --venv $(VENV) $(if $(TORCH),--torch $(TORCH))
else # the user's own environment: looked at, never changed
PY := $(PYTHON)
ENVIRONMENT = $(PY) tools/doctor.py --quiet
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
endif

# $(call need,module,requirement): says how to get a tool that the user's own environment lacks
need = @$(PY) -c 'import $(1)' 2>/dev/null || \
	{ echo "$(PY) does not import $(1). Remedy: $(PY) -m pip install '$(2)'" >&2; exit 1; }

help:
	@echo 'make env     an environment with all that is needed, in .venv (5 min; 15 where mmcv has'
	@echo '             to be compiled; a second when it is there already)'
	@echo 'make demo    trains a small detector with and without distillation, makes a report'
	@echo '             (minutes on a CPU)'
	@echo 'make test    all tests (15 to 20 min on two cores; without the slow ones:'
	@echo "             make test ARGS='-m \"not slow\"')"
	@echo 'make lint    ruff check and ruff format --check (a second)'
	@echo
	@echo 'demo, test and lint make the environment first. All can be interrupted and run again.'
	@echo
	@echo 'TORCH=2.13.0             a newer torch, in .venv-torch2.13.0'
	@echo 'BASE_PYTHON=python3.10   the Python the environment is made with (3.9 to 3.12)'
	@echo 'PYTHON=/path/to/python   your own environment: checked, nothing is installed'
	@echo 'ARGS="..."               more arguments for demo or test'

env:
	@$(ENVIRONMENT)

demo: env
	$(PY) tools/demo.py $(ARGS)

test: env
	$(call need,pytest,pytest>=7.4)
	$(call need,xdist,pytest-xdist>=3.5)
	$(PY) -m pytest -n logical --maxprocesses 4 --dist loadscope $(ARGS)

lint: $(if $(PYTHON),,env)
	$(call need,ruff,ruff==0.17.5)
	$(PY) -m ruff check --no-cache .
	$(PY) -m ruff format --check .
