# Everything a fresh machine needs is set up by the targets themselves; `make demo` and `make test` are all there is to know.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?=
export TORCH PYTHON CONSTRAINTS
# One thread per test process: the tests run side by side, and threads that wait for each other spin.
TEST_ENVIRONMENT = PATH="$(abspath $(VENV))/bin:$$PATH" OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1

.PHONY: demo test setup lint format full wheels docs clean

demo:  ## rank real problems with a real model, train on them with the curriculum, evaluate, report
	@scripts/setup.sh $(VENV) demo
	@$(VENV)/bin/python scripts/demo.py

test: setup  ## set up and pass the tests
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest -n 2

full: setup  ## every test there is, or those that SELECT (pytest's options) names
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest -n 2 --dist worksteal --full $(SELECT)

setup:
	@scripts/setup.sh $(VENV) dev

lint: setup  ## style, types, import rules, and how the pages are written
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python scripts/prose.py
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'examples/*.cpp')

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'examples/*.cpp')

wheels: setup  ## source distribution, wheel for this Python, pure-Python wheel: built, checked, tried (dist/)
	VENV=$(VENV) scripts/wheels.sh dist

docs: setup  ## the documentation site, every warning an error (build/site)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

clean:
	rm -rf build dist $(VENV)
