# make demo: text → tokenizer → trained model → writing.   make serve-demo: that model, answering over HTTP.
# make test: every check and test.   make install: .venv alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo serve-demo test check format lint types imports tests test-long docs clean

install: $(VENV)/.installed

# torch first and pinned: any looser request may fetch a newer build, on Linux with several gigabytes of CUDA. Where pip
# is told of an index with CPU builds (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), it takes torch from there.
$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard src/gptwo/kernels/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"gptwo needs Python 3.11 or newer, not {sys.version.split()[0]}; try: make PYTHON=python3.11")'
	@echo "installing into $(VENV); this takes a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	@$(BIN)/gptwo demo

serve-demo: install
	@test -d runs/demo/checkpoints || $(BIN)/gptwo demo
	@$(BIN)/gptwo serve runs/demo

test: check

check: lint types imports tests

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

# Two processes of one thread each: torch's own two threads in two processes would fight for the cores.
tests: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Kill loops, soaks and fuzzing. Their last figures stand in docs/testing.md.
test-long: install
	$(BIN)/python -m pytest -m long -o faulthandler_timeout=0

docs: install
	$(BIN)/python tools/cli_reference.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build src/*.egg-info \
		src/gptwo/kernels/_native*.so
