# `make run` sets up and trains; `make test` sets up and checks. A second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin
# Debian's packages are taken where we may: as root, with apt. Elsewhere the data are downloaded
# and the browser tests say that they are skipped.
APT := $(shell test "$$(id -u)" = 0 && command -v apt-get)
DATA := /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz
CHROMIUM := /usr/bin/chromium

.PHONY: run test zoo check fix sanitize sarif axe triton gpu bench doctor-score clean

run: .venv/kernels.stamp $(if $(APT),$(DATA))
	$(BIN)/batchnorm train

# A process a core, each with one thread; the examples of one page build on each other, so files stay whole.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

# Other people's networks are converted, folded and exported, in some minutes.
zoo: .venv/zoo.stamp .venv/kernels.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m zoo tests/zoo

check: .venv/dev.stamp .venv/kernels.stamp $(if $(APT),$(DATA) $(CHROMIUM))
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/dev.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The kernels with the address and undefined-behaviour sanitizers, in a copy of the package.
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize: check
	rm -rf build/sanitize && mkdir -p build && cp -r src build/sanitize
	CXXFLAGS='$(SANITIZERS) -O1 -g' LDFLAGS='$(SANITIZERS)' $(BIN)/python build/sanitize/batchnorm/ops/build.py --force
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 PYTHONPATH=build/sanitize \
	$(BIN)/python -m pytest -q -n auto --dist loadfile -k 'native and not compiled' tests/conformance

# The doctor's SARIF against the schema, which Microsoft's validator brings along on npm.
sarif: .venv/zoo.stamp
	mkdir -p build && npm pack --silent --pack-destination build @microsoft/sarif-multitool-linux@5.7.0
	tar -xzf build/microsoft-sarif-multitool-linux-5.7.0.tgz -C build package/sarif-2.1.0.json
	SARIF_SCHEMA=$(CURDIR)/build/package/sarif-2.1.0.json $(BIN)/python -m pytest -q -k sarif tests/cli/test_doctor.py

# The pages against WCAG 2.1, as far as axe-core from npm can see.
axe: .venv/dev.stamp $(if $(APT),$(CHROMIUM))
	mkdir -p build && npm pack --silent --pack-destination build axe-core@4.14.1
	tar -xzf build/axe-core-4.14.1.tgz -C build package/axe.min.js
	AXE=$(CURDIR)/build/package/axe.min.js $(BIN)/python -m pytest -q -k axe tests/report/test_accessibility.py

# The whole conformance suite on the Triton kernels, in Triton's interpreter: some minutes without a GPU.
triton: check
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -k 'native or opcheck or triton or processes_together' \
	tests/conformance tests/nn/test_lean.py tests/nn/test_synced.py tests/ops

# What only a card can show; the environment needs a torch that knows it.
gpu: check
	$(BIN)/python -m pytest -q -m gpu tests

# The table of docs/kernels.md, in some minutes on a quiet machine.
bench: .venv/kernels.stamp
	$(BIN)/batchnorm bench --peers torch,inplace,copy --pairs 9

# What the doctor says about the situations of public reports, and how often it is right.
doctor-score: check
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.doctor.cases

clean:
	rm -rf .venv build src/*.egg-info src/batchnorm/ops/_native.so

.venv/pip.stamp:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

.venv/run.stamp: .venv/pip.stamp pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train]'
	@touch $@

.venv/dev.stamp: .venv/run.stamp
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev
	@touch $@

.venv/zoo.stamp: .venv/dev.stamp
	$(BIN)/pip install --quiet --constraint constraints.txt --group zoo
	$(BIN)/pip install --quiet --no-deps pytorchcv==0.0.67
	@touch $@

# The kernels are optional: what cannot be compiled is said in one line, and all else works.
.venv/kernels.stamp: .venv/run.stamp src/batchnorm/ops/build.py $(wildcard src/batchnorm/ops/csrc/*)
	-$(BIN)/python src/batchnorm/ops/build.py
	@touch $@

$(DATA):
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends dataset-fashion-mnist

$(CHROMIUM):
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium
