# make run     the whole pipeline on phantoms, from nothing: environment, scans, training, evaluation, registered version
# make test    checks and tests                     make test-slow   the long ones as well
# make test-cluster   training on a real Slurm cluster of two nodes, started here; as root it installs Slurm (apt) if it is missing
# make test-quick   within 90 s what starts no servers, ranks or whole runs: for the loop while you work
# make drills  kill training at 20 random moments, let its ranks hang, kill preprocessing at 10 moments, compare results
# make attacks   the attacks and faults that were tried on the product: each must be held
# make bench   the data path, the metrics and predictions against nnU-Net, batchgeneratorsv2, MONAI and surface-distance, on
#              the scans in DATA=DIR if it is given
# make brats   the metrics against brats-evaluate on the BraTS cases in DATA=DIR
# make scale   what 15,000 scans cost: verify, status, one more scan
# make check   format, lint, types, import rules, container files    make format      put format and imports in order
# make lock    both locks from pyproject.toml, every version as it is; the newest of packages in UPGRADE="NAME NAME"
#
# .venv is made from LOCK, every file checked by its sha256: requirements.lock, with PyTorch's CPU build, where pip finds that
# build (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu), else requirements-gpu.lock, with the build of PyPI, which
# on Linux brings the CUDA libraries. make LOCK=FILE names one.
PYTHON ?= python3
BIN := .venv/bin
# A process more than cores; files in the order of tests/conftest.py, the longest first.
PYTEST := $(BIN)/python -m pytest -n auto --no-loadscope-reorder --durations 15
PACKAGES := flows pipelines model tests benchmarks
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# The file of PyTorch's CPU build for Python 3.11 on x86-64 Linux, which PyPI does not have; as pip hash prints it.
TORCH_CPU := sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
CPU_BUILD = grep --after-context=1 ^torch== requirements.lock
LOCK ?= $$($(CPU_BUILD) | $(PIP) --quiet --dry-run --no-deps --require-hashes --requirement /dev/stdin 2> /dev/null && \
    echo requirements.lock || echo requirements-gpu.lock)

.PHONY: run test test-quick test-slow test-cluster drills attacks bench brats scale check format lock clean
run: .venv/ready
	$(BIN)/medseg run
	@echo "To type medseg as it is printed: source $(BIN)/activate"

test: .venv/ready check
	$(PYTEST) -m "not slow"

test-quick: .venv/ready
	$(BIN)/ruff check $(PACKAGES)
	$(PYTEST) -m "not slow" --quick

test-slow: .venv/ready
	$(PYTEST)

test-cluster: .venv/ready
	@export PATH="$$PATH:/usr/sbin"; command -v munged slurmctld slurmd sbatch > /dev/null || \
	    { apt-get update && apt-get install --yes --no-install-recommends slurm-wlm munge; } || \
	    echo "Slurm could not be installed: its tests are skipped"
	$(BIN)/python -m pytest -n 0 -m cluster --durations 0 tests/pipelines/training/test_on_clusters.py

drills: .venv/ready
	$(BIN)/python -m benchmarks.drills
	$(BIN)/python -m benchmarks.preprocess_drills

attacks: .venv/ready
	$(BIN)/python -m benchmarks.attacks

scale: .venv/ready
	$(BIN)/python -m benchmarks.scale

bench: .venv/ready .bench/ready
	$(BIN)/python -m benchmarks.data $(if $(DATA),--data $(DATA))
	$(BIN)/python -m benchmarks.evaluation $(if $(DATA),--data $(DATA))
	$(BIN)/python -m benchmarks.predict $(if $(DATA),--data $(DATA))

brats: .venv/ready .bench-brats/ready
	$(BIN)/python -m benchmarks.brats $(DATA)

check: .venv/ready
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict docker
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose*.yaml
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/kubernetes-validate --quiet --strict docker/kubernetes/[!k]*.yaml

format: .venv/ready
	$(BIN)/ruff format $(PACKAGES)
	$(BIN)/ruff check --fix $(PACKAGES)

.venv/ready: requirements.lock requirements-gpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@lock=$(LOCK); echo "Making the environment in .venv from $$lock (3 GB, more with CUDA; some minutes)"; \
	$(PIP) --quiet --require-hashes --requirement $$lock
	$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.bench/ready: benchmarks/peers.lock
	@echo "Making the peers' environment in .bench (3 GB, some minutes)"
	$(PYTHON) -m venv .bench
	.bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.lock
	@touch $@

.bench-brats/ready: benchmarks/brats.lock
	@echo "Making the environment of brats-evaluate in .bench-brats (1 GB)"
	$(PYTHON) -m venv .bench-brats
	.bench-brats/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/brats.lock
	@touch $@

lock:
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@cp requirements-gpu.lock .venv/lock/all.lock
	.venv/lock/bin/uv pip compile --quiet --no-header --no-strip-extras --universal --python-version 3.11 --extra dev --extra servers \
	    --generate-hashes $(addprefix --upgrade-package ,$(UPGRADE)) --output-file .venv/lock/all.lock pyproject.toml
	@awk -v cpu=$(TORCH_CPU) ' \
	    /^[a-z]/ { part = /^(cuda|nvidia|triton)/ ? "cuda" : /^torch==/ ? "torch" : /^[^ ]*\[/ ? "extras" : "plain" } \
	    /^torch==/ { cpu = $$1 "+cpu \\\n    --hash=" cpu } \
	    { text[part] = text[part] $$0 "\n" } \
	    END { head = "# Made by make lock. First what has extras: pip before 23.3 would look for other versions of it."; \
	          print head "\n" text["extras"] text["plain"] cpu > "requirements.lock"; \
	          printf head "\n" text["extras"] text["cuda"] text["plain"] text["torch"] > "requirements-gpu.lock" } \
	' .venv/lock/all.lock

clean:
	rm -rf .venv .bench .bench-brats
