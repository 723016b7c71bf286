# make demo    build examples/hello for two architectures, push it and look at it
# make demo-delivery   examples/node-app from commits to a canary in production, with a bad one taken back
# make test    everything that CI runs; sets up its own environment
# make bench   side by side with docker buildx
# make bench-metadata   write latencies of the metadata stores, answers of the cache in levels
# make bench-builders   builds on 1, 2 and 4 nodes, side by side with docker buildx
# make bench-copy   `shipline copy` side by side with skopeo and oras
# make bench-registry   the registry node side by side with docker-registry
# make bench-regions   pulls over a long line: direct, edge, CDN, docker-registry's proxy, nginx
# make audit   known vulnerabilities of what is installed
# make dist    packages in dist/: a wheel, an sdist, one file with all dependencies, a Debian package
# make site    the documentation as a site in site/
# make screenshots   docs/screenshots and docs/recordings, from real runs
# make fuzz TARGET=tar   ten minutes of atheris; targets in tests/fuzz/targets.py
# make check   formatting, types and unit tests only

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# where files wait for no disk, if two gigabytes are free there
MEMORY := $(firstword $(shell findmnt -nbo AVAIL,OPTIONS /dev/shm 2> /dev/null | awk '$$1 > 2e9 && $$2 !~ /noexec/ {print "/dev/shm"}') $(TMPDIR) /tmp)
UNIT := tests/unit tests/test_floors.py tests/test_public_names.py tests/test_licences.py -m "not root and not slow"

unexport PYTHONDONTWRITEBYTECODE  # tests start hundreds of interpreters
export HYPOTHESIS_NO_PLUGINS := 1  # one is trio's, which each worker would import

.PHONY: audit demo demo-delivery dist site test check types all-tests unit-tests fuzz bench bench-builders bench-copy bench-metadata bench-regions bench-registry screenshots packages clean

demo: packages $(VENV)/.installed
	$(BIN)/python examples/demo.py

demo-delivery: packages $(VENV)/.installed
	$(BIN)/python examples/delivery.py

test: packages $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests examples bench
	$(BIN)/ruff check src tests examples bench
	$(MAKE) --no-print-directory -j 2 types all-tests

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests examples bench
	$(BIN)/ruff check src tests examples bench
	$(MAKE) --no-print-directory -j 2 types unit-tests

# beside each other: mypy has one process, and tests wait for what they start
types:
	$(BIN)/mypy

all-tests: tests/__pycache__
	MAKEFLAGS= $(BIN)/python -m pytest -n 5 --dist worksteal -o tmp_path_retention_policy=failed --hypothesis-profile=all

# compiled once, not by each worker
tests/__pycache__:
	-MAKEFLAGS= $(BIN)/python -m pytest --collect-only > /dev/null

unit-tests:
	MAKEFLAGS= TMPDIR=$(MEMORY) $(BIN)/python -m pytest -n 5 --dist worksteal -o tmp_path_retention_policy=failed $(UNIT)

audit: $(VENV)/.installed
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	$(BIN)/python -m pip freeze --exclude-editable > .audit/requirements.txt
	.audit/bin/pip-audit --requirement .audit/requirements.txt --no-deps --disable-pip

dist:
	sh scripts/dist.sh

site:
	sh scripts/site.sh

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	cd tests && ../$(BIN)/python -m fuzz $(TARGET) ../.fuzz/$(TARGET) -max_total_time=600 -timeout=10 -rss_limit_mb=2000

bench: packages $(VENV)/.installed
	$(BIN)/python -m bench.build $(BENCH)

bench-builders: packages $(VENV)/.installed-dev
	$(BIN)/python -m bench.builders $(BENCH)

bench-copy: packages $(VENV)/.installed
	$(BIN)/python -m bench.copying $(BENCH)

bench-metadata: packages $(VENV)/.installed-dev
	$(BIN)/python -m bench.metadata $(BENCH)

bench-regions: packages $(VENV)/.installed-dev
	$(BIN)/python -m bench.regions $(BENCH)

bench-registry: packages $(VENV)/.installed
	$(BIN)/python -m bench.registry $(BENCH)

screenshots: packages $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/screenshots.py tests/recordings.py

packages:
	@sh scripts/packages.sh
	@sh scripts/peers.sh > /dev/null

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .audit .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz
