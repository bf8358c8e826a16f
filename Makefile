# Every target sets up .venv the first time and nothing the second.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test lint notebooks docs clean

run: $(READY)
	$(BIN)/python experiments/run.py

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup $(PYTEST_FLAGS)

notebooks: $(READY)
	$(BIN)/python experiments/notebooks.py

docs: $(READY)
	$(BIN)/sphinx-build -E -W --keep-going -b html -q docs docs/_build
	@echo "Open docs/_build/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt requirements-embedded.txt benchmarks/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-embedded.txt --requirement benchmarks/requirements.txt
	@touch $(READY)

clean:
	rm -rf $(VENV) *.egg-info build docs/_build docs/api/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
