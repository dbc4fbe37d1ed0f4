# coco-e2e: end-to-end tests for confidential pods. `make help` says what there is.

.DEFAULT_GOAL := help
.PHONY: help e2e up down test lint bench build prerequisites generate fuzz requirements mutants image

COCO := bin/coco-e2e
export CLUSTER CLUSTER_NAME NODES COCO_E2E_CACHE ARTIFACTS_DIR WORKLOAD_IMAGE KEEP FOCUS LABELS SUITES SUITE_TIMEOUT SEED SHIM KATA_SHIM KATA_CONFIG KBS KBS_URL KBS_ADMIN_URL KBS_ADMIN_TOKEN KBS_CERT KBS_RESOURCE_POLICY KBS_CHART KBS_VALUES ARTIFACTS KUBECONFIG RUNTIME_CLASS TEST_ROOTS UNLISTED_IMAGE PROBE_IMAGE AGENT_ADDRESS AGENT_IMAGE KIND_IMAGE KIND_EXPERIMENTAL_PROVIDER COCO_E2E_OVERLAY FUZZTIME TARGETS

help: ## say what there is
	@echo "targets:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "variables:"
	@echo "  KEEP=1            keep the cluster after make e2e (make down removes it)"
	@echo "  FOCUS='text'      run only specs whose text matches this regular expression"
	@echo "  LABELS='expr'     run only specs with these labels (Ginkgo label filter)"
	@echo "  SUITES=a,b        run only these suites of suites/"
	@echo "  SUITE_TIMEOUT=d   how long the suites may take together (30m)"
	@echo "  SEED=n            order the specs as the run whose report has this run.seed did"
	@echo "  NODES=3           nodes of the cluster (1)"
	@echo "  CLUSTER=x         local, kind, or existing with KUBECONFIG and RUNTIME_CLASS (found out)"
	@echo "  CLUSTER_NAME=x    name of the cluster (coco-e2e)"
	@echo "  WORKLOAD_IMAGE=i  image of the pods, by digest (built from Debian's packages)"
	@echo "  SHIM=kata         drive the simulated TEE with Kata's shim, KATA_SHIM=path (docs/configuration.md)"
	@echo "  KBS_URL=u         use a Trustee that is there, KBS_ADMIN_TOKEN=token (docs/configuration.md)"
	@echo "  COCO_E2E_CACHE=d  where builds and clusters' state are kept (~/.cache/coco-e2e)"
	@echo "  ARTIFACTS_DIR=d   where reports go (artifacts/)"
	@echo "  FUZZTIME=60s      how long each fuzz target runs"
	@echo "  TARGETS='regexp'  which fuzz targets run, of the lines \"DIRECTORY FUNCTION\""

e2e: prerequisites build ## set up everything, run the suite on a fresh cluster, write artifacts/, tear down
	@$(COCO) run

up: prerequisites build ## bring up a cluster with the simulated TEE and keep it
	@$(COCO) up

down: build ## remove every cluster that a run kept or left behind
	@$(COCO) down

test: prerequisites ## unit tests and the specs that need no cluster, race detector on
	go test -race -timeout 20m ./framework/... ./simulators/... ./manifests/... ./suites/agent

lint: prerequisites ## gofumpt, go vet, staticcheck, ginkgolinter
	@scripts/lint

bench: prerequisites build ## measure pods, execs, memory and phases on a fresh cluster
	@$(COCO) bench

build: ## put the command at bin/coco-e2e
	@go build -trimpath -o $(COCO) ./framework/cmd/coco-e2e

image: prerequisites build ## write bin/runner.tar and bin/hostprobe.tar: images for clusters that are there
	@$(COCO) image -o bin/runner.tar
	@$(COCO) image --probe -o bin/hostprobe.tar

fuzz: ## run each fuzz target, or those that match TARGETS, for FUZZTIME (10s)
	@scripts/fuzz

requirements: build ## write docs/requirements.md: every requirement with the specs that prove it
	@$(COCO) requirements --write

mutants: prerequisites build ## give the simulators one defect after the other, and see that the suites fail what it breaks
	@$(COCO) mutants

generate: ## regenerate Go code from .proto files (needs protobuf-compiler, libprotobuf-dev)
	@scripts/generate

prerequisites:
	@scripts/prerequisites
