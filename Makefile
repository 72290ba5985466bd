# Type "make" for what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build test conformance chaos lint vuln sbom fuzz bench microbench clean

PACKAGES ?= ./...
TESTFLAGS ?=
FUZZTIME ?= 10s
BENCH ?= .
BENCHFLAGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  Variables: PACKAGES ($(PACKAGES)) for test, microbench and fuzz; TESTFLAGS for test, such as -v or -run NAME;"
	@echo "  FUZZTIME ($(FUZZTIME)) per fuzz target; BENCH ($(BENCH)), a regular expression for microbench;"
	@echo "  BENCHFLAGS for bench, such as --quick."

build: ## the command, as bin/lawnberry
	CGO_ENABLED=0 go build -trimpath -o bin/lawnberry ./cmd/lawnberry

test: ## all tests, with the race detector; installs what they need on Debian, or says what it is
	@LAWNBERRY_TEST_PYTHON="$$(scripts/test-deps)"; export LAWNBERRY_TEST_PYTHON; \
	race=-race; if [[ $$(go env CGO_ENABLED) != 1 ]]; then \
		race=; echo "make test: no C compiler is here (or CGO_ENABLED is 0), so it goes without the race detector" >&2; fi; \
	set -x; go test $$race $(TESTFLAGS) $(PACKAGES)

conformance: ## docs/conformance.md, from the names of the tests
	go test -count=1 ./internal/conformance -update

chaos: ## the fault tests in their long form, with what they counted: kills, full disks, slow and hostile clients, guesses; forty minutes
	@scripts/test-deps >/dev/null
	@scripts/chaos

lint: .tools/golangci-lint ## gofmt, go vet and golangci-lint
	@files=$$(gofmt -l .); if [[ -n $$files ]]; then echo "make lint: run gofmt -w on these:"; echo "$$files"; exit 1; fi
	go vet ./...
	cd bench && go vet .
	.tools/golangci-lint run ./...
	cd bench && ../.tools/golangci-lint run ./...

vuln: .tools/govulncheck ## known vulnerabilities of what we use, from the Go vulnerability database
	@scripts/vuln .tools/govulncheck ./...

sbom: .tools/cyclonedx-gomod ## what the command is made of, as bin/lawnberry.cdx.json (CycloneDX)
	mkdir -p bin
	.tools/cyclonedx-gomod app -json -licenses -main cmd/lawnberry -output bin/lawnberry.cdx.json .

fuzz: ## every fuzz target for FUZZTIME
	@for package in $$(go list $(PACKAGES)); do \
		for target in $$(go test -list '^Fuzz' "$$package" | grep '^Fuzz' || true); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$package"; \
		done; \
	done

bench: ## our broker against Mosquitto, mochi, nats-server and a bare relay; writes docs/benchmarks.md; 5 minutes
	@scripts/test-deps >/dev/null
	cd bench && go run . --out ../docs/benchmarks.md $(BENCHFLAGS)

microbench: ## the benchmarks of the packages
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(PACKAGES)

clean: ## removes what was built here
	rm -rf bin .tools

# The tools have a module of their own, which pins their versions and keeps them out of ours.
.tools/golangci-lint: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.tools/govulncheck: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ golang.org/x/vuln/cmd/govulncheck

.tools/cyclonedx-gomod: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
