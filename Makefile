# `make run` installs what running needs, the first time; `make test`, `lint`, `docs` and `notebooks` add what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEVELOP := $(VENV)/.develop
# Python compiles a file when it is first imported, which is sooner than compiling all of torch now.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

.PHONY: setup run test lint notebooks docs clean

setup: $(READY)
	@echo "Ready. Activate it with: . $(BIN)/activate   Then: slhf --help, slhf doctor"

run: $(READY)
	$(BIN)/python experiments/run.py

test: $(DEVELOP)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(PYTEST_FLAGS)

notebooks: $(DEVELOP)
	$(BIN)/python experiments/notebooks.py

docs: $(DEVELOP)
	$(BIN)/sphinx-build -E -W --keep-going -b html -q docs docs/_build
	@echo "Open docs/_build/index.html"

lint: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt requirements-embedded.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV): 1.5 GB, one to three minutes (with a CUDA build of torch several GB, and longer)."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --constraint constraints.txt --editable '.[llm]'
	$(INSTALL) --no-deps --requirement requirements-embedded.txt
	@touch $(READY)

$(DEVELOP): $(READY) benchmarks/requirements.txt
	@echo "Adding what tests, documentation and notebooks need: another 1.3 GB, one to two minutes."
	$(INSTALL) --constraint constraints.txt --editable '.[dev,docs]'
	$(INSTALL) --no-deps --requirement benchmarks/requirements.txt
	@touch $(DEVELOP)

clean:
	rm -rf $(VENV) *.egg-info build docs/_build docs/api/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
