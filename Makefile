# Everything is built from Python 3.11, pip and make. `make help` lists the targets.
PYTHON ?= python3

VENV := .venv
BIN  := $(VENV)/bin
RUN  := $(BIN)/python
TL3  := .tl3
PEER := .peers
PEERS := sparsify sae-lens circuit-tracer dictionary-learning

PIP_INSTALL := -m pip install -q --disable-pip-version-check -c constraints.txt
ON_TL3      := PYTHONPATH=$(CURDIR)/$(TL3)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-real test-table lint docs bench peers example-smollm2 clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.base ## splice the shipped demo model, show its features and a circuit; writes demo_graph.html
	$(BIN)/tl-transcoders demo

test: $(VENV)/.test $(TL3)/.stamp ## the suite on transformer-lens 4.3, then its case table on 3.9.0
	$(RUN) -m pytest -n 2
	$(ON_TL3) $(RUN) -m pytest -n 2 -m "cases and not real and not slow"

test-real: $(VENV)/.test $(TL3)/.stamp ## circuits against their slow twins, and the SmolLM2 and Gemma-3 tests; fetches both models once
	$(RUN) -m pytest -n 2 -m "slow and not real"
	$(ON_TL3) $(RUN) -m pytest -n 2 -m "slow and cases and not real"
	$(RUN) -m examples.real_models all
	$(RUN) -m pytest -m real tests/real
	$(ON_TL3) $(RUN) -m pytest -m "real and cases" tests/real

test-table: $(VENV)/.test $(TL3)/.stamp ## the whole case table on both lines, of which make test runs a part
	TLT_WHOLE_TABLE=1 $(RUN) -m pytest -n 2 -m "cases and not real"
	TLT_WHOLE_TABLE=1 $(ON_TL3) $(RUN) -m pytest -n 2 -m "cases and not real"

lint: $(VENV)/.lint ## ruff, import contracts, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(VENV)/.docs ## build the documentation into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.test $(TL3)/.stamp peers ## the speed measurements; each prints one JSON line last
	$(RUN) -m benchmarks.splice
	SPARSIFY_DISABLE_TRITON=1 $(RUN) -m benchmarks.training
	$(RUN) -m benchmarks.loading
	$(RUN) -m benchmarks.path_patching
	$(RUN) -m benchmarks.graph_pruning
	$(RUN) -m benchmarks.attribution_graph

peers: $(PEERS:%=$(PEER)/%/.stamp) ## peers' packages, each in its own environment, for make bench and golden tensors

example-smollm2: $(VENV)/.test ## train, save, reload and splice transcoders for SmolLM2-135M
	$(RUN) -m examples.smollm2_splice

clean: ## remove everything make has built in this folder
	rm -rf $(VENV) $(TL3) .peers site build dist *.egg-info demo_graph.html
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first: the other packages then find it installed and bring no second build of it.
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(PIP_INSTALL) torch
	$(RUN) $(PIP_INSTALL) -e .
	touch $@

$(VENV)/.test $(VENV)/.docs $(VENV)/.lint: $(VENV)/.%: $(VENV)/.base
	$(RUN) $(PIP_INSTALL) -e ".[$*]"
	touch $@

# transformer-lens 3.9.0 over the same environment: it needs one package that 4.3 does not.
$(TL3)/.stamp: Makefile | $(VENV)/.base
	rm -rf $(TL3)
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps --target $(TL3) transformer-lens==3.9.0 better-abc==0.0.3
	touch $@

# PACKAGE is what is installed, with beartype, which importing tests needs; MODULE is what must import then;
# FREE lists the pins the peer needs at another version; ALONE is installed without what it asks for.
$(PEER)/%/.stamp: constraints.txt
	$(PYTHON) -m venv $(@D)
	grep -vE '^($(FREE))==' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install -q --disable-pip-version-check -c $(@D)/constraints.txt torch
	$(@D)/bin/python -m pip install -q --disable-pip-version-check -c $(@D)/constraints.txt $(PACKAGE) beartype
	$(if $(ALONE),$(@D)/bin/python -m pip install -q --disable-pip-version-check --no-deps $(ALONE))
	SPARSIFY_DISABLE_TRITON=1 $(@D)/bin/python -c "import $(MODULE)"
	touch $@

$(PEER)/sparsify/.stamp: PACKAGE := eai-sparsify
$(PEER)/sparsify/.stamp: MODULE := sparsify
$(PEER)/sae-lens/.stamp: PACKAGE := sae-lens==6.54.12
$(PEER)/sae-lens/.stamp: MODULE := sae_lens
$(PEER)/sae-lens/.stamp: FREE := transformer-lens
$(PEER)/circuit-tracer/.stamp: PACKAGE := circuit-tracer==0.5.0 transformers==4.57.3 transformer-lens==3.2.1 "huggingface-hub<1.0" pyyaml
$(PEER)/circuit-tracer/.stamp: MODULE := circuit_tracer
$(PEER)/circuit-tracer/.stamp: FREE := datasets|fsspec|huggingface_hub|tokenizers|transformer-lens|transformers
# It asks for an nnsight that no longer imports, and for packages that only its dashboards use.
$(PEER)/dictionary-learning/.stamp: PACKAGE := nnsight==0.8.1 zstandard==0.25.0 datasets einops
$(PEER)/dictionary-learning/.stamp: ALONE := dictionary-learning==0.1.0
$(PEER)/dictionary-learning/.stamp: MODULE := dictionary_learning
