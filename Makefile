# Every target makes .venv and installs what it needs from nothing, in the versions that locks/ names; the stamp says that
# this was done. PYTHON makes the environments; those that are there keep theirs.
PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13,$(shell command -v $(python) >/dev/null && \
	$(python) --version >/dev/null 2>&1 && echo $(python))) python3)
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
WHAT_IS_INSTALLED := pyproject.toml setup.py .ci/install

.PHONY: demo test test-lowest test-newest browser lint mini mini-flow evidence evidence-full speed install lock helper-imports

# the embedded model that the demo is of, mini or mini-flow, and whose speed is measured
MODEL ?= mini
demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --model $(MODEL)

# with compiled modules kept, also where the shell says otherwise: the tests start many processes that read them
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# the whole suite with the lowest versions that pyproject.toml admits, and with the newest of today
test-lowest: .venv-lowest/.installed
	PYTHONDONTWRITEBYTECODE= .venv-lowest/bin/python -m pytest

test-newest:
	PYTHON=$(PYTHON) .ci/install .venv-newest newest
	PYTHONDONTWRITEBYTECODE= .venv-newest/bin/python -m pytest

browser: $(STAMP)
	.ci/browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# after a change of imports at the root of ubgen_pipeline: see docs/extend.md
helper-imports: $(STAMP)
	$(BIN)/python tests/support/helper_imports.py

mini: $(STAMP)
	$(BIN)/python training/train_mini.py

mini-flow: $(STAMP)
	$(BIN)/python training/train_mini_flow.py

# stopped and started again, both go on; they share what they can
evidence: $(STAMP)
	$(BIN)/python -m benchmarks.evidence

evidence-full: $(STAMP)
	$(BIN)/python -m benchmarks.evidence --config benchmarks/evidence/full.yaml

# the tables of results/speed.md and results/training_speed.md; on a GPU: make speed MODEL=random-sd15,
# or random-sdxl, random-sd35-medium, random-z-image, random-flux2-klein-base-4b for the speed of generation alone
GENERATION_ALONE := $(filter-out random-sd15,$(filter random-%,$(MODEL)))
speed: $(STAMP)
	$(BIN)/python -m benchmarks.generation_speed --model $(MODEL) $(if $(GENERATION_ALONE),,--minutes 3)
ifeq ($(GENERATION_ALONE),)
	$(BIN)/python -m benchmarks.training_speed --model $(MODEL)
	$(BIN)/python -m benchmarks.writer_share --model $(MODEL) $(if $(filter random-%,$(MODEL)),--codecs png)
	$(BIN)/python -m benchmarks.annotation_overhead --layouts $(subst random-,,$(MODEL))
endif

install: $(STAMP)

# the newest versions become those that are installed and tested: run the tests, then commit locks/
lock:
	PYTHON=$(PYTHON) .ci/lock

$(STAMP): $(WHAT_IS_INSTALLED) $(wildcard locks/*.txt)
	PYTHON=$(PYTHON) .ci/install $(VENV)
	touch $@

.venv-lowest/.installed: $(WHAT_IS_INSTALLED) $(wildcard locks/*-lowest.txt)
	PYTHON=$(PYTHON) .ci/install .venv-lowest lowest
	touch $@
