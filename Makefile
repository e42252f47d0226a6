# make demo and make test need Go, git and make, nothing else. `make help` lists the rest.
export CGO_ENABLED := 0

GO    ?= go
GENS  := backends/cpu/internal/kernel/gen backends/fixed/internal/kernel/gen
SUDO  := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: demo test build help vet fmt tidy race purego cross test-arm arm-tools cuda-tools generate generate-check bench fuzz clean

demo: ## the paper's effect on the embedded sample: a table and a figure, about two minutes on two cores
	$(GO) run ./cmd/hypnos demo

test: ## all tests
	$(GO) test ./...

build: ## the tool, as bin/hypnos
	$(GO) build -o bin/ ./cmd/...

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

vet: ## go vet, on every platform that is built for
	$(GO) vet ./...
	$(GO) vet -tags purego ./...
	GOARCH=arm64 $(GO) vet ./...
	GOARCH=arm GOARM=7 $(GO) vet ./...
	for g in $(GENS) backends/internal/neon; do (cd $$g && $(GO) vet ./...) || exit 1; done

fmt: ## fails when a file is not formatted
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not formatted:"; echo "$$unformatted"; exit 1; fi

tidy: ## fails when go.mod does not fit the code
	$(GO) mod tidy -diff
	$(GO) mod verify
	for g in $(GENS) backends/internal/neon; do (cd $$g && $(GO) mod tidy -diff) || exit 1; done

race: ## the race detector, on the packages with goroutines; needs a C compiler
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m ./core/data ./core/train ./backends ./backends/cpu/... ./bench/... ./cmd/...

purego: ## the tests of the backends without assembly
	$(GO) test -tags purego ./backends/... ./core/train/...

cross: ## builds for every platform; integers give the same bytes on amd64, arm64 and armv7
	for arch in amd64 arm64 arm; do GOARCH=$$arch GOARM=7 $(GO) build -o bin/linux-$$arch/ ./cmd/... || exit 1; done
	for os in darwin windows; do GOOS=$$os $(GO) build ./... || exit 1; done
	@GO=$(GO) .ci/identity

test-arm: ## the tests on emulated arm64 and armv7 processors
	@if ! command -v qemu-aarch64-static >/dev/null || ! command -v qemu-arm-static >/dev/null; then \
		echo "SKIPPED: no emulator; make arm-tools installs it"; exit 0; fi; set -x; \
	GOARCH=arm64 $(GO) test -short -timeout 30m -exec qemu-aarch64-static ./... && \
	GOARCH=arm GOARM=7 $(GO) test -short -timeout 30m -exec qemu-arm-static ./...

arm-tools: ## installs the emulators of test-arm and the disassembler of generate-check from Debian
	$(SUDO) apt-get update
	$(SUDO) apt-get install -y --no-install-recommends qemu-user-static binutils-aarch64-linux-gnu

cuda-tools: ## headers, nvcc and ptxas of CUDA 11.8 from Debian, unpacked into .tools/cuda
	sh backends/cuda/tools.sh .tools/cuda

# The generators write beside their own directory, $(1), and name the command in what they write.
generators = (cd $(1) && $(GO) run . -out ../kernel_amd64.s -stubs ../stubs_amd64.go -pkg kernel && \
	$(GO) run ./neon -out ../kernel_arm64.s -stubs ../stubs_arm64.go)

generate: ## the assembly of the kernels from its generators
	for g in $(GENS); do $(call generators,$$g) || exit 1; done

generate-check: ## fails when the assembly is not what its generators make, or a disassembler reads something else in it
	@tmp=$$(mktemp -d); trap 'rm -rf '$$tmp EXIT; cp -R backends $$tmp/ && for g in $(GENS); do \
	$(call generators,$$tmp/$$g) || exit 1; \
	for f in kernel_amd64.s stubs_amd64.go kernel_arm64.s stubs_arm64.go; do diff -q $$tmp/$$g/../$$f $$g/../$$f || exit 1; done; done; \
	echo "assembly is as generated"
	@command -v aarch64-linux-gnu-objdump >/dev/null || \
		echo "SKIPPED: no disassembler for arm64; make arm-tools installs it"
	for g in $(GENS); do (cd $$g && $(GO) test ./...) || exit 1; done

BENCHTIME ?= 1s
bench: ## the Go benchmarks; BENCHTIME=1x runs each once
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

FUZZTIME ?= 20s
fuzz: ## the fuzz targets, each for FUZZTIME
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$p/*_test.go); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

clean: ## removes what make made
	rm -rf bin hypnos-demo
