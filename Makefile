# Targets with a description behind ## are listed by `make help`.
SHELL       := /bin/bash -o pipefail
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null)
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null)
PKG     := github.com/docket-project/docket/internal/app
LDFLAGS := -s -w -X $(PKG).Version=$(VERSION) -X $(PKG).Commit=$(COMMIT) -X $(PKG).Date=$(DATE)

# A number of runs, not a time: with a time, go test may fail at its end without any input to blame (go.dev/issue/75804, until Go 1.27).
FUZZTIME ?= 200000x
OPAS     := 1.22:e2e 1.0:e2e/opa/v1.0 0.70:e2e/opa/v0.70 0.45:e2e/opa/v0.45
OPA_BINS := $(foreach o,$(OPAS),e2e/.bin/opa-$(firstword $(subst :, ,$(o))))

.PHONY: help build run test race lint fuzz bench load e2e drills golden kafka schemathesis node pages k6 verify generate sbom clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build bin/docket and, for images with one role each, bin/ingest, bin/saver and bin/parking.
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

run: build ## Build and start docket with nothing else installed; data goes to ./data.
	./bin/docket serve

test: ## Run every test; those of servers that are not installed are skipped, unless CI is set.
	go test -timeout 10m -parallel 6 ./...
	cd bench && go test -timeout 5m ./...

kafka: .servers/kafka/.complete ## Fetch the Apache Kafka that tests and benchmarks start, with Maven.

.servers/kafka/.complete: tools/kafka/pom.xml
	rm -rf .servers/kafka
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.servers/kafka
	touch $@

schemathesis: .servers/schemathesis/.complete ## Fetch the Schemathesis that e2e asks the API with, with Python.

.servers/schemathesis/.complete: tools/schemathesis/requirements.txt
	rm -rf .servers/schemathesis
	python3 -m venv .servers/schemathesis
	.servers/schemathesis/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

node: .servers/node/.complete ## Fetch what checks the console's scripts and pages, with npm.

.servers/node/.complete: tools/console/package-lock.json tools/console/package.json
	rm -rf .servers/node && mkdir -p .servers/node
	cp tools/console/package.json tools/console/package-lock.json tools/console/.npmrc .servers/node/
	cd .servers/node && npm ci --silent --no-audit --no-fund
	touch $@

# The generator of the pages, pinned in a module of its own.
bin/templ: tools/templ/go.sum
	go build -C tools/templ -o $(CURDIR)/$@ github.com/a-h/templ/cmd/templ

pages: bin/templ ## Generate the Go code of the console's pages from their templates.
	bin/templ generate -path internal/adapters/console -log-level error

race: ## Run the same tests under the race detector.
	CGO_ENABLED=1 go test -race -timeout 25m -parallel 6 ./...
	cd bench && CGO_ENABLED=1 go test -race -timeout 5m ./...

lint: ## Run golangci-lint, pinned in a module of its own.
	go build -C tools/golangci-lint -o $(CURDIR)/bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/golangci-lint run ./...
	cd e2e && ../bin/golangci-lint run ./...
	cd bench && ../bin/golangci-lint run ./...

# A new input is made smaller for two seconds: go test would take a minute for each, and fuzz nothing meanwhile.
fuzz: ## Fuzz every decoder for FUZZTIME each.
	@set -e; for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$p; done; done

bench: build kafka ## Measure (about an hour): parts, docket embedded, its roles on real servers, the store, dead letters, a baseline; results go to bench/out.
	go test -run '^$$' -bench . -benchtime 1s ./internal/domain ./internal/adapters/sqlite
	go build -C bench -o $(CURDIR)/bin/docket-bench .
	bin/docket-bench -docket bin/docket -out bench/out embedded
	bin/docket-bench -docket bin/docket -out bench/out -seconds 60 -times 3 roles
	bin/docket-bench -docket bin/docket -out bench/out slow
	bin/docket-bench -docket bin/docket -out bench/out -rows 5000000 store
	bin/docket-bench -docket bin/docket -out bench/out -rows 330000 search
	bin/docket-bench -docket bin/docket -out bench/out -rows 330000 pages
	bin/docket-bench -docket bin/docket -out bench/out -rows 330000 -seconds 20 stampede
	bin/docket-bench -docket bin/docket -out bench/out -times 2 searched
	bin/docket-bench -docket bin/docket -out bench/out -rows 1000000 dead
	bin/docket-bench -docket bin/docket -out bench/out -seconds 60 baseline

# smoke, reference, outage, spike, stress, soak; burst and savers, whose load is not k6's
SCENARIO ?= reference
SOAK     ?= 30m
USERS    ?= 7000

load: build kafka k6 ## Run SCENARIO (smoke, reference, outage, spike, stress, soak, burst, savers) and write bench/out/load/SCENARIO/report.html.
	go build -C bench -o $(CURDIR)/bin/docket-bench .
	bin/docket-bench -docket bin/docket -k6 e2e/.bin/k6 -out bench/out/load/$(SCENARIO) $(if $(filter burst savers,$(SCENARIO)),$(SCENARIO),-only $(SCENARIO) -soak $(SOAK) -users $(USERS) k6)

k6: e2e/.bin/k6 ## Build the k6 that runs the scripts in k6/.

e2e/.bin/k6: e2e/go.sum
	CGO_ENABLED=0 go build -C e2e -o $(CURDIR)/$@ go.k6.io/k6

e2e: build kafka schemathesis node k6 $(OPA_BINS) ## Run docket as its users do, with real OPAs, Kafka and PostgreSQL, and break them.
	cd e2e && go test -count=1 -timeout 35m -v -skip '^TestLongDrill' .

drills: build kafka ## Make every fault under load (half an hour) and write what came of it into docs/drills.md.
	cd e2e && DRILLS_OUT=../docs/drills.md go test -count=1 -timeout 60m -v -run Drill .

define opa_rule
e2e/.bin/opa-$(firstword $(subst :, ,$(1))): $(lastword $(subst :, ,$(1)))/go.sum
	CGO_ENABLED=0 go build -C $(lastword $(subst :, ,$(1))) -o $(CURDIR)/$$@ github.com/open-policy-agent/opa
endef
$(foreach o,$(OPAS),$(eval $(call opa_rule,$(o))))

golden: e2e/.bin/opa-1.22 ## Record anew what a real OPA uploads, for the tests of domain.
	go run -C e2e ./golden $(CURDIR)/e2e/.bin/opa-1.22 testdata ../internal/domain/testdata/opa
	go test ./internal/domain -run Golden -update

generate: pages ## Rewrite generated code and documents, and the parts of k6's uploads.
	go run -C bench . k6-events > k6/events.json.new && mv k6/events.json.new k6/events.json
	go test ./internal/command -run 'Document' -update

verify: bin/templ node ## Check that modules are tidy, code is formatted, scripts have types, and what is generated is current.
	@sum=$$(sha256sum internal/adapters/console/*_templ.go) && $(MAKE) -s pages && \
	  { [ "$$sum" = "$$(sha256sum internal/adapters/console/*_templ.go)" ] || { echo "the pages' code was not current: commit what make pages has made"; exit 1; }; }
	bin/templ fmt -fail internal/adapters/console >/dev/null
	.servers/node/node_modules/.bin/tsc -p tools/console
	@set -e; for m in . e2e bench; do (cd $$m && go mod tidy -diff && go vet ./...); done
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go test ./internal/app ./internal/command -run 'Document|OPAConfiguration|OpenAPI|Dependencies'

PROGRAMS ?= docket ingest saver parking

bin/cyclonedx-gomod: tools/sbom/go.sum
	go build -C tools/sbom -o $(CURDIR)/$@ github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

# The modules are those of the source; each that the binary says it is made of has to be among them, and no other. The
# version of docket itself is that of the git repository, without which there is no list.
sbom: build bin/cyclonedx-gomod ## Write a CycloneDX bill of materials for each of PROGRAMS: its modules, their licenses and hashes.
	@set -e; for p in $(PROGRAMS); do \
	  bin/cyclonedx-gomod app -json -licenses -assert-licenses -noserial -notimestamp -main cmd/$$p -output bin/$$p.cdx.json . \
	    2> bin/sbom.log || { cat bin/sbom.log; exit 1; }; rm bin/sbom.log; \
	  go version -m bin/$$p | awk '$$1 == "dep" { print $$2 "@" $$3 }' | sed 's/+/%2B/' > bin/$$p.modules; \
	  while read -r m; do grep -qF "\"bom-ref\": \"pkg:golang/$$m?" bin/$$p.cdx.json || { echo "bin/$$p.cdx.json lacks $$m"; exit 1; }; \
	  done < bin/$$p.modules; \
	  n=$$(grep -c '"bom-ref": "pkg:golang/' bin/$$p.cdx.json); want=$$(($$(wc -l < bin/$$p.modules) + 1)); rm bin/$$p.modules; \
	  [ "$$n" = "$$want" ] || { echo "bin/$$p.cdx.json has $$n modules, bin/$$p has $$want"; exit 1; }; \
	  echo "bin/$$p.cdx.json: $$n modules"; done

clean: ## Remove what was built.
	rm -rf bin bench/out e2e/.bin .servers
