# alignedfusion: build, test and demo. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Under another name than $(MAKE), which `make -n` runs: it shall install nothing.
SELF := $(MAKE)
MODULE := github.com/alignedfusion/alignedfusion

# A libtorch once chosen with LIBTORCH=/path stays chosen; `LIBTORCH= make
# setup` goes back to the system's.
ifeq ($(origin LIBTORCH),undefined)
LIBTORCH := $(shell cat build/libtorch 2>/dev/null)
endif
export LIBTORCH

# The version names the commit in the host only: a run records its plugins by
# hash, and equal sources must give equal plugins.
VERSION := 0.2.0-dev$(addprefix +,$(shell git rev-parse --short=12 HEAD 2>/dev/null))
# Without collecting garbage the compiler takes a sixth less time, and 0.3 to 0.6 GB a process.
GO_BUILD := GOGC=off GOMEMLIMIT=1GiB go build -buildvcs=false
# gRPC's trace pages bring in html/template, whose reflection keeps the linker from leaving
# anything out: plugins are 8 instead of 12 MB without. Names are resolved without libc, so
# that host and plugins are of the same compiled packages. Debug information is a sixth of
# the compiler's time and is stripped; plain `go` commands have it. All commands share the
# flags and with them the build cache.
export GOFLAGS := -tags=grpcnotrace,netgo,osusergo -gcflags=all=-dwarf=false $(GOFLAGS)
BUILD_HOST = $(GO_BUILD) -ldflags '-s -w -X $(MODULE)/host/cli.Version=$(VERSION)' -o bin/ ./cmd/alignedfusion
PLUGINS := ./plugins/alignedfusion-plugins
KERNELS = $(addprefix -kernels ,$(wildcard plugins/*/native)) -optional sdk/torchstage/native -optional sdk/torchstage/native/nccl/native

# Passive waiting: idle OpenMP and OpenBLAS threads must not slow others. A small
# training step is four times faster for it.
export OMP_WAIT_POLICY ?= passive
export OPENBLAS_THREAD_TIMEOUT ?= 4

##@ Use

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-zA-Z_-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing, fit gotch to this machine's libtorch, build everything into bin/
	@libtorch=$$(tools/setup/system.sh) && $(SELF) build LIBTORCH="$$libtorch"

.PHONY: demo
demo: setup ## synthetic CT set, four trained detectors, one table, in demo/
	bin/alignedfusion demo --out demo

.PHONY: doctor
doctor: ## say what is wrong with this machine and how to mend it
	@bin/alignedfusion doctor

##@ Build

# The C++ side compiles beside all of the Go side but the plugins' program, which links it.
.PHONY: fit
fit: build/fitgotch ## fit gotch to the libtorch found ($LIBTORCH, else the system's): what this project calls of it
	@build/fitgotch -go-only
	@build/fitgotch -shim-only $(KERNELS) & shim=$$!; \
		$(BUILD_HOST) $(filter-out $(PLUGINS) ./plugins/internal,$(wildcard ./plugins/*)) || { kill $$shim; exit 1; }; \
		wait $$shim
	@printf '%s\n' "$${LIBTORCH:-}" > build/libtorch

build/fitgotch: $(wildcard tools/fitgotch/*.go tools/fitgotch/extra/*) go.mod
	@GOWORK=off $(GO_BUILD) -o $@ ./tools/fitgotch

.PHONY: kernels
kernels: build/fitgotch ## build the plugins' own C++ kernels that changed (and libtch.so, if it did) into build/lib/
	@build/fitgotch -shim-only $(KERNELS)

.PHONY: build
build: plugins ## build host and plugins into bin/

.PHONY: host
host: ## build the host only (no libtorch, no C compiler needed)
	@$(BUILD_HOST)

.PHONY: plugins
plugins: fit ## build the plugins into bin/plugins/: one program, linked to the name of each
	@mkdir -p bin/plugins
	@$(GO_BUILD) -ldflags '-s -w' -o build/alignedfusion-plugins $(PLUGINS)
	@for name in $$(cat $(PLUGINS)/names); do ln -f build/alignedfusion-plugins "bin/plugins/alignedfusion-plugin-$$name"; done

.PHONY: release
release: build ## pack dist/ for machines without Go, with libraries for each of LIBTORCHS (folders) (docs/how-to/install.md)
	@go run ./tools/release -version '$(VERSION)' $(LIBTORCHS)
	@ls -l dist/*.tar.gz

# The second one is made elsewhere and compiles everything anew.
.PHONY: release-test
release-test: build ## pack the commit twice, from two folders with a build cache each, and compare byte for byte
	@two=$$(mktemp -d); trap 'rm -rf "$$two"' EXIT; \
	git clone -q . "$$two/1"; git clone -q "$$two/1" "$$two/2"; \
	for n in 1 2; do \
		cp -r build go.work* "$$two/$$n"; \
		GOCACHE="$$two/cache$$n" go run -C "$$two/$$n" ./tools/release -version check -out "$$two/dist$$n" $(LIBTORCHS); \
	done; \
	diff "$$two"/dist?/SHA256SUMS && cat "$$two/dist1/SHA256SUMS"

.PHONY: release-pages
release-pages: release ## follow the pages that unpack a release on the archive just made: README, install, cluster
	@ALIGNEDFUSION_RELEASE=$$(realpath dist/*-linux-$$(go env GOARCH).tar.gz) go test -count=1 ./host/cli/thirdparty \
		-run 'TwoCommands|PagesWordForWord/(README|install|my-scans)'

.PHONY: clean
clean: ## remove everything that was built, and the demo's results
	rm -rf bin build demo dist go.work go.work.sum

##@ Check

.PHONY: setup-test
setup-test: setup ## also install what the tests compare against (PyTorch, protoc)
	@tools/setup/system.sh test >/dev/null

# What builds strangers' modules and follows whole pages is long, and has a target of its own;
# vet belongs to `make lint`.
# Many tests wait for processes rather than compute: more packages run at a time than there are
# cores, those that wait longest first.
LONG := /(cmd/alignedfusion|host/scaffold|host/cli/thirdparty)$$
TEST := go test -vet=off -timeout 20m -p $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

.PHONY: test
test: build ## the tests of a change: all rules, commands, faults and plugins (about 3 min on two cores)
	@$(TEST) $$(go list ./host/plughost ./host/cli ./plugins/a3d ./... | grep -vE '$(LONG)')

.PHONY: test-pages
test-pages: build ## the pages of the docs word for word, plugins as strangers begin, build and break them (about 4 min)
	@$(TEST) $$(go list ./... | grep -E '$(LONG)')

# The race detector compiles and links everything a second time and slows tests down: it
# watches the packages that start goroutines or hold locks themselves, and of the program as
# a whole the trainings that run, stop and are killed. Synthetic slices, twelve times slower for
# it, are made there; the toys serve the suite's tests. Where libtorch is reached it would mean
# compiling gotch again.
.PHONY: test-race
test-race: ## what runs at the same time, under the race detector (about 3 min)
	@torch=$$(go list -test -f '{{$$p := .ImportPath}}{{range .Deps}}{{if eq . "github.com/sugarme/gotch"}}{{$$p}}{{"\n"}}{{end}}{{end}}' ./... \
		| sed 's/ \[.*//; s/_test$$//; s/\.test$$//' | sort -u); \
	concurrent=$$(grep -rlE '(^|\s)go (func|[a-zA-Z.]+)\(|\.Go\(|atomic\.|sync\.(RW)?Mutex' --include='*.go' host sdk eval internal | xargs -n1 dirname | sort -u | sed 's|^|$(MODULE)/|'); \
	race=$$(comm -23 <(echo "$$concurrent") <(echo "$$torch") | grep -vE '/host/(cli|dataset/synth)|/plugintest'); \
	out=$$(mktemp); trap 'rm -f "$$out"' EXIT; status=0; \
	$(TEST) -race -run 'Signal|Killed|Dies|TrainScripts/(detect|classify)' ./host/cli >"$$out" 2>&1 & \
	$(TEST) -race $$race || status=1; \
	wait $$! || status=1; cat "$$out"; exit $$status

.PHONY: test-slurm
test-slurm: host ## an array of shards on a Slurm of this machine alone (root; Debian's slurm-wlm and munge)
	@examples/slurm/test.sh bin/alignedfusion

.PHONY: test-libtorch
test-libtorch: build ## set up, compare and train with the system's libtorch and each of LIBTORCHS (folders)
	@tools/setup/libtorch-test.sh $(LIBTORCHS)

.PHONY: test-cuda
test-cuda: build ## compile, link and load the C++ parts for CUDA, which needs no GPU but downloads 4 GB once
	@tools/gpu/compile-test.sh

.PHONY: lint
lint: build/staticcheck build/misspell ## gofmt, vet, staticcheck, spelling and the project's own rules
	@go run ./tools/lint -systems linux/arm64,darwin/arm64,windows/amd64
	@build/misspell -error $$(git ls-files '*.md' '*.go' '*.py' '*.yaml' ':!*_test.go' ':!*/testdata/*' ':!host/report/rules/*')
	@go vet ./...
	@build/staticcheck ./...

build/misspell: tools/dev/go.mod
	@GOWORK=off go -C tools/dev build -buildvcs=false -o ../../$@ github.com/golangci/misspell/cmd/misspell

build/staticcheck: tools/dev/go.mod
	@GOWORK=off go -C tools/dev build -buildvcs=false -o ../../$@ honnef.co/go/tools/cmd/staticcheck

FUZZTIME ?= 10s
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s) each; what each did goes to build/fuzz.csv
	@tools/fuzz.sh $(FUZZTIME) host sdk eval internal plugins tools

FUZZNIGHT ?= 40m
.PHONY: fuzz-readers
fuzz-readers: ## for a night: fuzz the readers of evaluation files for FUZZNIGHT (40m) each
	@tools/fuzz.sh $(FUZZNIGHT) eval/froc/frocio internal/npz internal/nifti internal/table

N ?= 20
SEED ?= 1
.PHONY: mutants
mutants: ## change N places of each package (PKG, or the watched ones) by SEED and see whether its tests notice
	@go run ./tools/mutants -n $(N) -seed $(SEED) $(PKG)

.PHONY: mutants-plugins
mutants-plugins: build ## give each plugin N faults (N=6) of its mathematics and see whether `plugin validate` names them, and the mutants in Python
	@go run ./tools/mutants -plugins -n $(if $(filter file,$(origin N)),6,$(N)) -seed $(SEED) $(PKG)
	@$(if $(PKG),,ALIGNEDFUSION_MUTANTS=all go test -count=1 ./host/cli/thirdparty -run MutantsInPython -v | grep -E '^ *(---|FAIL|ok)')

.PHONY: peers-reports
peers-reports: host ## read the same sentences by medspaCy and negspacy too; compare states, with intervals (needs PyPI)
	@test -x build/peers-reports/bin/python || { python3 -m venv build/peers-reports && build/peers-reports/bin/pip install -q -r tools/peers/reports/requirements.txt; }
	@build/peers-reports/bin/python tools/peers/reports/compare.py

BENCH ?= .
.PHONY: bench
bench: build ## run the benchmarks (BENCH=regexp selects)
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...

.PHONY: peers
peers: host ## evaluate random files by pycocotools, picai_eval, MONAI and torchmetrics too; compare figures and times (needs PyPI)
	@test -x build/peers-env/bin/python || { /usr/bin/python3 -m venv --system-site-packages build/peers-env && build/peers-env/bin/pip install -q -r tools/peers/requirements.txt; }
	@build/peers-env/bin/python tools/peers/peers.py

##@ Generate

.PHONY: docs
docs: host ## write docs/reference/commands, settings.md, figures.md and exit-codes.md from the program, the lists of ports from the catalogue
	@go test -count=1 -run UpToDate ./sdk/ports -update >/dev/null
	@rm -rf docs/reference/commands && bin/alignedfusion reference docs/reference
	@bin/alignedfusion exit-codes --markdown > docs/reference/exit-codes.md

.PHONY: man
man: host ## write man pages of every command into build/man/
	@bin/alignedfusion reference --man build/man

.PHONY: site
site: ## build the documentation as a static site into build/site/ (needs Python and PyPI)
	@test -x build/site-env/bin/mkdocs || { python3 -m venv build/site-env && build/site-env/bin/pip install -q -r tools/site/requirements.txt; }
	@NO_MKDOCS_2_WARNING=1 build/site-env/bin/mkdocs build -q --strict -f tools/site/mkdocs.yml
	@echo build/site/index.html

.PHONY: picture
picture: demo ## draw the README's picture, docs/tutorials/report-page.png, from the demo (needs chromium)
	@tools/site/picture.sh demo

.PHONY: docs-check
docs-check: host ## fail when the pages of docs/reference that the program writes are out of date
	@rm -rf build/reference && bin/alignedfusion reference build/reference
	@{ diff -ru docs/reference/commands build/reference/commands && for page in settings figures; do diff -u docs/reference/$$page.md build/reference/$$page.md || exit; done; } || \
		{ echo "run \`make docs\`" >&2; exit 1; }
	@go run ./tools/results -check

.PHONY: results
results: ## write the tables of the docs from docs/results/*.json
	@go run ./tools/results

.PHONY: proto
proto: build/protoc-gen-go build/protoc-gen-go-grpc ## generate Go code from sdk/proto (needs protoc)
	@command -v protoc >/dev/null || { echo "protoc is missing: make setup-test installs it" >&2; exit 1; }
	protoc -I sdk/proto --plugin=build/protoc-gen-go --plugin=build/protoc-gen-go-grpc \
		--go_out=. --go_opt=module=$(MODULE) --go-grpc_out=. --go-grpc_opt=module=$(MODULE) \
		--descriptor_set_out=sdk/python/alignedfusion_sdk/stage.binpb \
		$$(cd sdk/proto && find . -name '*.proto' | sed 's|^\./||' | sort)

.PHONY: proto-check
proto-check: build/protoc-gen-go build/protoc-gen-go-grpc ## fail when generated code and sdk/proto disagree
	@before=$$(mktemp -d); trap 'rm -rf "$$before"' EXIT; \
	cp -r sdk/proto sdk/python/alignedfusion_sdk/stage.binpb "$$before"; \
	$(MAKE) proto >/dev/null; \
	diff -r "$$before/proto" sdk/proto && cmp "$$before/stage.binpb" sdk/python/alignedfusion_sdk/stage.binpb && echo "generated code is up to date"

build/protoc-gen-go: tools/dev/go.mod
	@GOWORK=off go -C tools/dev build -buildvcs=false -o ../../$@ google.golang.org/protobuf/cmd/protoc-gen-go

build/protoc-gen-go-grpc: tools/dev/go.mod
	@GOWORK=off go -C tools/dev build -buildvcs=false -o ../../$@ google.golang.org/grpc/cmd/protoc-gen-go-grpc
