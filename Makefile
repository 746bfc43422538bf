# `make demo` and `make test` work on a fresh machine; everything else is for those who work on the code.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test lint unit parity bench gpu-validation docs evaluate clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: setup            ## a clip through the demo voice on the CPU: table, WAV, picture
	$(BIN)/python -m demo.run

test: lint unit        ## style, types, architecture and all quick tests

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/python -m pytest

parity: setup          ## rewrites docs/parity.md from the golden data
	$(BIN)/python -m tests.parity > docs/parity.md.part
	mv docs/parity.md.part docs/parity.md

bench: setup           ## timings of the vocoders on this machine
	$(BIN)/python -m pytest benchmarks --benchmark-only

gpu-validation: setup  ## every check that needs a GPU; says "skipped" where there is none
	$(BIN)/python -m tests.gpu.validate

evaluate: setup        ## held-out quality of the demo voice beside WORLD and an untrained network (some minutes)
	$(BIN)/python -m demo.evaluate

docs: setup
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv demo/out site .mypy_cache .ruff_cache .pytest_cache .hypothesis
