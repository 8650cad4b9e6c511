# The commands of a contributor. `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OLDEST = .venv-oldest
NEWEST = .venv-newest
CORPUS = .venv-corpus
export RAY_USAGE_STATS_ENABLED = 0

# SEED is the seed of `make soak`, `make chaos` and `make chaos-network`. ONLY selects tests of `make soak`, like `pytest -k`.
SEED ?= $(shell date +%s)
ONLY ?=

# The duration of `make chaos` and `make chaos-network`.
SECONDS ?= 600

# Tests that start no cluster: a process for each core runs a part of them.
WITHOUT_CLUSTER = tests/api tests/architecture tests/browser tests/conformance/test_in_process.py \
	tests/conformance/test_remote.py tests/corpus tests/explored tests/faults tests/fuzz tests/scale tests/unit
PARALLEL = -n logical --maxprocesses 8 --dist worksteal

# A test on a cluster keeps less than one core busy: two files at a time are tested, each on clusters of its own.
# The faults of some files, and the limits that they set, are those of the whole machine.
SIDE_BY_SIDE = -n 2 --dist loadfile --no-loadscope-reorder
ALONE = tests/cluster/test_capacity.py tests/cluster/test_chaos.py tests/cluster/test_network.py
DOCTESTS = --doctest-modules polystore polystore_ray examples/sqlite_backend.py \
	--ignore=polystore_ray/demo --ignore=polystore/formats/torch.py --ignore=tests/fuzz/fuzzing.py

.PHONY: help demo test test-fast check docs architecture bench soak chaos chaos-network corpus \
	test-oldest test-newest dist \
	test-wheel clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

demo: $(VENV)/.demo  ## Run the demo: segment photographs in Ray tasks; results in demo-out/
	$(BIN)/python -m polystore_ray.demo --out demo-out

test: check docs  ## Run all checks, the examples of the documentation, and all tests
	$(BIN)/python -m pytest $(PARALLEL) $(WITHOUT_CLUSTER) $(DOCTESTS)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests examples $(addprefix --ignore=,$(WITHOUT_CLUSTER) $(ALONE))
	$(BIN)/python -m pytest $(ALONE)

test-fast: $(VENV)/.all  ## Run the tests that start no cluster, in about three minutes
	$(BIN)/python -m pytest -q $(PARALLEL) tests/api tests/architecture tests/explored tests/unit \
		tests/conformance/test_in_process.py $(DOCTESTS)

check: $(VENV)/.all  ## Check style, format, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.all  ## Build the documentation and run its examples
	$(BIN)/python -m sphinx -q -W --keep-going -d docs/_build/doctrees -b html docs docs/_build/html
	$(BIN)/python -m sphinx -q -W -d docs/_build/doctrees -b doctest docs docs/_build/doctest

architecture: $(VENV)/.all  ## Draw the packages and trace the calls into docs/architecture/
	PYTHONPATH=. $(BIN)/python tests/architecture/drawing.py
	PYTHONPATH=. $(BIN)/python tests/architecture/trips.py

bench: $(VENV)/.bench  ## Measure, and compare with NumPy, zarr and plain Ray
	$(BIN)/python tests/bench/core.py
	$(BIN)/python tests/bench/memory.py
	$(BIN)/python tests/bench/leases.py
	$(BIN)/python tests/bench/waiting.py
	$(BIN)/python tests/bench/streaming.py
	PYTHONPATH=. $(BIN)/python tests/scale/simulation.py
	$(BIN)/python tests/bench/nodes.py
	$(BIN)/python tests/bench/reliability.py
	$(BIN)/python tests/bench/hosted.py
	$(BIN)/python tests/bench/transfers.py
	$(BIN)/python tests/bench/ecosystem.py
	$(BIN)/python tests/bench/arrays.py
	$(BIN)/python tests/bench/programs.py
	$(BIN)/python tests/bench/scaling.py
	$(BIN)/python tests/bench/plate.py
	$(BIN)/python tests/bench/picture.py

soak: $(VENV)/.all $(VENV)/.fuzz  ## Run the model, the fuzzers, kills and races for hours [ONLY="fuzz or kill"] [SEED=1]
	POLYSTORE_MODEL_SECONDS=600 $(BIN)/python -m pytest tests/stateful tests/explored tests/fuzz tests/faults \
		tests/cluster/test_zarr_writers.py --hypothesis-profile=soak \
		--hypothesis-seed=$(SEED) --timeout=0 --durations=0 -k "$(ONLY)"

corpus: $(CORPUS)/.all  ## Load, save and compare files and hierarchies of independent writers
	POLYSTORE_CORPUS=all $(CORPUS)/bin/python -m pytest tests/corpus

chaos: $(VENV)/.all  ## Inject faults into a cluster, and check what clients saw [SECONDS=600] [SEED=1]
	$(BIN)/python -m polystore_ray.testing --seconds $(SECONDS) --seed $(SEED) \
		--report docs/performance/chaos.txt

chaos-network: $(VENV)/.all  ## The same in a separate network that is cut, slow and lossy; as root [SECONDS=600] [SEED=1]
	$(BIN)/python -m polystore_ray.testing --network --seconds $(SECONDS) --seed $(SEED) \
		--report docs/performance/chaos-network.txt

test-oldest: $(OLDEST)/.all  ## Run the tests with the oldest allowed versions
	$(OLDEST)/bin/python -m pytest tests examples --ignore tests/docs \
		--ignore tests/browser/test_docs_width.py

test-newest: $(NEWEST)/.all  ## Run the tests with the newest versions and the Python in PYTHON
	$(NEWEST)/bin/python -m pytest $(PARALLEL) tests/unit tests/api tests/fuzz \
		tests/conformance/test_in_process.py
	$(NEWEST)/bin/python -m pytest tests/ecosystem tests/cluster/test_sharing.py \
		tests/cluster/test_zarr_writers.py

dist: $(VENV)/.all  ## Build the sdist, and from it the wheel, into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

test-wheel: dist  ## Install the wheel into an empty environment; run the demo and a type checker there
	$(PYTHON) tests/packaging/wheel.py dist/*.whl

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.all: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
		-e '.[demo,docs,tests]'
	touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.all
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# Without it where it has no wheel: then the targets take their examples only.
$(VENV)/.fuzz: $(VENV)/.all
	-$(BIN)/python -m pip install -q --disable-pip-version-check --only-binary atheris \
		-c constraints.txt -e '.[fuzz]'
	touch $@

$(NEWEST)/.all: pyproject.toml constraints-newest.txt
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q --disable-pip-version-check \
		-c constraints-newest.txt -e '.[tests]'
	touch $@

$(OLDEST)/.all: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check -c constraints-oldest.txt \
		-e '.[demo,tests]'
	touch $@

# Of its own, since some of these packages want older versions than the constraints.
$(CORPUS)/.all: pyproject.toml
	$(PYTHON) -m venv $(CORPUS)
	$(CORPUS)/bin/python -m pip install -q --disable-pip-version-check -e '.[demo,tests]' \
		anndata ome-zarr opencv-python-headless tensorstore
	touch $@

clean:  ## Remove the output of all targets
	rm -rf $(VENV) $(OLDEST) $(CORPUS) build dist *.egg-info docs/_build demo-out .mypy_cache .pytest_cache \
		.ruff_cache .import_linter_cache .hypothesis
