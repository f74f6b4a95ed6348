# Everything that a person or the CI runs. `make help` lists the targets from their comments.
SHELL := /bin/sh
GO ?= go
TOOLS := $(CURDIR)/.tools
BIN := $(CURDIR)/bin/sallyport
LINT := $(TOOLS)/golangci-lint

# A system Envoy of at least 1.39 is used where ENVOY names one; else the pinned one is installed into the checkout.
ENVOY ?= $(TOOLS)/envoy
export ENVOY

# The configuration of `make up`; without one the defaults need no file.
CONFIG ?=
# What `make bench` gives to the load harness, as BENCHFLAGS="--scenario FILE".
BENCHFLAGS ?=
# How long each fuzz target runs in `make test`, and in `make fuzz`. The smoke run counts inputs: stopped by a clock, Go's
# engine now and then reports the stop itself as a failure.
SMOKETIME ?= 5000x
FUZZTIME ?= 60s

UNIT := ./signer/... ./extproc/... ./xds/... ./envoy/... ./compose/... ./bench/...

.DEFAULT_GOAL := help
.PHONY: help up test unit fuzz-smoke e2e lint build fuzz bench bench-smoke clean deps redis chromium

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build deps ## build, start everything, check it and print what to paste; Ctrl-C ends it
	@exec $(BIN) up $(if $(CONFIG),-c $(CONFIG))

build: ## build bin/sallyport
	$(GO) build -o $(BIN) ./compose/sallyport

deps: build $(ENVOY) ## install the pinned Envoy into .tools, unless ENVOY names another

$(TOOLS)/envoy: | build
	env -u ENVOY $(BIN) doctor --install-envoy $(TOOLS)

test: ## everything: unit tests under the race detector, fuzz smoke, end to end, lint
	@begin=$$(date +%s); \
	for step in deps redis chromium unit fuzz-smoke e2e bench-smoke lint; do \
		echo "== $$step"; \
		$(MAKE) --no-print-directory $$step || { echo "== $$step failed"; exit 1; }; \
	done; \
	echo "== all passed in $$(( $$(date +%s) - begin )) s"

unit: ## unit tests under the race detector
	$(GO) test -race -timeout 10m $(UNIT)

e2e: deps chromium ## end-to-end tests against real Envoy and real Redis
	$(GO) test -timeout 20m ./tests/...

fuzz-smoke: ## each fuzz target for SMOKETIME
	@$(MAKE) --no-print-directory fuzz FUZZTIME=$(SMOKETIME)

fuzz: ## each fuzz target for FUZZTIME
	@grep -rl --include='*_test.go' '^func Fuzz' $(patsubst ./%/...,%,$(UNIT)) | while read -r file; do \
		dir=$$(dirname "$$file"); \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$dir" </dev/null || exit 1; \
		done; \
	done

lint: $(LINT) ## golangci-lint, pinned in .tools.mod
	$(LINT) run ./...

$(LINT): .tools.mod .tools.sum
	$(GO) build -modfile=.tools.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bench: build deps ## load figures side by side: direct, Envoy alone, no-op processors, Sallyport
	$(GO) run ./bench $(BENCHFLAGS)

bench-smoke: deps redis ## every workload of the load harness once, tiny
	@mkdir -p bench-results/smoke
	@$(GO) run ./bench --scenario bench/scenarios/smoke.yaml --out bench-results/smoke >bench-results/smoke/log 2>&1 || { cat bench-results/smoke/log; exit 1; }

# The tests of the replay store start a real redis-server. In CI it must be there; elsewhere they are skipped without.
redis: ## install redis-server where it is missing and possible
	@command -v redis-server >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server; \
	elif [ -n "$$CI" ]; then \
		echo "redis-server is missing and cannot be installed"; exit 1; \
	else \
		echo "redis-server is missing; the tests that need it are skipped"; \
	fi

# The page is tested in a real browser. In CI it must be there; elsewhere its test is skipped without.
chromium: ## install Chromium where no browser is and where that is possible
	@for name in "$$CHROMIUM" chromium chromium-browser google-chrome; do [ -n "$$name" ] && command -v "$$name" >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium; \
	elif [ -n "$$CI" ]; then \
		echo "chromium is missing and cannot be installed"; exit 1; \
	else \
		echo "chromium is missing; the test of Trust Pulse is skipped"; \
	fi

clean: ## remove what was built and the data of `make up`; keeps .tools
	rm -rf bin .sallyport coverage.out
	$(GO) clean -testcache
