# What a person types; `make` lists it. All of it happens in $(VENV); tools/system looks after compiler and headers.
#   make test TESTS=tests/test_table.py ARGS='-k evict'        make test PYTHON=python3.13 VENV=.venv-3.13
VENV ?= .venv
TESTS ?= tests
BOXES ?= ids monitor --set ids.rules=examples/attacks.toml
SEEDS ?= 200
CASES ?= 10000
BYTES ?= 23000000
PACKETS ?= 100000000
SECONDS ?= 60
TARGETS ?=
CAPTURE ?= pcaps/http_attacks.pcap
BIN := $(VENV)/bin
SOURCES := $(shell find mos mbox -type f ! -name '*.so' ! -name '*.py[co]') setup.py setup.cfg pyproject.toml
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export VENV

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-inline test judge safe resets connections sanitize fuzz bench bench-hostile soak build wheel lint stubs clean

help:       ## list what can be made
	@sed -n 's/^\([a-z-]*\): .*## /make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: $(VENV)/.installed  ## install into .venv, then run middleboxes on a bundled capture
	$(BIN)/mos run $(BOXES) -r $(CAPTURE) -w build/demo.pcap

demo-inline: $(VENV)/.installed  ## two hosts in namespaces, firewall and monitor between them, curl through it
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/inline/demo.sh

test: $(VENV)/.test build  ## build, install what the tests need, run them all
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

judge: $(VENV)/.test build  ## SEEDS times BYTES of real TCP, lost and mangled: ours against the kernel's (4 GiB in some 7 minutes)
	$(BIN)/python tests/judge/judge.py --seeds $(SEEDS) --bytes $(BYTES)

safe: $(VENV)/.test build  ## CASES senders that cheat: no receiver may read what the chain did not see; KERNEL=1: real ones
	$(BIN)/python tests/safety$(if $(KERNEL),_kernel).py --cases $(CASES)

resets: $(VENV)/.test build  ## reset 10,000 live connections in every state on wires that lose packets: none may stay half-open
	$(BIN)/python bench/resets.py $(ARGS)

connections: $(VENV)/.test build  ## open and close a million connections through firewall and NAT (four minutes)
	$(BIN)/python bench/connections.py $(ARGS)

# What is left out, and why, stands in tests/sanitize/suite.py, which says so at its end.
sanitize: $(VENV)/.test  ## tests and captures (MOS_CORPORA's too) under AddressSanitizer and UndefinedBehaviorSanitizer; an hour
	@tools/system sanitize
	@PYTHON=$(abspath $(BIN))/python tests/sanitize/build sanitize
	@status=0; $(abspath $(BIN))/python tests/sanitize/suite.py $(TESTS) $(ARGS) || status=1; \
	    tests/sanitize/run $(abspath $(BIN))/python tests/sanitize/captures.py || status=1; exit $$status

fuzz: $(VENV)/.test  ## each of TARGETS (all) for SECONDS under libFuzzer and the sanitizers; adds up executions of all runs
	@tools/system fuzz
	@PYTHON=$(abspath $(BIN))/python tests/fuzz/build
	@$(BIN)/python tests/fuzz/run $(SECONDS) $(TARGETS)

bench: $(VENV)/.build build  ## the stack against floors, other tools and itself; ARGS='--quick --only stages'
	$(BIN)/python -m bench $(ARGS)

bench-hostile: $(VENV)/.build build  ## what attacks cost, over ordinary traffic; ARGS='--only nested,syn_flood --json'
	$(BIN)/python bench/hostile.py $(ARGS)

soak: $(VENV)/.build build  ## PACKETS of everything through one stack: memory must not grow (10^8: some 3 minutes)
	$(BIN)/python bench/soak.py --packets $(PACKETS) $(ARGS)

# What lies in place is copied from build/ each time: otherwise modules of a debug build, or without a source, would stay.
build: $(VENV)/.build  ## compile in place what has changed
	@tools/system build
	@echo "make: compiling what has changed (all of it takes a minute or two)"
	@find mos mbox -name '*.so' -delete
	@$(BIN)/python setup.py -q build_ext --inplace

wheel: $(VENV)/.build  ## source archive, and from it a wheel, into dist/
	@tools/system build
	@echo "make: compiling everything anew, a minute or two"
	@rm -rf dist
	@$(BIN)/python setup.py -q sdist
	@$(BIN)/pip wheel -q --no-deps --no-build-isolation -w dist dist/*.tar.gz
	@ls -l dist

lint: $(VENV)/.lint build  ## style of Python and Cython; generated files are up to date
	$(BIN)/ruff check
	$(BIN)/cython-lint mos mbox
	$(BIN)/python -m mos.events.generate --check

stubs: $(VENV)/.build  ## write anew what follows from mos/events/spec.py (kinds, views, stubs, reference), and docs/bounds.md
	$(BIN)/python -m mos.events.generate
	$(BIN)/python tools/bounds >docs/bounds.md

clean:      ## remove everything made here, .venv too
	rm -rf build dist *.egg-info .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mos mbox tests \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@tools/system build
	@python=$$(tools/system python) && echo "make: $(VENV) from $$python" && "$$python" -m venv $(VENV)

$(VENV)/.build: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(BIN)/python tools/requires build >$@.txt && $(BIN)/pip install -q -r $@.txt && touch $@

$(VENV)/.test: setup.cfg | $(VENV)/.build
	@tools/system test
	@$(BIN)/python tools/requires install test >$@.txt && $(BIN)/pip install -q -r $@.txt && touch $@

$(VENV)/.lint: setup.cfg | $(VENV)/.build
	@$(BIN)/python tools/requires install test lint >$@.txt && $(BIN)/pip install -q -r $@.txt && touch $@

# The compiled modules are copied from build/, so nothing is compiled twice; what else lies there may be out of date.
$(VENV)/.installed: $(SOURCES) | $(VENV)/.build
	@$(MAKE) --no-print-directory build
	@find build -path 'build/lib*' -type f ! -name '*.so' -delete
	@$(BIN)/pip install -q --no-build-isolation . && touch $@
