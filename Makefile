# Every target makes .venv and installs what it needs from nothing.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/
STAMP := $(VENV)/.installed

.PHONY: demo test lint mini install
install: $(STAMP)

# torchvision first and without a version of torch: it names the torch build it was made for
$(STAMP): pyproject.toml setup.py
	command -v $(PYTHON) >/dev/null && $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(RUN)python -m pip install --quiet torchvision
	$(RUN)python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(RUN)python benchmarks/demo.py

test: $(STAMP)
	$(RUN)python -m pytest

lint: $(STAMP)
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)pyright

mini: $(STAMP)
	$(RUN)python training/train_mini.py
