# The gates are here; pre-commit, .ci/run and .github call these targets and nothing else.
# Paths are relative and tools run as `python -m`, so a checkout below a folder with spaces works.
.PHONY: setup demo check test test-full test-real chaos format lock clean
.DEFAULT_GOAL := setup

# The first of these that is Python 3.11; `make PYTHON=/path/to/python3.11` overrides it.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo "$$p" && break; done)
PY := .venv/bin/python
UV := $(PY) -m uv
PYTEST := $(PY) -m pytest
# Side by side, a core each; tests with Ray have the machine for themselves.
SIDE_BY_SIDE := -n logical --maxprocesses=8
UNIT := OMP_NUM_THREADS=1 $(PYTEST) tests/unit $(SIDE_BY_SIDE)
TRAINING := OMP_NUM_THREADS=1 $(PYTEST) tests/unit/training $(SIDE_BY_SIDE)
RING := $(PYTEST) tests --ignore=tests/unit

setup: .venv/.stamp

# Two stamps, so that an edit of pyproject.toml does not touch the packages: uv takes decord's wheel
# tag (cp36) for foreign and would reinstall it under whatever runs.
.venv/.stamp: pyproject.toml .venv/.stamp-lock
	$(UV) pip install --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.stamp-lock: requirements.txt | .venv/bin/uv
	@echo "setup: installing requirements.txt into .venv (about 5 GB with torch)"
	$(UV) pip install --python $(PY) -r requirements.txt
	@touch $@

.venv/bin/uv:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 found; give make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv

demo: setup
	$(PY) jobs/demo.py

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(UNIT) -m "not full"

test: check
	$(RING) -m "not full and not chaos"

# In two: ranks are forked, which torch refuses once a process has compiled a network.
test-full: check
	$(UNIT) -m full --ignore=tests/unit/training
	$(TRAINING) -m full
	$(RING) -m "not chaos"

# Jobs on several nodes with their own addresses (network namespaces: as root), and what becomes of
# them when workers, nodes, drivers, heads, networks, disks and S3 fail; the table is in outputs/.
chaos: setup
	@mkdir -p outputs
	AVS_CHAOS_TABLE=outputs/chaos.md $(PYTEST) tests/chaos

test-real: setup
	$(UNIT) -m real_data
	$(RING) -m real_data

format: setup
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# Keeps the versions that stand where they still fit; `make lock LOCK=--upgrade` takes the newest.
lock: | .venv/bin/uv
	$(UV) pip compile pyproject.toml --extra dev --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --no-header --no-annotate --quiet $(LOCK) \
		--output-file requirements.txt
	sed -i '1i # The full lock for Linux x86-64 and Python 3.11, made by: make lock' requirements.txt

clean:
	rm -rf .venv outputs build .mypy_cache .ruff_cache .pytest_cache platform/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
