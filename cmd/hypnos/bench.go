package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"hypnos/backends/cpu"
	"hypnos/bench/speed"
	"hypnos/core/train"
)

// bench runs one of the benchmarks.
func bench(ctx context.Context, c console, args []string) error {
	if len(args) > 0 && args[0] == "speed" {
		return benchSpeed(ctx, c, args[1:])
	}
	if len(args) > 0 && args[0] == "equivalence" {
		return benchEquivalence(ctx, c, args[1:])
	}
	if len(args) > 0 && args[0] == "golden" {
		return benchGolden(ctx, c, args[1:])
	}
	if len(args) > 0 && args[0] == "continual" {
		return benchContinual(ctx, c, args[1:])
	}
	if len(args) > 0 && args[0] == "load" {
		return benchLoad(ctx, c, args[1:])
	}
	f := newFlags(c, "bench", "NAME [flags]", `
Runs a benchmark:
  speed        the CPU backend against the machine's limits and against other programs
  equivalence  backends against each other, layer by layer, with bounds
  golden       what a backend computed, in a file, and backends against it
  continual    learning from a stream, with sleep and without, in integers and in float32
  load         many clients of an edge daemon at a time

hypnos bench NAME --help shows its flags.

Examples:
  hypnos bench speed
  hypnos bench speed --only 'r20lc' --json speed.json
  hypnos bench equivalence --json eq.json`)
	if _, err := f.parse(args); err != nil {
		return err
	}
	return usageError{fmt.Errorf("missing the name of a benchmark: speed, equivalence, golden, continual, load")}
}

func benchSpeed(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "bench speed", "[flags]", `
Measures the machine's limits (peak of fused multiply-adds, bandwidth of memory), then layers of the paper's networks and
whole networks on the CPU backend, and prints each with the bound that follows from its arithmetic, the share of it that
is reached, and what binds. Rows are named kind/layer/batch/what, for example lc2d/c16x32/64/fwd+bwd,
net/r20lc/64/train_step_AdamW, net/r20lc/sleep_instant. Rows of the kinds memory and input set the resident memory of
training beside its plan, and tell whether training waits for images; those of the kind imagenet do that for ImageNet's pipeline:
JPEGs decoded into a cache, random crops and random-resized-crops from it, beside training steps of half-width ResNet18.

With --peer it runs another program, which prints its own timings as lines of JSON, in alternation with the same work
here, and prints the ratio of the times pair by pair; docs/performance.md says what the lines are.

Examples:
  hypnos bench speed --json speed.json
  hypnos bench speed --only 'lc2d/.*/64/' --threads 1
  hypnos bench speed --only '^(memory|input)/'
  hypnos bench speed --only '^imagenet/' --images imagenet-sample.tar
  hypnos bench speed --rounds 5 --peer 'python3 peer.py'`)
	var o speed.Options
	f.IntVar(&o.Threads, "threads", 0, "number of threads (default: one a core)")
	f.StringVar(&o.Kernels, "kernels", "", "version of the kernels: "+strings.Join(cpu.Versions(), ", ")+" (default: the first)")
	budget := f.Float64("budget", 0.5, "seconds to measure each row")
	only := f.String("only", "", "measure only the rows whose name the regular `expression` matches")
	f.Var((*list)(&o.Peers), "peer", "`command` of a peer to compare with; may be given several times")
	f.IntVar(&o.Rounds, "rounds", 3, "how often a peer runs")
	f.StringVar(&o.Images, "images", "", "few images for the rows of the kind imagenet: class folders or an archive of them (default: made-up JPEGs)")
	file := f.String("json", "", "write everything to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if !(*budget > 0 && *budget <= 3600) {
		return usageError{fmt.Errorf("--budget %g is outside (0, 3600]", *budget)}
	}
	if o.Rounds < 1 {
		return usageError{fmt.Errorf("--rounds %d is below 1", o.Rounds)}
	}
	o.Budget = time.Duration(*budget * float64(time.Second))
	if *only != "" {
		var err error
		if o.Only, err = regexp.Compile(*only); err != nil {
			return usageError{fmt.Errorf("--only: %w", err)}
		}
	}
	r := speed.Result{
		Program: "hypnos " + version(), Date: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), Machine: thisMachine(),
	}
	if err := speed.Run(ctx, o, &r, c.Out, c.Err); err != nil {
		if ctx.Err() != nil {
			return train.ErrInterrupted
		}
		return err
	}
	if *file == "" {
		return nil
	}
	return saveJSON(*file, r)
}

func thisMachine() speed.Machine {
	return speed.Machine{
		CPU: lineOf("/proc/cpuinfo", "model name"), Platform: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(),
		MemoryMB: kilobytesOf("/proc/meminfo", "MemTotal") / 1024, AvailableMB: kilobytesOf("/proc/meminfo", "MemAvailable") / 1024,
		CacheKB: lastLevelCacheKB(), Versions: cpu.Versions(),
	}
}

// lastLevelCacheKB is the size of the first core's largest cache, 0 where Linux does not tell.
func lastLevelCacheKB() int64 {
	var most int64
	for i := 0; ; i++ {
		text, err := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu0/cache/index%d/size", i))
		if err != nil {
			return most
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(text)), "K"), 10, 64)
		if err == nil {
			most = max(most, kb)
		}
	}
}
