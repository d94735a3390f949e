# Two commands do everything: `make smoke` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: smoke test lint install clean

smoke: install
	$(BIN)/bench run --grid smoke

test: install lint
	$(BIN)/pytest

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: .venv/installed

# pip, unlike some faster installers, compiles what it installs: every command then starts in half the time.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; give one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
