# make demo: installs, trains a small denoiser on bundled photographs, analyses it and then, in little, the trained model of
# pretrained/, and prints where the reports are.
# make test: installs, runs the test suite.
# make bench TORCH_PYTHON=PATH: times this program against PyTorch, for up to ten minutes, and compares with recorded ratios; see benchmarks/README.md.
# make faults: installs, attacks every command and prints what survived (docs/reliability.md), for up to half an hour; LONG=1 for hours.
# All build .venv from requirements.lock when it is missing or older than the lock; PYTHON=... chooses the interpreter.

BIN := .venv/bin
INSTALLED := .venv/installed
PYTHON ?=
TORCH_PYTHON ?=
BENCH_FLAGS ?=
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Less than a minute of analysis.
LITTLE := --config.analysis.images=64 "--config.analysis.sigmas=(0.0,50.0,100.0)" --config.analysis.draws=1 \
  "--config.analysis.clusters=(4,)" --config.analysis.untrained_images=64 --config.analysis.memory_images=64 \
  --config.analysis.spectrum_images=2000 --config.analysis.copy_images=1000 --config.analysis.samples=4 --config.analysis.sample_beta=0.4

.PHONY: demo test bench faults lint install clean

demo: $(INSTALLED)
	@# A demo of an older version, which the new settings would not continue (exit code 2), is made anew.
	$(BIN)/python train.py --config configs/demo.py || { [ $$? -eq 2 ] && $(BIN)/python train.py --config configs/demo.py --fresh; }
	$(BIN)/python analyze.py --ckpt runs/demo
	$(BIN)/python analyze.py --images photographs --only denoising sparsity samples explorer $(LITTLE)

test: $(INSTALLED)
	@# A worker for each core, four at most; a file's tests stay together, for they share what is slow to make; slow files first.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench: $(INSTALLED)
	@[ -n "$(TORCH_PYTHON)" ] || { echo "make bench needs TORCH_PYTHON=PATH: a Python that has benchmarks/requirements.txt." >&2; exit 2; }
	$(BIN)/python benchmarks/compare.py --bench --minutes 9.5 --torch-python "$(TORCH_PYTHON)" $(BENCH_FLAGS)

faults: $(INSTALLED)
	$(BIN)/python tests/faults $(if $(LONG),--long) $(FAULTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@python="$(PYTHON)"; \
	for candidate in python3.12 python3.11 python3 python; do \
	  [ -n "$$python" ] && break; \
	  $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$$candidate; \
	done; \
	[ -n "$$python" ] || { echo "Python 3.11 or newer, with venv, was not found; install it, or say make PYTHON=/path/to/python." >&2; exit 2; }; \
	echo "Installing into .venv with $$($$python --version) (about a minute, 1.2 GB)"; \
	rm -rf .venv && $$python -m venv .venv && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)

clean:
	rm -rf .venv build *.egg-info
