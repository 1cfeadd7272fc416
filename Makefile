# make run     the whole pipeline on phantoms, from nothing: environment, scans, training, evaluation, registered version
# make test    checks and tests                     make test-slow   the long ones as well
# make drills  kill training at 20 random moments, preprocessing at 10, and compare the results
# make bench   the data path against nnU-Net, batchgeneratorsv2 and MONAI, on the scans in DATA=DIR if it is given
# make scale   what 15,000 scans cost: verify, status, one more scan
# make check   format, lint, types, import rules    make format      put format and imports in order
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := flows pipelines model tests benchmarks

.PHONY: run test test-slow drills bench scale check format clean
run: .venv/ready
	$(BIN)/medseg run

test: .venv/ready check
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/ready
	$(BIN)/python -m pytest

drills: .venv/ready
	$(BIN)/python -m benchmarks.drills
	$(BIN)/python -m benchmarks.preprocess_drills

scale: .venv/ready
	$(BIN)/python -m benchmarks.scale

bench: .venv/ready .bench/ready
	$(BIN)/python -m benchmarks.data $(if $(DATA),--data $(DATA))

check: .venv/ready
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff format $(PACKAGES)
	$(BIN)/ruff check --fix $(PACKAGES)

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with make PYTHON=python3.11")'
	@echo "Making the environment in .venv (2 GB, some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.bench/ready: benchmarks/peers.lock
	@echo "Making the peers' environment in .bench (3 GB, some minutes)"
	$(PYTHON) -m venv .bench
	.bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.lock
	@touch $@

clean:
	rm -rf .venv .bench
