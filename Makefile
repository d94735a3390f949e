# Two commands do everything: `make smoke` and `make test`. `make test-all SEED=7` does more, for longer.
PYTHON ?= python3
BIN := .venv/bin
SEED ?= 0
# On all cores, file by file: the tests of one often share what takes long to make. How many processes: tests/conftest.py.
FAST := $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 10 -m "not slow"

.PHONY: smoke test fast test-all sample gpu lint install clean

# Where it is set, what is started here, and tests start hundreds of processes, compiles every module of ours again.
unexport PYTHONDONTWRITEBYTECODE

smoke: install
	$(BIN)/bench run --grid smoke

# Side by side: alone, mypy leaves all cores but one idle for a minute.
test: install
	$(MAKE) --no-print-directory --jobs 2 lint fast

fast: install
	$(FAST)

# One after the other: they start clusters and whole runs, which need all cores.
test-all: install lint
	$(FAST) --seed $(SEED)
	$(BIN)/pytest -m slow --seed $(SEED) --durations 0 --durations-min 1

# Of the slow tests the shortest of each kind, as CI runs them; two at a time, for most of them wait half of it.
sample: install
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10 -m sample

# Whether a machine with a GPU may be trusted, and how fast it is; stops at what is wrong. A torch that uses the GPU, and
# not `.venv`, will do as well, also without Ray: the same lines with `python -m bench` and `python -m pytest`.
gpu: install
	$(BIN)/bench doctor
	$(BIN)/pytest -m gpu --durations 10 tests/test_gpu.py
	$(BIN)/bench perf certify --model resnet110
	$(BIN)/bench perf train

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
