# Every target does its own set-up, in .venv, from a bare checkout; a second run does none.
# Set-up needs python3 (3.11 or newer, with venv) and a package index that pip is configured for.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Passed on when given to make (make serve PORT=8123); otherwise the settings GRADEKEEPER_HOST, _PORT and
# _WORKERS decide. HOST is not taken from the environment: some shells and toolchains export it as something else.
HOST =
PORT ?=
WORKERS ?=
SERVE_FLAGS = $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(if $(WORKERS),--workers $(WORKERS))

# Test processes: one for each core of the smallest machine we support.
TEST_WORKERS ?= 2
# --unreachable notice goes on, loudly, where no advisory service can be asked.
AUDIT_FLAGS ?=
PYTEST_ARGS ?=

# Seconds that each fault of `make faults` lasts, and that `make soak` holds the load.
FAULT_HOLD_S ?= 5
SOAK_S ?= 600

NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done),python3)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# A stamp is named after the content it stands for, so a changed lock is installed and a touched
# file is not.
content = $(firstword $(shell cat $(1) | cksum))
STAMPS := $(VENV)/.stamps
SERVE_STAMP := $(STAMPS)/serve-$(call content,requirements/build.txt requirements/serve.txt)
TEST_STAMP := $(STAMPS)/test-$(call content,requirements/build.txt requirements/test.txt)
PROJECT_STAMP := $(STAMPS)/project-$(call content,pyproject.toml)
WORDNET_STAMP := $(STAMPS)/wordnet

# The interpreter that Python graders run in: "full" has every package of the hosted image (700 MB),
# "minimal" the standard library and rapidfuzz.
GRADEKEEPER_SANDBOX_PACKAGES ?= full
export GRADEKEEPER_SANDBOX_PACKAGES
IMAGE_TAG := 2025-05-08
IMAGE := $(VENV)/share/grader-images/$(IMAGE_TAG)
SANDBOX_STAMP := $(STAMPS)/sandbox-$(GRADEKEEPER_SANDBOX_PACKAGES)-$(call content,$(wildcard service/sandbox/images/$(IMAGE_TAG)/*))

# Make sure of a program: its name, then Debian's package of it.
from_debian = PATH="$$PATH:/usr/sbin" command -v $(1) >/dev/null || { [ "$$(id -u)" = 0 ] \
	&& { apt-get install -qq -y $(2) || { apt-get update -qq && apt-get install -qq -y $(2); }; } >/dev/null; } \
	|| { echo "The tests need $(1). On Debian and Ubuntu, as root:" >&2; echo "    apt-get install $(2)" >&2; exit 1; }

.PHONY: help serve test compat check bench faults soak fmt lock wordnet sandbox image redis haproxy promtool sbom audit manifests clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

serve: $(SERVE_STAMP) $(PROJECT_STAMP) $(WORDNET_STAMP) $(SANDBOX_STAMP)  ## serve on HOST (127.0.0.1), PORT (8080) with WORKERS (1)
	@exec $(BIN)/gradekeeper serve $(SERVE_FLAGS)

test: $(TEST_STAMP) $(PROJECT_STAMP) $(WORDNET_STAMP) $(SANDBOX_STAMP) redis haproxy promtool  ## run every test; branch coverage 100 % of graders, 95 % of service
	@$(BIN)/pytest -n $(TEST_WORKERS) -m "not serial" --cov --cov-report= $(PYTEST_ARGS)
	@$(BIN)/pytest -m "serial and not faults" --cov --cov-append --cov-report= $(PYTEST_ARGS)
	@below=; \
	$(BIN)/coverage report --include='graders/*' --fail-under=100 || below="graders: below 100 %. "; \
	$(BIN)/coverage report --include='service/*' --fail-under=95 || below="$${below}service: below 95 %."; \
	if [ "$$below" ]; then echo "Branch coverage: $$below" >&2; exit 1; fi

compat: $(TEST_STAMP) $(PROJECT_STAMP)  ## run other people's clients and trainers, from PyPI and npm, against ours
	@status=0; export COMPAT=1; \
	$(BIN)/python -m tests.compat.environments || status=1; \
	$(BIN)/pytest -n $(TEST_WORKERS) tests/compat --ignore=tests/compat/trainers $(PYTEST_ARGS) || status=1; \
	.venv-compat/trainers/bin/python -m pytest tests/compat/trainers $(PYTEST_ARGS) || status=1; \
	exit $$status

check: $(TEST_STAMP) $(PROJECT_STAMP)  ## check style, types and licences
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.tools.licences requirements/serve.txt

bench: $(TEST_STAMP) $(PROJECT_STAMP) $(WORDNET_STAMP) $(SANDBOX_STAMP) redis  ## measure speed against floors taken in the same run
	@$(BIN)/python -m tests.bench

faults: $(TEST_STAMP) $(PROJECT_STAMP) $(SANDBOX_STAMP) redis haproxy  ## break parts of a loaded cluster, one after the other
	@FAULT_HOLD_S=$(FAULT_HOLD_S) $(BIN)/pytest tests/cluster --ignore=tests/cluster/test_soak.py $(PYTEST_ARGS)

soak: $(TEST_STAMP) $(PROJECT_STAMP) $(SANDBOX_STAMP) redis haproxy  ## hold a cluster at full load for SOAK_S (600) seconds, check every reward
	@$(BIN)/python -m tests.cluster.soak --seconds $(SOAK_S)

fmt: $(TEST_STAMP)  ## format the code and apply the safe fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

lock: $(BIN)/python  ## renew the hash-pinned locks; UPGRADE=1 takes the newest versions
	@$(PIP) install --quiet --quiet --require-hashes -r requirements/lock.txt
	@requirements/compile.sh $(if $(UPGRADE),--upgrade)

wordnet: $(BIN)/python  ## try again to get WordNet, which METEOR needs
	@rm -f $(WORDNET_STAMP)
	@$(MAKE) $(WORDNET_STAMP)

sandbox: $(PROJECT_STAMP)  ## try again to build the image of Python graders
	@rm -f $(SANDBOX_STAMP)
	@$(MAKE) $(SANDBOX_STAMP)

image:  ## build both container images and prove them (Debian, as root); see deploy/verify-image
	@deploy/verify-image --packages $(GRADEKEEPER_SANDBOX_PACKAGES)

sbom: $(TEST_STAMP) $(PROJECT_STAMP)  ## write bills of materials (CycloneDX) into build/sbom
	@$(BIN)/python -m tests.tools.sbom build/sbom

audit: $(TEST_STAMP)  ## look every pinned dependency up in the public advisories; needs their services
	@$(BIN)/python -m tests.tools.audit $(AUDIT_FLAGS)

manifests: $(TEST_STAMP)  ## render the Kubernetes manifests again; needs kubectl
	@$(BIN)/python -m tests.tools.manifests

redis:  ## make sure there is a Redis server for the tests
	@$(call from_debian,redis-server,redis-server)

haproxy:  ## make sure there is the load balancer for the tests
	@$(call from_debian,haproxy,haproxy)

promtool: $(BIN)/python  ## make sure there are promtool and prometheus for the tests
	@requirements/promtool.sh $(BIN)

clean:  ## remove everything that make and the tools have made
	rm -rf $(VENV) .venv-compat .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find graders service tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "gradekeeper needs Python 3.11 or newer, and there is no $(PYTHON) here." >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
		echo "gradekeeper needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
		echo "Name another one: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) -V)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu, as root:" >&2; \
		echo "    apt-get install python3-venv" >&2; exit 1; }

$(STAMPS): | $(BIN)/python
	@mkdir -p $@

$(SERVE_STAMP): | $(STAMPS)
	@echo "Installing what gradekeeper runs on"
	@rm -f $(STAMPS)/serve-* $(STAMPS)/test-*
	@$(PIP) install --quiet --quiet --require-hashes -r requirements/build.txt -r requirements/serve.txt
	@touch $@

# The test lock holds all of the serve lock. The build lock goes first: one test dependency is
# published as source only and is built with the pinned tools instead of ones picked by pip.
$(TEST_STAMP): | $(STAMPS)
	@echo "Installing what gradekeeper runs on and is tested with"
	@rm -f $(STAMPS)/serve-* $(STAMPS)/test-*
	@$(PIP) install --quiet --quiet --require-hashes -r requirements/build.txt
	@$(PIP) install --quiet --quiet --require-hashes --no-build-isolation -r requirements/test.txt
	@touch $@ $(SERVE_STAMP)

$(PROJECT_STAMP): | $(SERVE_STAMP)
	@rm -f $(STAMPS)/project-*
	@$(PIP) install --quiet --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(WORDNET_STAMP): | $(STAMPS)
	@requirements/wordnet.sh $(VENV)/share/wordnet
	@touch $@

# Without an image everything but Python graders works, and those say what is missing.
$(SANDBOX_STAMP): | $(PROJECT_STAMP)
	@mkdir -p $(dir $(IMAGE))
	@rm -f $(STAMPS)/sandbox-*
	@$(BIN)/python -m service.sandbox.build_image $(IMAGE_TAG) --into $(IMAGE) \
		--packages $(GRADEKEEPER_SANDBOX_PACKAGES) && touch $@ \
		|| echo "Python graders are not available until \"make sandbox\" works." >&2
