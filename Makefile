# `make help` lists the targets. Each makes the environment first where it is missing.
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu

.DEFAULT_GOAL := help
.PHONY: help install demo benchmark-suite benchmark-peers benchmark-ablations benchmark-rankers benchmark-heads benchmark-speed benchmark-tables benchmark-gpu benchmark-serving benchmark-batch benchmark-ann benchmark-encode benchmark-encode-scale benchmark-scale benchmark-chaos benchmark-leak benchmark-soak benchmark-off-policy benchmark-updates benchmark-text test test-fast check docs notebook audit format constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

install: $(VENV)/.installed ## make the environment in .venv (EXTRA=gpu for CUDA)

# uv reads the override in pyproject.toml that keeps CUDA's fbgemm away from CPUs; a GPU wants it. Bytecode is made here:
# where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process would compile all that it imports.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "making the environment in $(VENV) (a minute or two)"
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "Python 3.11 or 3.12 is needed, found $$(python3 --version)"; exit 1; }
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
		$(if $(filter gpu,$(EXTRA)),--no-config,--constraint constraints.txt) --editable ".[$(EXTRA),dev,docs]"
	@touch $@

demo: install ## simulate a shop, train, evaluate, recommend (under 10 minutes on 2 cores)
	$(BIN)/python -m training.demo demo

DATA ?= ../shared/data/amazon-industrial
benchmark-suite: install ## every data set, baselines and published rows; writes docs/quality (hours, resumable; SUITE="--only nemig")
	$(BIN)/python -m benchmarks.suite $(SUITE)

PEERS := benchmarks/peers/.venv
benchmark-peers: install $(PEERS)/.installed ## models of other libraries, in an environment of their own, for benchmark-suite (hours, resumable)
	$(BIN)/python -m benchmarks.suite --export $(SUITE)
	$(PEERS)/bin/python -m benchmarks.peers.run

$(PEERS)/.installed: benchmarks/peers/requirements.txt benchmarks/peers/constraints.txt
	python3 -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint benchmarks/peers/constraints.txt --requirement benchmarks/peers/requirements.txt
	@touch $@

benchmark-ablations: install ## what each part of the interest model is worth; writes docs/ablations.md (some 2 hours)
	$(BIN)/python -m benchmarks.ablations $(DATA)

benchmark-rankers: install ## trees against a network, and how long each is trained (some 15 minutes)
	$(BIN)/python -m benchmarks.rankers $(DATA)

benchmark-heads: install ## two heads against one on the simulated shop; draws docs/value.png
	$(BIN)/python -m benchmarks.heads --fresh

benchmark-speed: install ## a fine-tuning epoch against the naive loop, on the CPU and on a GPU where there is one
	$(BIN)/python -m benchmarks.train_speed

benchmark-gpu: install ## encoding, the training step, search and two GPUs, as a share of the chip's peak; also runs on a CPU
	$(BIN)/python -m benchmarks.gpu

benchmark-tables: install ## seconds and memory of workers that share ID residuals (some minutes; TABLES="--items 500000 --width 128")
	$(BIN)/python -m benchmarks.tables $(TABLES)

benchmark-serving: install ## the API's latencies and requests/s on 100,000 items (some 8 minutes)
	$(BIN)/python -m benchmarks.serving_speed

benchmark-batch: install ## lists of 100 for up to 100,000 users among 100,000 items (some 15 minutes)
	$(BIN)/python -m benchmarks.batch_speed

benchmark-ann: install ## recall and speed of the index at 1,000,000 items (some 5 minutes)
	$(BIN)/python -m benchmarks.ann_speed

SCALE ?= --events 10000 100000 1000000 20000000 --items 1000 10000 100000 1000000
benchmark-scale: install ## seconds and memory of a training's preparation by size; draws docs/scale.png (an hour, resumable; SCALE="--events 10000")
	$(BIN)/python -m benchmarks.scale scale --picture docs/scale.png $(SCALE)

benchmark-chaos: install ## ten minutes of load on two servers while everything around them goes wrong; draws docs/chaos.png
	$(BIN)/python -m benchmarks.chaos

benchmark-leak: install ## twenty minutes of load and reloads on one server: does its memory grow? (SOAK="--plant-leak 2" has to find one)
	$(BIN)/python -m benchmarks.soak --picture docs/soak.png $(SOAK)

benchmark-soak: install ## the same for six hours, against a narrower limit
	$(BIN)/python -m benchmarks.soak --hours 6 --warm-up 60 --limit 5 $(SOAK)

benchmark-off-policy: install ## off-policy estimates against the truth of the demonstration's shop, after `make demo` (some 3 minutes)
	$(BIN)/python -m benchmarks.off_policy demo

benchmark-updates: install ## updated weekly against retrained weekly against never, on the simulated shop (an hour; for docs/quality/updates.md)
	$(BIN)/python -m benchmarks.updates updates

benchmark-encode: install ## encoding new items against sentence-transformers, and the similarity of the vectors
	$(BIN)/python -m benchmarks.encode_speed

ITEMS ?= 20000
benchmark-encode-scale: install ## encoding a catalogue by 1 and 2 workers of Ray Data (ITEMS=1000000 for a large one)
	$(BIN)/python -m benchmarks.encode_scale --items $(ITEMS)

TEXTS ?= ../shared/data/texts
benchmark-text: install ## what text heads get right; writes docs/text-quality.md (under an hour on 2 cores with AMX; TEXTS=FOLDER)
	$(BIN)/python -m benchmarks.text $(TEXTS)

TEST_PROCESSES ?= 2
test: install ## all tests (some 20 minutes on 2 cores; each of TEST_PROCESSES=2 needs 4 GiB)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-fast: install ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

check: install ## linters: ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebook: install ## run docs/notebook.ipynb anew, in the folder that `make demo` makes
	VIRTUAL_ENV=$(VENV) UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv run --no-project --active --with ipykernel --with nbconvert \
		jupyter nbconvert --to notebook --execute --inplace docs/notebook.ipynb

docs: install ## build the documentation site in site/; a broken link or docstring is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

audit: install ## report known vulnerabilities of what is installed; never fails
	@.ci/audit

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: install ## resolve the pinned versions of constraints.txt anew
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip compile --quiet --upgrade --extra cpu --extra dev --extra docs --no-header \
		--no-annotate --no-emit-find-links --no-emit-index-url pyproject.toml --output-file constraints.txt
	sed -i 's/+cpu$$//' constraints.txt

clean: ## remove what commands left behind, but not the environment
	rm -rf demo site .recsys .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
