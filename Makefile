# Two commands start everything: `make demo` and `make test`. Each makes the virtual environment it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# The scenario that `make demo` runs.
DEMO ?= $(firstword $(wildcard scenarios/noisy-neighbour.toml scenarios/*.toml))
# The one that it runs simulated and live, where the host allows it.
LIVE_DEMO ?= scenarios/two-neighbours.toml
# Test workers: the machine's CPUs, at most four (each compiles what the numba cache does not have yet).
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -le 4 ] && echo $$n || echo 4)

# A Debian with containerd, for the tests that need one.
CONTAINERD ?= /var/tmp/epcgroup-containerd

.PHONY: help venv demo test check containerd bench soak golden clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## the virtual environment .venv with everything in it

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "make: $(PYTHON) is not Python 3.11 or newer; make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) has no venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## pods on a small SGX node, without and with limits: a table and out/demo.html; live too
	@mkdir -p out
	$(BIN)/epcgroup run $(DEMO) --html out/demo.html
	@echo; echo "With real processes, simulated and live side by side (where this host can, as root):"; echo
	$(BIN)/epcgroup run --live $(LIVE_DEMO) --html out/live.html || [ $$? -eq 2 ]

test: $(INSTALLED) ## the tests
	$(BIN)/pytest -n $(WORKERS)

check: $(INSTALLED) ## what CI checks: style, types, rooms, tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(WORKERS)

soak: $(INSTALLED) ## the long tests: random op logs against the model, all recorded logs, a thousand million stores against eviction
	$(BIN)/pytest -n $(WORKERS) -m soak

containerd: $(INSTALLED) ## the NRI plugin with a real containerd (root, debootstrap, 400 MB in /var/tmp)
	[ -e $(CONTAINERD)/usr/bin/containerd ] || \
		debootstrap --variant=minbase --include=containerd,runc trixie $(CONTAINERD) >/dev/null
	EPCGROUP_CONTAINERD=$(CONTAINERD) $(BIN)/pytest -n 0 tests/agent/test_nri_containerd.py

bench: $(INSTALLED) ## how fast the machine is
	$(BIN)/python -m bench

golden: $(INSTALLED) ## renew what documents and golden tests show; look at the difference before you commit it
	EPCGROUP_RENEW_SCENARIOS=1 $(BIN)/pytest -n 0 tests/test_scenarios.py
	EPCGROUP_RENEW_DOCS=1 $(BIN)/pytest -n 0 tests/test_docs.py

clean: ## remove everything that was made
	rm -rf $(VENV) build out .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
