# make quickstart   set up, then run the main job on the embedded model (minutes on 2 cores)
# make test         set up, then run the tests
# make test-integrations   also the extras (Inspect AI, lm-eval, MLflow, W&B, trackio) and their tests
# make test-oldest, make test-newest   the tests with the lowest and highest versions of pyproject.toml's ranges
# make check        ruff, strict typing, import contracts and the tests
# make docs         references and tables of figures, and the docs as a site in site/
# make lock         renew locks/, which the set-up installs (UPGRADE=1: to the newest releases)

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
LOCKED := $(INSTALL) --require-hashes -c locks/accelerator.txt
PYTEST := -m pytest -n 2 --dist loadfile
SELF := $(INSTALL) --no-deps --no-build-isolation -e .

.PHONY: quickstart test test-integrations test-oldest test-newest check docs lock clean

quickstart: $(VENV)/.test
	$(BIN)/fedrai compare recipes/quickstart.toml --arm harmful --arm filter --arm constitution --arm both --out runs/quickstart
	@for arm in harmful both; do \
		$(BIN)/fedrai release runs/quickstart/$$arm --budget 0 || test $$? -eq 1 || exit 1; done  # 1: not released

test: $(VENV)/.test
	$(BIN)/python $(PYTEST)

test-integrations: $(VENV)/.integrations
	$(BIN)/python -m pytest tests/integrations

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python $(PYTEST)

docs: $(VENV)/.docs
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "docs: site/index.html"

lock: $(VENV)/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python locks/lock.py $(if $(UPGRADE),--upgrade)

# each brings a torch of its own, on Linux with gigabytes of CUDA packages
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest: test-%: $(VENV)/.test
	$(PYTHON) -m venv --clear $(VENV)-$*
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --resolution $(RESOLUTION) \
		--python $(VENV)-$*/bin/python --extra test pyproject.toml -o $(VENV)-$*/versions.txt
	$(VENV)-$*/bin/python $(INSTALL) --require-hashes -r locks/pip.txt
	$(VENV)-$*/bin/python $(INSTALL) -r $(VENV)-$*/versions.txt 'hatchling>=1.27,<2' editables
	$(VENV)-$*/bin/python $(SELF)
	$(VENV)-$*/bin/python $(PYTEST)

$(VENV)/.test: pyproject.toml locks/fedrai.txt locks/torch-cpu.txt locks/accelerator.txt | $(VENV)/.new
	@$(BIN)/python $(INSTALL) --require-hashes --no-deps -r locks/torch-cpu.txt 2>/dev/null || true
	$(BIN)/python $(LOCKED) -r locks/fedrai.txt
	$(BIN)/python $(SELF)
	@touch $@

$(VENV)/.integrations: pyproject.toml locks/integrations.txt | $(VENV)/.test
	$(BIN)/python $(LOCKED) -r locks/integrations.txt
	@touch $@

$(VENV)/.docs: pyproject.toml locks/docs.txt | $(VENV)/.test
	$(BIN)/python $(LOCKED) -r locks/docs.txt
	@touch $@

$(VENV)/.new:
	@test -n "$(PYTHON)" || { echo "FedRAI needs Python 3.11 to 3.14; name it with make PYTHON=..."; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --require-hashes -r locks/pip.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest build dist site
