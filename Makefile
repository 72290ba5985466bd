# Type "make" for what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build test docs docs-check man conformance chaos lint ui ui-check vuln sbom fuzz bench microbench dist dist-test deb-test clean

PACKAGES ?= ./...
TESTFLAGS ?=
ENGINE ?= embedded
FUZZTIME ?= 10s
OUT ?= dist/man
VERSION ?=
BENCH ?= .
BENCHFLAGS ?=
ARCHES ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  Variables: PACKAGES ($(PACKAGES)) for test, microbench and fuzz; TESTFLAGS for test, such as -v or -run NAME;"
	@echo "  ENGINE ($(ENGINE)) for test: mosquitto runs those of client, service, safety and bridges with Mosquitto as the broker;"
	@echo "  FUZZTIME ($(FUZZTIME)) per fuzz target; BENCH ($(BENCH)), a regular expression for microbench;"
	@echo "  BENCHFLAGS for bench, such as --quick; ARCHES for dist, such as \"amd64 arm64\"; OUT ($(OUT)) for man;"
	@echo "  VERSION for dist and man, which else is git's."

build: ## the command, as bin/lawnberry
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/lawnberry ./cmd/lawnberry

# What start many processes or judge times run when the others are through, one package after the other, and no compiler beside them: the
# libraries are compiled first, and nats-server is built by TestBinary.
ALONE := ./bridge/fleet ./bridge/web ./examples ./internal/chaos ./internal/cli ./internal/demo ./internal/doctor ./internal/uitest

test: ## all tests, with the race detector; installs what they need on Debian, or says what it is
	@LAWNBERRY_TEST_PYTHON="$$(scripts/test-deps)"; export LAWNBERRY_TEST_PYTHON; \
	race=-race; if [[ $$(go env CGO_ENABLED) != 1 ]]; then \
		race=; echo "make test: no C compiler is here (or CGO_ENABLED is 0), so it goes without the race detector" >&2; fi; \
	packages="$(PACKAGES)"; if [[ $(ENGINE) == mosquitto && $$packages == ./... ]]; then packages="./client ./service ./safety ./bridge/homeassistant ./bridge/web"; fi; \
	export LAWNBERRY_TEST_ENGINE=$(ENGINE); alone=; status=0; \
	if [[ $$packages == ./... ]]; then \
		CGO_ENABLED=0 go test -run '^TestBinary$$' ./internal/natstest; \
		libraries=$$(go list -f '{{if and .GoFiles (ne .Name "main")}}{{.ImportPath}}{{end}}' ./...); CGO_ENABLED=0 go build $$libraries; go build $$race $$libraries; \
		alone="$(ALONE)"; packages=$$(go list ./... | grep -vxF "$$(go list $(ALONE))"); \
	fi; \
	(set -x; go test $$race -timeout 30m $(TESTFLAGS) $$packages) || status=1; \
	if [[ $$alone ]]; then (set -x; go test $$race -timeout 30m -p 1 $(TESTFLAGS) $$alone) || status=1; fi; \
	exit $$status

docs: conformance ## the documents that are made from the code: topics, configuration, AsyncAPI, verbs, conformance
	go run ./internal/docgen

docs-check: ## that they are what the code says, and that the AsyncAPI ones are valid by its official schema; wants npm
	@scripts/docs-check

man: ## the manual pages, in OUT; SOURCE_DATE_EPOCH is their date, VERSION the version that they name
	go run ./internal/docgen -man "$(OUT)" -version "$(VERSION)"

conformance: ## docs/conformance.md, from the names of the tests
	go test -count=1 ./internal/conformance -update

chaos: ## the fault tests in their long form, with what they counted: kills, full disks, slow and hostile clients, guesses, a fleet of 500; an hour and more
	@scripts/test-deps >/dev/null
	@scripts/chaos

# Without cgo, as the command is built: what was compiled for it serves here.
lint docs docs-check man conformance: export CGO_ENABLED = 0

lint: .tools/golangci-lint ## gofmt, go vet and golangci-lint
	@files=$$(gofmt -l .); if [[ -n $$files ]]; then echo "make lint: run gofmt -w on these:"; echo "$$files"; exit 1; fi
	go vet ./...
	cd bench && go vet .
	.tools/golangci-lint run ./...
	cd bench && ../.tools/golangci-lint run ./...

ui: ## the dashboard and the fleet's page, from bridge/web/ui to bridge/web/dist and internal/fleetui/dist; wants Node and npm
	cd bridge/web/ui && npm ci && npm run build

ui-check: ## that bridge/web/dist and internal/fleetui/dist are what their sources build
	@scripts/ui-check

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

dist: .tools/nfpm ## what is given to others, in dist/: tarballs and Debian packages for amd64, arm64 and armv7, and their sums
	@scripts/dist $(ARCHES)

dist-test: .tools/nfpm ## that two clones in different places build the same bytes
	@scripts/test-dist $(ARCHES)

deb-test: .tools/nfpm ## the Debian package: installed, run, upgraded, removed and purged in a Debian of its own; wants root
	@scripts/test-deb

clean: ## removes what was built here
	rm -rf bin dist .tools

# The tools have a module of their own, which pins their versions and keeps them out of ours.
.tools/golangci-lint: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# Apart from the other tools, whose libraries it would raise.
.tools/nfpm: tools/nfpm/go.mod tools/nfpm/go.sum
	go build -C tools/nfpm -o ../../$@ github.com/goreleaser/nfpm/v2/cmd/nfpm

.tools/govulncheck: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ golang.org/x/vuln/cmd/govulncheck

.tools/cyclonedx-gomod: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
