# make quickstart   set up, then run the main job on the embedded model (minutes on 2 cores)
# make test         set up, then run the tests
# make test-integrations   also the extras (Inspect AI, lm-eval, MLflow, W&B, trackio) and their tests
# make check        ruff, strict typing and the tests, with warnings as errors

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-integrations check docs clean

quickstart: $(VENV)/.run
	$(BIN)/fedrai compare recipes/quickstart.toml --arm harmful --arm filter --arm constitution --arm both --out runs/quickstart

test: $(VENV)/.test
	$(BIN)/python -m pytest

test-integrations: $(VENV)/.integrations
	$(BIN)/python -m pytest tests/integrations

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

docs: $(VENV)/.test
	$(BIN)/python docs/generate.py

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/.new
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/.new
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.integrations: pyproject.toml constraints.txt | $(VENV)/.new
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,inspect,lm-eval,mlflow,wandb,trackio]'
	@touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.new:
	@test -n "$(PYTHON)" || { echo "FedRAI needs Python 3.11 or newer; name it with make PYTHON=..."; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24.1'
	@touch $@

clean:
	rm -rf $(VENV) build dist
