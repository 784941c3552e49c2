# make help   this list
# make run    make a forecast from the embedded sample
# make test   run the tests that need no servers of their own
# make test-engines  run the tests with PostgreSQL, S3, Dask, Prefect with a worker, and the report in Chromium
# make soak   run the long tests: kills, many processes, faulty exchange, fuzzing; an hour or two
# make recorded  make the recorded forecasts of the sample again and compare them; about a minute
# make check  run lint, docs, recorded and test: green before a change lands
# make lint   run ruff, mypy and import-linter
# make docs   build the pages into docs/_build/html, and run every command and block in them
# make audit  check the locked packages for known vulnerabilities
# make serve-demo  start a server, a worker and the schedule, with a local exchange
# make images  take the screenshots of the report for the docs in Chromium; five minutes
# make images-prefect  take the screenshots of Prefect's page for the docs in Chromium
# make charts  build the report's chart library with npm
# make lock   resolve the dependencies into the lock files
# make platforms  check that the locked packages have wheels for every supported platform; two minutes
# make bench  measure, and write the figures into docs/performance.md and its pages; 17 minutes
# make clean  delete environments and built pages

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without byte code every start of TensorFlow costs 20 s instead of 6.
unexport PYTHONDONTWRITEBYTECODE
# Nothing of the caller's Python leaks in, and pip asks nothing.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# --no-deps, since the lock names everything and older pips refuse a hashed lock with extras in it.
INSTALL := $(BIN)/python -m pip install --quiet --require-virtualenv --no-deps

.PHONY: help run test test-engines recorded soak check lint docs audit bench serve-demo images images-prefect charts lock platforms clean

help:
	@sed -n 's/^# \(make [a-z]\)/\1/p' Makefile

run: $(VENV)/.run
	@$(BIN)/closecast run --source sample

# `make docs` runs the blocks of the pages, `make recorded` the recorded forecasts.
test: $(VENV)/.test
	@$(BIN)/python -m pytest -m "not documents and not recorded" --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# SOAK multiplies the examples of the property tests; the other tests grow with it, too.
KILLS ?= 200
ROUNDS ?= 3
SOAK ?= 20
FUZZ_MINUTES ?= 10
BITS ?= 3000

soak: $(VENV)/.test
	$(BIN)/python tests/soak/killing.py --kills $(KILLS)
	$(BIN)/python tests/soak/crowd.py --rounds $(ROUNDS)
	SOAK=$(SOAK) $(BIN)/python -m pytest --timeout 3600 tests/tasks/prices/test_exchange_worst.py \
		tests/storage/prices/test_upsert_machine.py tests/tasks/calibration/test_tracker_properties.py tests/tasks/evaluation/test_growth.py \
		tests/tasks/network/test_training_proof.py tests/tasks/prices/test_file_dialects.py tests/test_hostile_disk.py
	$(BIN)/python tests/soak/fuzz.py --minutes $(FUZZ_MINUTES)
	$(BIN)/python tests/soak/faults.py --bits $(BITS)

# PostgreSQL and Chromium are the distribution's (apt-get install postgresql chromium), the other servers come with
# the test dependencies.
ENGINES := $(BIN)/python -m pytest --engines --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-engines: $(VENV)/.test
	@$(ENGINES) --database postgresql tests/storage/prices/test_postgresql.py tests/storage/prices/test_price_store.py \
		tests/storage/prices/test_database.py tests/storage/prices/test_upsert_machine.py tests/storage/locks/test_locks.py \
		tests/storage/tables/test_sql.py tests/tasks/prices/test_ingest.py
	@$(ENGINES) --storage s3 tests/storage/tables/test_s3.py tests/storage/tables/test_delta.py tests/storage/core/test_location.py \
		tests/storage/tables/test_predictions.py tests/storage/tables/test_scores.py tests/storage/tables/test_schemas.py
	@$(ENGINES) --database postgresql --storage s3 tests/storage/models/test_registry.py
	@$(ENGINES) tests/test_machines.py tests/flows/test_dask.py
	@$(ENGINES) -m engines tests/flows/test_deployment.py tests/flows/test_alerts.py \
		tests/flows/test_backtest.py tests/flows/test_daily_prefect.py tests/flows/test_products.py \
		tests/flows/cli/test_signals.py tests/flows/cli/test_prompt.py tests/flows/test_api.py \
		tests/tasks/training/test_pyfunc.py tests/tasks/upkeep/test_faults.py tests/browser tests/test_crowd.py \
		tests/test_installed.py

recorded: $(VENV)/.test
	@$(BIN)/python -m pytest -m recorded --timeout 1800 $(PYTEST_ARGS) tests/test_recorded_forecasts.py

check: lint docs test recorded

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A warning is an error; a fresh environment reports all of them.
docs: $(VENV)/.test
	@$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --fresh-env --quiet docs docs/_build/html
	@$(BIN)/python -m pytest -m documents --quiet tests/test_docs.py
	@echo "docs/_build/html/index.html"

audit: $(VENV)/.test
	@$(BIN)/python tests/audit.py

# The peers have an environment of their own. PyPI's PyTorch brings several GB for graphics cards;
# TORCH takes pip's options as well, such as the index that has it without them.
TORCH ?= torch==2.13.0
PEERS := .venv-bench

bench: $(VENV)/.test
	@test -x $(PEERS)/bin/python || { $(PYTHON) -m venv $(PEERS) && echo '*' > $(PEERS)/.gitignore; }
	@$(PEERS)/bin/python -c 'import torch' 2>/dev/null || $(PEERS)/bin/python -m pip install --quiet $(TORCH) 2>/dev/null || \
		{ rm -rf $(PEERS); echo "PyTorch could not be installed: its rows will say so"; }
	$(BIN)/python benchmarks/commands.py
	$(BIN)/python benchmarks/days.py
	$(BIN)/python benchmarks/training.py --torch $(PEERS)/bin/python
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/growth.py
	@$(BIN)/python benchmarks/page.py

serve-demo: $(VENV)/.run
	@$(BIN)/python -m tests.serve_demo

images: $(VENV)/.test
	$(BIN)/python tests/images.py

images-prefect: $(VENV)/.test
	@$(BIN)/python tests/picture_prefect.py

charts:
	cd charts && npm ci --no-audit --no-fund && npm run --silent build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "closecast needs Python 3.11, 3.12 or 3.13, found $$($(PYTHON) -V): make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python requirements.lock pyproject.toml
	@echo "Installing the locked dependencies into $(VENV) (3 GB, once)"
	$(INSTALL) --require-hashes --compile -r requirements.lock
	$(INSTALL) --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q closecast flows tasks storage
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements-test.lock
	@echo "Installing the test dependencies into $(VENV)"
	$(INSTALL) --require-hashes --compile -r requirements-test.lock
	@touch $@

UV := .venv-lock/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet

.venv-lock/bin/uv:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv

# A dry run: the resolver looks for a wheel of each locked package, and installs nothing.
PLATFORMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin

platforms: .venv-lock/bin/uv
	@for lock in requirements*.lock; do for platform in $(PLATFORMS); do for version in 3.11 3.12 3.13; do \
		.venv-lock/bin/uv pip install --dry-run --quiet --no-deps --require-hashes --only-binary :all: \
			--target .venv-lock/none --python-platform $$platform --python-version $$version -r $$lock || exit 1; \
		echo "$$lock: every package has a wheel for Python $$version on $$platform"; \
	done; done; done

lock: .venv-lock/bin/uv
	$(UV) --upgrade --output-file requirements.lock
	$(UV) --extra test --constraint requirements.lock --output-file requirements-test.lock
	$(UV) --extra postgresql --extra s3 --constraint requirements.lock --override requirements-image.in \
		--output-file requirements-image.lock requirements-image.in

clean:
	rm -rf $(VENV) $(PEERS) .venv-lock build *.egg-info docs/_build docs/reference/_generated
