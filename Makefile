# make demo | make test | make test-all | make e2e | make lint
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP := $(PY) -m pip install -q --disable-pip-version-check
# Where there is no NVIDIA GPU: PyTorch's CPU builds. pip passes over an index that it cannot reach.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu)

.PHONY: demo test test-all e2e lint clean

$(STAMP): pyproject.toml requirements.txt
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $(shell grep ^torch== requirements.txt))
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	touch $@

demo: $(STAMP)
	$(VENV)/bin/softguard distill --config configs/demo.toml --out runs/demo

test: $(STAMP)
	-$(VENV)/bin/softguard models pull minilm-l6  # the tests of the embedded guard skip without it
	$(PY) -m pytest -n 2

test-all: $(STAMP)
	$(PY) -m pytest -m ""

e2e: $(STAMP)
	$(PY) -m pytest -m slow tests/e2e

lint: $(STAMP)
	$(VENV)/bin/ruff check src tests examples benchmarks && $(VENV)/bin/ruff format --check src tests examples benchmarks
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy src/softguard

clean:
	rm -rf $(VENV)
