# BlockFL. `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LEDGER ?= embedded
# One more than there are cores: many tests wait for a network.
WORKERS ?= $(shell expr $$(nproc) + 1)
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
export PYTHONDONTWRITEBYTECODE=
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-quick attacks chaos demos soak soak-page check format bench growth private-data profile counts floods performance commitments accuracy splits examples robustness economics disclosure docs pictures lock compose images wheelhouse fuzz mutation corpus parity clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make the environment in .venv (the other targets call it)

$(STAMP): requirements/all.txt requirements/installer.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "BlockFL needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/installer.txt
	UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/all.txt || $(BIN)/python -m pip install --quiet --require-hashes -r requirements/all.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true
	@touch $@

demo: $(STAMP) ## Four real hospitals, twelve rounds, the audit (result in build/demo)
	$(BIN)/python -m examples.heart.demo --ledger $(LEDGER) $(DEMO)

test: $(STAMP) ## Every test; TEST="-k name" chooses, REQUIRE=local fails where that ledger cannot run
	@$(if $(TEST),,echo "every test: 13 minutes on 2 quiet cores, 30 on busy ones; make test-quick takes 3, TEST=\"-k name\" chooses")
	$(BIN)/python -m pytest $(PARALLEL) $(addprefix --require ,$(REQUIRE)) $(TEST)

test-quick: $(STAMP) ## What a developer runs before each commit: no networks, no training
	@echo "unit tests and a short look at every decoder: under 3 minutes on 2 quiet cores"
	$(BIN)/python -m pytest $(PARALLEL) --hypothesis-profile quick -m "not slow and not tensorflow and not node" tests/unit tests/fuzz $(TEST)

attacks: $(STAMP) ## Every attack on a network of its own, one line each; LEDGER=local, ATTACKS="--json", "-k seals"
	GRPC_VERBOSITY=NONE PYTHONPATH=tests $(BIN)/python -m attacks --ledger $(LEDGER) $(ATTACKS)

chaos: $(STAMP) ## Rounds while processes are killed, stopped, starved (build/chaos/summary.json); ROUNDS=200 SEED=1, SCHEDULE=FILE, SHRINK=12
	GRPC_VERBOSITY=NONE PYTHONPATH=tests $(BIN)/python -m chaos --ledger $(LEDGER) \
		--rounds $(or $(ROUNDS),200) --seed $(or $(SEED),1) $(addprefix --schedule ,$(SCHEDULE)) $(addprefix --shrink ,$(SHRINK))

demos: $(STAMP) ## The demo many times, two at a time (build/demos); exit code 1 if one does not end well; TIMES=20
	$(BIN)/python -m benchmarks.demos --ledger $(LEDGER) $(addprefix --times ,$(TIMES))

soak: $(STAMP) ## A thousand rounds: memory, descriptors, threads, disk (build/soak); exit code 1 if they grow; ROUNDS=100
	$(BIN)/python -m benchmarks.soak --ledger $(LEDGER) --rounds $(or $(ROUNDS),1000)

soak-page: $(STAMP) ## Write docs/soak.md and its plot of what soak has measured
	$(BIN)/python -m benchmarks.soak_page

check: $(STAMP) ## Formatting, lint, types, imports between the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

counts: $(STAMP) ## What a round costs in transactions, reads, messages, bytes; exit code 1 over the record; COUNTS="--record"
	$(BIN)/python -m benchmarks.counts $(COUNTS)

bench: $(STAMP) ## Rounds and transactions beside other federated learning (build/bench/summary.json); BENCH="--turns 1"
	$(BIN)/python -m benchmarks.bench --ledger $(LEDGER) $(BENCH)

private-data: $(STAMP) ## How real peers hand private data on, by way and size of chunk (build/bench/private_data.json); needs FABRIC_BIN
	$(BIN)/python -m benchmarks.private_data

profile: $(STAMP) ## What processes do during rounds, sampled by py-spy (build/bench/profile.json); PROFILE="--sampler FILE"
	$(BIN)/python -m benchmarks.sampling $(PROFILE)

growth: $(STAMP) ## What grows with institutions, parameters, rounds (build/bench/growth.json); GROWTH="--only rounds"
	$(BIN)/python -m benchmarks.growth $(GROWTH)

performance: $(STAMP) ## Write docs/performance.md of what bench, growth, profile and floods measured
	$(BIN)/python -m benchmarks.performance

floods: $(STAMP) ## How much one member's flood delays others' rounds (build/bench/floods.json); exit code 1 over the factor
	$(BIN)/python -m benchmarks.floods $(FLOODS)

commitments: $(STAMP) ## What commitments cost, against their limits: exit code 1 over them
	$(BIN)/python -m benchmarks.commitment

accuracy: $(STAMP) ## Federated against pooled and alone over ten splits (result in build/accuracy)
	$(BIN)/python -m benchmarks.accuracy

splits: $(STAMP) ## Hospitals and a bank over many splits, in numpy (result in build/splits); SPLITS="--splits 40"
	$(BIN)/python -m benchmarks.splits $(SPLITS)

examples: $(STAMP) ## Hospitals, banks, factories, a city, a CNN, PyTorch, Flower: together, pooled, alone; EXAMPLES="--only cnn"
	$(BIN)/python -m examples.comparison $(EXAMPLES)

robustness: $(STAMP) ## Every rule under every attack, with every referee (result in build/robustness)
	$(BIN)/python -m benchmarks.robustness

economics: $(STAMP) ## What each behaviour earns over 200 rounds (result in build/economics)
	$(BIN)/python -m benchmarks.economics

disclosure: $(STAMP) ## What sums tell about one hospital, with and without bounds (result in build/disclosure)
	$(BIN)/python -m benchmarks.disclosure

docs: $(STAMP) ## Write the tables of rules and codes (docs/protocol.md) and attacks (docs/attacks.md) anew
	PYTHONPATH=tests $(BIN)/python -m support.documentation
	PYTHONPATH=tests $(BIN)/python -m attacks.page

pictures: $(STAMP) ## Take the pictures of docs/page.md anew, of the evidence that `make demo` left (needs Chromium)
	PYTHONPATH=tests $(BIN)/python -m support.page_pictures

fuzz: $(STAMP) ## Coverage-guided fuzzing of every decoder; RUNS=1000000 inputs each, DECODER="payload" one of them
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/fuzz.txt
	PYTHONPATH=tests $(BIN)/python -m fuzz.harness $(addprefix --runs ,$(RUNS)) $(if $(DECODER),--decoder "$(DECODER)")

parity: $(STAMP) ## Judge every recorded case again (result in build/parity); INPUTS=1000000 compares with Go's library
	PYTHONPATH=tests $(BIN)/python -m support.corpus $(addprefix --inputs ,$(INPUTS))

corpus: $(STAMP) ## Record the corpus anew: what a real peer (FABRIC_BIN) says of every case
	PYTHONPATH=tests $(BIN)/python -m support.corpus_recorder $(KIND)

mutation: $(STAMP) ## Change the rules one by one, and see a test fail for each; MODULE="judging terms" some, RULES=1 whole rules only
	PYTHONPATH=tests $(BIN)/python -m support.mutation $(if $(RULES),--rules) $(MODULE)

LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
lock: $(STAMP) ## Write requirements/*.txt anew
	$(LOCK) --extra tensorflow --extra parquet --extra compose --extra pkcs11 --extra examples --extra page --extra pdf --extra dev pyproject.toml -o requirements/all.txt
	$(LOCK) --constraint requirements/all.txt pyproject.toml -o requirements/service.txt
	$(LOCK) --constraint requirements/all.txt --extra tensorflow --extra parquet pyproject.toml -o requirements/training.txt
	$(LOCK) --constraint requirements/all.txt --extra fuzz pyproject.toml -o requirements/fuzz.txt
	$(LOCK) examples/flower/requirements.in -o examples/flower/requirements.txt
	$(LOCK) benchmarks/peers/flower.in -o benchmarks/peers/flower.txt
	$(LOCK) benchmarks/peers/nvflare.in -o benchmarks/peers/nvflare.txt

compose: $(STAMP) ## Write docker-compose.yaml anew
	$(BIN)/blockfl network compose --output docker-compose.yaml

# With WHEELHOUSE=DIRECTORY, or after `make wheelhouse`, images are built without a network.
BUILD := DOCKER_BUILDKIT=1 docker build $(if $(BASE),--build-arg BASE=$(BASE)) \
	$(if $(wildcard build/wheelhouse/*.whl)$(WHEELHOUSE),--network none)
images: ## Build the images of docker-compose.yaml; WHEELHOUSE=DIR: from wheels there, BASE=IMAGE: on another base
	$(if $(WHEELHOUSE),mkdir -p build/wheelhouse && cp -f $(WHEELHOUSE)/*.whl build/wheelhouse/)
	$(BUILD) --target service --tag blockfl:$(VERSION) .
	$(BUILD) --target training --tag blockfl-training:$(VERSION) .

wheelhouse: ## Fetch the wheels of the images into build/wheelhouse, for a machine that cannot
	$(PYTHON) -m pip download --quiet --require-hashes --no-deps --only-binary :all: --python-version 3.11 \
		$(foreach one,manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014,--platform $(one)_$(shell uname -m)) \
		--dest build/wheelhouse -r requirements/installer.txt -r requirements/training.txt

clean: ## Remove build results and the environment
	rm -rf build $(VENV)
