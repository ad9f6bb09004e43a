# Every target sets up what it needs: a virtual environment in .venv, dependencies, an editable installation.
# BASE_PYTHON=/path/to/python3.12 chooses the interpreter, VENV=DIR the place, CONSTRAINTS=FILE other versions than those
# that the tests passed with (CONSTRAINTS= the newest).

SHELL := /bin/bash
VENV ?= .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
RIVALS := $(VENV)/.installed-rivals
SITE := $(VENV)/.installed-docs
CONSTRAINTS ?= constraints.txt
NEWEST := .venv-newest
DEMO := outputs/demo

.PHONY: demo test test-slurm newest constraints packages stress lint docs bench clean

demo: $(INSTALLED)
	$(PYTHON) -m glsmooth.train experiment=demo hydra.run.dir=$(DEMO)/train
	$(PYTHON) -m glsmooth.certify ckpt=$(DEMO)/train/best.ckpt hydra.run.dir=$(DEMO)/certify
	@echo
	@echo "The report: $(CURDIR)/$(DEMO)/certify/report.html"

# Two processes, each with one thread: with more, they would wait for each other. A file's tests stay together, for they
# share what takes long to make. Bytecode is kept, whatever the environment says, for they start many processes.
test: $(INSTALLED)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile

# Sweeps as jobs of a real Slurm of one node, which it installs (Debian's packages, as root), starts and stops.
test-slurm: $(INSTALLED)
	$(PYTHON) tests/slurm/cluster.py install
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -o addopts=-q --durations=5 tests/slurm

# The tests with the newest releases that pyproject.toml allows, in an environment made anew: does one of them break us?
newest:
	rm -rf $(NEWEST)
	$(MAKE) test VENV=$(NEWEST) CONSTRAINTS=

# constraints.txt from that environment, once its tests have passed. With the oldest Python that we support: later ones
# install its releases, too, but it does not install all of theirs. What follows from torch's version is left out.
constraints:
	python3.11 --version
	$(MAKE) newest BASE_PYTHON=python3.11
	$(MAKE) $(NEWEST)/.installed-docs $(NEWEST)/.installed-rivals VENV=$(NEWEST) CONSTRAINTS=
	test -f $(NEWEST)/.installed-rivals
	@set -eo pipefail; { grep '^#' constraints.txt; \
	    $(NEWEST)/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude uv --exclude wheel \
	    | grep -vE '^(nvidia|cuda|triton)' | sed 's/+.*//' | tr 'A-Z_' 'a-z-' | LC_ALL=C sort; } > $(NEWEST)/constraints.txt
	cp $(NEWEST)/constraints.txt constraints.txt

# The wheel and the sdist in clean environments, for each Python that is here: a table. By hand, for it takes gigabytes;
# PACKAGES='3.12 3.13' chooses, UV_TORCH_BACKEND=cpu takes the small torch.
packages: $(INSTALLED)
	$(PYTHON) -m tests.packages $(PACKAGES)

# Within two hours: random families and regions against an oracle of the tests' own, 10^5 parameters or 25 minutes, a
# table in outputs/stress.md; the same of what the second program proves, 15 minutes; certificates attacked, 15; whole
# procedures on images of which the truth is known; files of strangers, changed at random, 10 minutes; kills, variants and
# memory, about 10; and the tests themselves, by wrong lines that they have to notice, 30.
# Arguments for each: STRESS='--seed 1 --minutes 10' (both of the first), ATTACK, CALIBRATION, FUZZ, ENDURANCE, MUTANTS.
stress: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.stress --minutes 25 $(STRESS)
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.stress --method proof --minutes 15 --output outputs/stress_proofs.md $(STRESS)
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.attacking --minutes 15 $(ATTACK)
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.calibration $(CALIBRATION)
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.fuzz --minutes 10 $(FUZZ)
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.endurance $(ENDURANCE)
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.mutants --minutes 30 $(MUTANTS)

lint: $(INSTALLED)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

# The site of docs/ in site/: open site/index.html. A link that leads nowhere, or a name without documentation, fails.
docs: $(INSTALLED) $(SITE)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet

# With the rivals that benchmarks/rivals.py compares with, where they can be had; it says so where they cannot.
bench: $(INSTALLED) $(RIVALS)
	for benchmark in $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py)); do $(PYTHON) "$$benchmark" || exit 1; done

# Results in outputs/ stay.
clean:
	rm -rf $(VENV) $(NEWEST) build dist site .pytest_cache .ruff_cache .mypy_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# glsmooth with an extra. uv is fast and compiles the bytecode that would otherwise slow the first start; pip does as
# well without it.
define install
uv=$$(command -v uv || true); \
if [ -z "$$uv" ] && $(PYTHON) -m pip install --quiet uv 2>/dev/null; then uv=$(VENV)/bin/uv; fi; \
if [ -n "$$uv" ] && "$$uv" pip install --quiet --compile-bytecode --python $(PYTHON) $(CONSTRAINTS:%=-c %) -e '.[$(1)]'; \
then :; else $(PYTHON) -m pip install --quiet $(CONSTRAINTS:%=-c %) -e '.[$(1)]'; fi
endef

$(INSTALLED): pyproject.toml $(CONSTRAINTS) | $(PYTHON)
	@echo "Installing glsmooth and its dependencies into $(VENV) (once)"
	@$(call install,dev)
	@touch $@

$(SITE): $(INSTALLED)
	@echo "Installing what makes the site into $(VENV) (once)"
	@$(call install,docs)
	@touch $@

$(RIVALS): $(INSTALLED)
	@echo "Installing what benchmarks compare with into $(VENV) (once)"
	@if $(call install,bench); then touch $@; else echo "glsmooth[bench] cannot be installed here" >&2; fi

# A system Python may lack ensurepip (Debian's python3-venv); then uv, or the pip of the system, fills the environment.
$(PYTHON):
	@set -e; \
	supported() { "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }; \
	base=; for candidate in $(BASE_PYTHON) python3 python3.13 python3.12 python3.11; do \
	    if supported "$$candidate"; then base=$$(command -v "$$candidate"); break; fi; done; \
	if command -v uv >/dev/null; then uv venv --quiet --seed --python "$${base:->=3.11,<3.14}" $(VENV); \
	elif [ -z "$$base" ]; then echo "glsmooth needs Python 3.11, 3.12 or 3.13: install one, or uv" >&2; exit 1; \
	elif "$$base" -m venv $(VENV) >/dev/null 2>&1; then :; \
	elif "$$base" -m venv --without-pip --clear $(VENV) \
	    && "$$base" -m pip --python $(PYTHON) install --quiet pip 2>/dev/null; then :; \
	else rm -rf $(VENV); \
	    echo "cannot make a virtual environment: install your system's python3-venv package, or uv" >&2; exit 1; fi
