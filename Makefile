# Every target makes .venv and installs what it needs from nothing; the stamp says that this was done.
PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: demo test browser lint mini evidence evidence-full speed install

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

test: $(STAMP)
	$(BIN)/python -m pytest

browser: $(STAMP)
	.ci/browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

mini: $(STAMP)
	$(BIN)/python training/train_mini.py

# stopped and started again, both go on; they share what they can
evidence: $(STAMP)
	$(BIN)/python -m benchmarks.evidence

evidence-full: $(STAMP)
	$(BIN)/python -m benchmarks.evidence --config benchmarks/evidence/full.yaml

# the tables of docs/performance.md; on a GPU: make speed MODEL=random-sd15
MODEL ?= mini
speed: $(STAMP)
	$(BIN)/python -m benchmarks.generation_speed --model $(MODEL)
	$(BIN)/python -m benchmarks.training_speed --model $(MODEL)
	$(BIN)/python -m benchmarks.writer_share --model $(MODEL)
	$(BIN)/python -m benchmarks.annotation_overhead --layouts $(subst random-,,$(MODEL))

install: $(STAMP)

# torchvision first: it names the one build of torch that it was made for, so that no other torch can slip in
$(STAMP): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torchvision
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
