# `make demo` and `make test` need Python 3.11 or later, make, and a package registry; nothing else from the internet.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The stages run `python`: let that be the environment's.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONUNBUFFERED=1
# Slow tests come first, and a worker with nothing left takes from the other. A thread a process, or workers and what they
# start share two cores among four or more.
PYTEST := OMP_NUM_THREADS=1 $(RUN) python -m pytest -n 2 --dist worksteal

.PHONY: demo test test-slow test-all reliability lint format env without-git pictures clean

demo: env without-git
	$(RUN) dvc repro
	@echo "The comparison is in out/report/index.html"

test: env
	$(PYTEST)

test-slow: env
	$(PYTEST) -m slow

# All tests in fp32, the slow ones too; and once more in bf16 what may depend on it.
test-all: env
	CNNCODES_PRECISION=fp32 $(PYTEST) -m 'slow or not slow'
	CNNCODES_PRECISION=bf16 $(PYTEST) -m 'network and not one_precision'

# Thousands of seeded faults and kills (docs/reliability.md). Stopped, it goes on from out/reliability.jsonl.
reliability: env
	$(RUN) python -m tests.reliability $(RELIABILITY)

lint: env
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) cnncodes dvc write --check

format: env
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# The environment is made anew when pyproject.toml is newer than the last install. Python compiles what it imports; all that
# is installed would take a minute.
env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "CNN Codes needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[demo,dev]'
	touch $@

# A copy without .git, such as a downloaded zip: DVC is told so in .dvc/config.local, which git ignores.
without-git: env
	@test -e .git || git rev-parse --git-dir >/dev/null 2>&1 || $(RUN) dvc config --local core.no_scm true

# The README's, of the demo as it stands in out/; needs chromium and its driver (apt: chromium-driver).
pictures: env
	$(RUN) python -m docs.draw_pictures

clean:
	rm -rf out .cnncodes
