# Two commands set up everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLUSTER := $(PYTHON) hack/cluster/cluster.py
# Targets at once; the output of each is shown when it ends.
AT_ONCE = $(MAKE) --jobs 3 --output-sync --no-print-directory
# Tests start hundreds of Python processes; compiling torch and its like takes each of them 5 to 15 s.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help try demo test test-unit test-cluster test-full coverage lint bench-trainer bench-reading bench-classical bench-operator bench-serving bench-web screenshots results crd reference requirements requirements-torch base-image sbom cluster images cluster-down clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

try: ## Without a cluster: train the quickstart, predict, and serve the runs pages on localhost (PORT=8000)
	@$(PYTHON) hack/try.py

demo: ## From nothing to two trained models on a real cluster (KUBECONTEXT=name: on a cluster of yours)
	@$(PYTHON) hack/demo.py

test: $(VENV)/ready style ## Everything, on a real cluster as well, whose tests mostly wait: what needs none runs beside them
	$(AT_ONCE) types tests/browser
	$(CLUSTER) up
	$(CLUSTER) images
	$(CLUSTER) build jobset kueue
	$(AT_ONCE) tests/cluster tests/faults tests/unit tests/chart

test-unit: $(VENV)/ready style ## Lint, types, and the tests that need no cluster, in two processes
	$(AT_ONCE) types tests/browser
	$(MAKE) --no-print-directory tests/unit

test-cluster: $(VENV)/ready ## The tests on a real API server, kubelet and Postgres, each folder in one process
	$(CLUSTER) up
	$(CLUSTER) images
	$(CLUSTER) build jobset kueue
	$(AT_ONCE) tests/cluster tests/faults tests/chart

.PHONY: style types tests/browser tests/unit tests/cluster tests/faults tests/chart
style: $(VENV)/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo
types:
	$(BIN)/mypy
# Never beside the cluster: Chromium ends its requests whenever a pod changes the machine's network.
tests/browser:
	$(BIN)/pytest $@
# In the processor time that the cluster and its tests leave.
tests/unit:
	nice -n 10 $(BIN)/pytest $@ --numprocesses 2 --dist loadfile
tests/cluster tests/faults tests/chart:
	eval "$$($(CLUSTER) env)" && $(BIN)/pytest $@

bench-operator: $(VENV)/ready ## Measure the operator beside a bare kopf and a plain asyncio (BENCH=--quick: a smoke test)
	$(CLUSTER) up
	eval "$$($(CLUSTER) env)" && PYTHONPATH=benchmarks/operator:tests $(BIN)/python benchmarks/operator $(BENCH)

test-full: $(VENV)/ready ## What `make test` leaves out, and the faults in full size: 100 kills, 200 tasks without a database; over an hour
	TRAININGTASK_TESTS=full $(BIN)/pytest tests/unit -m full
	$(CLUSTER) up
	$(CLUSTER) images
	$(CLUSTER) build jobset kueue
	eval "$$($(CLUSTER) env)" && export TRAININGTASK_TESTS=full && $(BIN)/pytest tests/faults && $(BIN)/pytest tests/cluster -m full && $(BIN)/pytest tests/upgrade

coverage: $(VENV)/ready ## The lines that the unit and browser tests do not run
	$(BIN)/pytest tests/unit --numprocesses 2 --dist loadfile --cov --cov-report=
	$(BIN)/pytest tests/browser --cov --cov-append --cov-report=term-missing:skip-covered

bench-web: $(VENV)/ready ## Measure the runs pages and the HTTP API: 300,000 runs, 50 readers at once
	$(BIN)/python benchmarks/web/load.py

screenshots: $(VENV)/ready ## Pictures of the runs pages, in screenshots/
	$(BIN)/python hack/screenshots.py

lint: $(VENV)/ready ## Format, lint, check types and imports
	$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

bench-trainer: $(VENV)/ready ## Time the transformers' training against padded batches and Hugging Face's own recipe
	$(BIN)/python benchmarks/trainer/bench.py
	$(BIN)/python benchmarks/trainer/recipe.py --models MiniLM --batch-sizes 32 --steps 5 --warm-up-steps 2

bench-serving: $(VENV)/ready ## Serve and predict with MiniLM on one core, against transformers' pipelines (20 minutes)
	$(BIN)/python benchmarks/serving/bench.py

crd: $(VENV)/ready ## Write the CRD from the models, for kubectl and for the chart
	$(BIN)/python -m trainingtask_api.crd > crds/trainingtasks.yaml.new
	mv crds/trainingtasks.yaml.new crds/trainingtasks.yaml
	cp crds/trainingtasks.yaml charts/trainingtask-operator/files/trainingtasks.yaml

reference: crd ## Write docs/reference and the next steps of docs/reasons.md from the CRD and the code
	$(BIN)/python hack/reference.py

results: $(VENV)/ready ## Train what docs/results.md compares, in pieces if need be, and write it (hours on two cores)
	$(BIN)/python benchmarks/results/make_results.py

bench-reading: $(VENV)/ready ## Read tables of up to 5,000,000 rows beside pyarrow's csv reader (ten minutes, 6 GiB)
	$(BIN)/python benchmarks/reading/bench.py $(BENCH)

bench-classical: $(VENV)/ready ## Classical models against plain scikit-learn, and over rows, labels and workers (an hour on two cores)
	$(BIN)/python benchmarks/classical/bench.py
	$(BIN)/python benchmarks/classical/scaling.py workers
	$(BIN)/python benchmarks/classical/scaling.py curve

cluster: ## Start the local cluster, or reuse it
	$(CLUSTER) up

images: ## Build the images and push them to the local cluster's registry
	$(CLUSTER) images

cluster-down: ## Stop the local cluster; its data stays (cluster.py down --purge deletes it)
	$(CLUSTER) down

# One environment for all tests, exactly as pinned.
$(VENV)/ready: requirements/dev.txt requirements/build.txt pyproject.toml
	@hack/prerequisites.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/build.txt
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# MLflow's server, which the tests start, in an environment of its own: its pins are not the project's. It needs none of these.
UNUSED_BY_MLFLOW = docker graphene matplotlib pyarrow scikit-learn scipy skops

# torch comes in a layer of its own in the trainer's image, so its requirements have a file of their own.
COMPILE = UV_SYSTEM_CERTS=1 $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
requirements: $(VENV)/ready ## Resolve the pinned requirements anew
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt pyproject.toml --extra operator -o requirements/operator.txt
	$(COMPILE) -c requirements/dev.txt pyproject.toml --extra web -o requirements/web.txt
	$(COMPILE) -c requirements/dev.txt pyproject.toml --extra serve -o requirements/serve.txt
	$(COMPILE) -c requirements/dev.txt pyproject.toml --extra trainer --override <(echo "torch; sys_platform == 'never'") \
	  --no-emit-package torch -o requirements/trainer.txt
	$(COMPILE) -c requirements/dev.txt <(echo torch) -o requirements/torch.txt
	$(COMPILE) <(printf 'hatchling\nuv\n') -o requirements/build.txt
	$(COMPILE) <(echo mlflow) --override <(printf "%s; sys_platform == 'never'\n" $(UNUSED_BY_MLFLOW)) -o requirements/mlflow.txt

BACKEND ?= cpu
requirements-torch: $(VENV)/ready ## Pin torch of another backend for the trainer's image (BACKEND=cpu, cu130, ...): needs torch's own index
	$(COMPILE) --torch-backend=$(BACKEND) -c requirements/trainer.txt <(grep -o '^torch==[^ ]*' requirements/torch.txt) \
	  -o requirements/torch-$(BACKEND).txt

BASE ?= debian:trixie-slim
base-image: ## Pin the images' base by the digest that its tag has now, in both Dockerfiles (needs skopeo)
	digest="$$(skopeo inspect --format '{{.Digest}}' docker://$(BASE))" && \
	  sed -i "s|^ARG BASE_IMAGE=.*|ARG BASE_IMAGE=$(BASE)@$$digest|" Dockerfile trainer_image/Dockerfile

SBOM = $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible
# What pip installs; the base image brings the packages of its own list.
sbom: $(VENV)/ready ## Write a CycloneDX bill of materials per image, in out/sbom
	mkdir -p out/sbom
	for image in operator web serve; do $(SBOM) requirements/$$image.txt --output-file out/sbom/$$image.json; done
	cat requirements/torch.txt requirements/trainer.txt | $(SBOM) - --output-file out/sbom/trainer.json

clean: ## Remove what the targets made here
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
