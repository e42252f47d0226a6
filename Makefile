# make demo and make test need Go, git and make, nothing else. `make help` lists the rest.
export CGO_ENABLED := 0

GO    ?= go
GENS  := backends/cpu/internal/kernel/gen backends/fixed/internal/kernel/gen
SUDO  := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: demo test build sample help vet fmt tidy race purego cross test-arm arm-tools e2e e2e-tools hil hil-tools hil-bench cuda-tools cuda ptx cuda-check cuda-emu cuda-emu-kernels \
	cuda-emu-go cuda-emu-generated cuda-spills generate generate-check bench fuzz clean

demo: ## the paper's effect on the embedded sample: a table and a figure, about two minutes on two cores
	$(GO) run ./cmd/hypnos demo

test: ## all tests
	$(GO) test ./...

build: ## the tool, as bin/hypnos
	$(GO) build -o bin/ ./cmd/...

sample: bin/sample.hyp ## a package of a small network trained on the embedded sample, for configs/board-dev.toml

bin/sample.hyp: configs/sample-resnet8-lc-ws10.toml
	mkdir -p bin
	$(GO) run ./cmd/hypnos train -c $< --dir bin/sample-run
	$(GO) run ./cmd/hypnos package -m bin/sample-run/checkpoint.safetensors -o $@

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 18

vet: ## go vet, on every platform that is built for
	$(GO) vet ./...
	$(GO) vet -tags purego ./...
	GOARCH=arm64 $(GO) vet ./...
	GOARCH=arm GOARM=7 $(GO) vet ./...
	for g in $(GENS) backends/internal/neon server/e2e; do (cd $$g && $(GO) vet ./...) || exit 1; done

fmt: ## fails when a file is not formatted
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not formatted:"; echo "$$unformatted"; exit 1; fi

tidy: ## fails when go.mod does not fit the code
	$(GO) mod tidy -diff
	$(GO) mod verify
	for g in $(GENS) backends/internal/neon server/e2e; do (cd $$g && $(GO) mod tidy -diff) || exit 1; done

race: ## the race detector, on the packages with goroutines; needs a C compiler
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m ./core/data ./core/train ./backends ./backends/cpu/... ./bench/... ./board/... ./server/... ./hil/agent ./hil/target ./cmd/...

purego: ## the tests of the backends without assembly
	$(GO) test -tags purego ./backends/... ./core/train/...

cross: ## builds for every platform; integers give the same bytes on amd64, arm64 and armv7
	for arch in amd64 arm64 arm; do GOARCH=$$arch GOARM=7 $(GO) build -o bin/linux-$$arch/ ./cmd/... || exit 1; done
	for os in darwin windows; do GOOS=$$os $(GO) build ./... || exit 1; done
	@GO=$(GO) .ci/identity

# Nobody trains tables on an armv7, which is a board's.
test-arm: ## the tests on emulated arm64 and armv7 processors
	@if ! command -v qemu-aarch64-static >/dev/null || ! command -v qemu-arm-static >/dev/null; then \
		echo "SKIPPED: no emulator; make arm-tools installs it"; exit 0; fi; set -x; \
	GOARCH=arm64 $(GO) test -short -timeout 30m -exec qemu-aarch64-static ./... && \
	GOARCH=arm GOARM=7 $(GO) test -short -timeout 30m -exec qemu-arm-static $$($(GO) list ./... | grep -Ev '^hypnos/bench/(experiment|farm|speed|table)$$')

arm-tools: ## installs the emulators of test-arm and the disassembler of generate-check from Debian
	$(SUDO) apt-get update
	$(SUDO) apt-get install -y --no-install-recommends qemu-user-static binutils-aarch64-linux-gnu

E2E ?= -v
e2e: ## the edge daemon as a process: loaded, killed, updated, its page in a real browser; E2E=-short is quicker, HYPNOSD_ARCH=arm64 or arm emulates a board's processor
	@command -v chromium >/dev/null || echo "SKIPPED: no Chromium for the page; make e2e-tools installs it"
	cd server/e2e && $(GO) test -count=1 -timeout 20m $(E2E) ./...

hil-tools: ## QEMU 10, Debian's arm64 kernel and their tools, unpacked into .tools/hil
	sh hil/tools.sh .tools/hil

HIL ?= hil/rigs/all.toml
hil: ## hardware in the loop: all scenarios on processes, emulated processors and boards; HIL names another rig
	@sh hil/tools.sh .tools/hil || echo "SKIPPED: no emulated boards: their tools cannot be had"
	mkdir -p bin
	$(GO) run ./cmd/hypnos hil -c $(HIL) --junit bin/hil.xml --json bin/hil.json --html bin/hil.html

hil-bench: ## instructions of inference, learning and sleep on an emulated arm64, compared with hil/baseline.json
	@sh hil/tools.sh .tools/hil || { echo "SKIPPED: the tools cannot be had"; exit 0; }; $(GO) run ./cmd/hypnos hil bench

e2e-tools: ## installs the browser of e2e from Debian
	$(SUDO) apt-get update
	$(SUDO) apt-get install -y --no-install-recommends chromium fonts-dejavu-core

# What CUDA's headers, nvcc and ptxas are taken from: an installed toolkit that CUDA_HOME names, or what cuda-tools unpacks.
CUDA         := $(or $(CUDA_HOME),$(CURDIR)/.tools/cuda)
CUDA_INCLUDE := $(CUDA)$(if $(CUDA_HOME),,/usr)/include
CUDA_BIN     := $(CUDA)$(if $(CUDA_HOME),/bin)
CUDA_GO      := CGO_ENABLED=1 CGO_CFLAGS="-O2 -g -I$(CUDA_INCLUDE)" $(GO)
cuda_tools    = $(if $(CUDA_HOME),true,sh backends/cuda/tools.sh .tools/cuda $(1))
EMU          := $(CURDIR)/bin/emu

cuda-tools: ## headers, nvcc and ptxas of CUDA 11.8 from Debian, unpacked into .tools/cuda
	sh backends/cuda/tools.sh .tools/cuda

cuda: ## the tool with the backend for NVIDIA GPUs, as bin/hypnos-cuda; needs a C compiler
	$(call cuda_tools,headers)
	$(CUDA_GO) build -tags cuda -o bin/hypnos-cuda ./cmd/hypnos

ptx: ## the kernels as PTX, compressed, from their source
	$(call cuda_tools)
	mkdir -p bin
	for a in 75 80; do $(CUDA_BIN)/nvcc -std=c++17 -ptx -arch=compute_$$a backends/cuda/kernels/kernels.cu -o bin/kernels_$$a.ptx && \
		gzip -9 -n <bin/kernels_$$a.ptx >backends/cuda/kernels/kernels_$$a.ptx.gz || exit 1; done

cuda-check: ## bin/cuda-check, to carry to a machine with a GPU; where there is one, runs it: right numbers, then times
	$(call cuda_tools,headers)
	mkdir -p bin/cuda-check
	$(CUDA_GO) build -tags cuda -o bin/cuda-check/check ./backends/cuda/check
	for p in internal/driver .; do $(CUDA_GO) test -c -tags cuda -o bin/cuda-check/ ./backends/cuda/$$p || exit 1; done
	cp backends/cuda/check/run.sh bin/cuda-check/run && cp backends/cuda/check/peer.py bin/cuda-check/
	bin/cuda-check/run

cuda-emu: ## the CUDA backend on the CPU: kernels and driver emulated, tests with sanitizers and the race detector
	@command -v g++ >/dev/null || { echo "SKIPPED: no C++ compiler (g++)"; exit 0; }; \
	$(call cuda_tools) || { echo "SKIPPED: no headers and no ptxas of CUDA; CUDA_HOME names an installed toolkit"; exit 0; }; \
	$(MAKE) cuda-emu-kernels cuda-emu-go cuda-emu-generated cuda-spills

cuda-emu-kernels:
	$(MAKE) -j $$(nproc) -C backends/cuda/emu OUT=$(EMU)

# The stand-in for the driver's library. Kernels are compiled as the tests compile them. A fused multiply-add gives the same number
# whether the processor has it or not, only sooner.
$(EMU)/libcuda.so: backends/cuda/emu/fakecuda.cc $(wildcard backends/cuda/emu/include/* backends/cuda/kernels/*.cu*)
	mkdir -p $(EMU)
	g++ -std=c++20 -O2 -g1 -ffp-contract=off -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-function \
		$(shell grep -qw fma /proc/cpuinfo && echo -mfma) -ftls-model=initial-exec \
		-DCUDA_EMU -Ibackends/cuda/emu/include -I$(CUDA_INCLUDE) $< -o $@

# The parts of the suite that take most of the time are many cases of numbers, in the same goroutines as the rest: without the
# race detector, under which they take three times as long.
CUDA_LONG := ^TestCompliance$$/^(SleepIsInterruptible|PlasticSleep|PlasticSleepSameBits|TiedLCEqualsConv|LayersAgainstReference|BatchOfOneAndOfMany|NonFiniteTravels|BroadcastOfLayers|FiniteDifferences)$$

cuda-emu-go: $(EMU)/libcuda.so
	$(CUDA_GO) vet -tags cuda ./backends/... ./cmd/...
	HYPNOS_CUDA_DRIVER=$< $(CUDA_GO) test -tags cuda -timeout 30m -run '$(CUDA_LONG)' ./backends/cuda
	HYPNOS_CUDA_DRIVER=$< $(CUDA_GO) test -race -tags cuda -timeout 30m -skip '$(CUDA_LONG)' ./backends/cuda/...
	HYPNOS_CUDA_DRIVER=$< $(CUDA_GO) test -tags cuda -run CUDA ./cmd/hypnos
	$(CUDA_GO) build -tags cuda -o $(EMU)/hypnos ./cmd/hypnos
	HYPNOS_CUDA_DRIVER=$(EMU)/none.so $(EMU)/hypnos doctor | grep '^cuda .*no NVIDIA driver'

cuda-emu-generated:
	@tmp=$$(mktemp -d); trap 'rm -rf '$$tmp EXIT; GO=$(GO) CGO_CFLAGS="-O2 -g -I$(CUDA_INCLUDE)" sh backends/cuda/internal/shim/generate.sh $$tmp && \
	for f in $$(ls $$tmp); do diff $$tmp/$$f backends/cuda/internal/shim/$$f || exit 1; done; echo "what stands in for libcuda is as generated"

# The driver compiles the PTX as ptxas does. A register that does not fit makes a kernel slow in silence.
cuda-spills:
	@for a in 75:75 80:80 80:90; do \
		gzip -dc backends/cuda/kernels/kernels_$${a%:*}.ptx.gz >bin/emu/kernels.ptx && \
		$(CUDA_BIN)/ptxas -v -arch=sm_$${a#*:} bin/emu/kernels.ptx -o /dev/null >bin/emu/ptxas.txt 2>&1 || { cat bin/emu/ptxas.txt; exit 1; }; \
		if grep -B2 ' [1-9][0-9]* bytes spill' bin/emu/ptxas.txt; then echo "registers spilled on sm_$${a#*:}"; exit 1; fi; \
		echo "sm_$${a#*:}: $$(grep -c 'Compiling entry' bin/emu/ptxas.txt) kernels, no spills"; done

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
	rm -rf bin hypnos-demo .tools
