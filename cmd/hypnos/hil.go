package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"hypnos/core/model"
	"hypnos/hil"
	"hypnos/hil/emulator"
)

func hilCommand(ctx context.Context, c console, args []string) error {
	if len(args) > 0 && args[0] == "bench" {
		return hilBench(ctx, c, args[1:])
	}
	f := newFlags(c, "hil", "-c RIG [--junit FILE] [--json FILE] [--html FILE] | bench", `
Runs scenarios on devices under test that a rig describes (a TOML file): processes on this machine, emulated processors,
emulated boards, real boards over SSH or a serial line. What a device computes, keeps and says is compared with what this machine knows. The exit code
is 0 when nothing failed and something was compared. A scenario that a target cannot run is skipped with the reason.

Run it in the source of Hypnos: the devices' programs are built from there. make hil-tools fetches emulator and kernel.

hypnos hil bench counts the instructions of inference, learning and sleep; see hypnos hil bench --help.

Examples:
  hypnos hil -c hil/rigs/ci.toml --junit hil.xml --json hil.json --html hil.html
  hypnos hil -c hil/rigs/ci.toml --target imx8mp-evk --scenario day
  hypnos hil -c hil/rigs/process.toml --self-test
  hypnos hil -c hil/rigs/process.toml --file my-scenario.toml`)
	path := f.String("c", "", "rig `file`")
	junit := f.String("junit", "", "write the report as JUnit XML to `file`")
	asJSON := f.String("json", "", "write the report as JSON to `file`")
	html := f.String("html", "", "write the report as a web page to `file`")
	targets := f.String("target", "", "only these targets, `names` with commas between")
	only := f.String("scenario", "", "only these scenarios, `names` with commas between")
	file := f.String("file", "", "one more scenario, a TOML `file`; without --scenario only this one")
	selfTest := f.Bool("self-test", false, "only what must fail: shows that mistakes are noticed")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *path == "" {
		return usageError{errors.New("which rig? -c FILE")}
	}
	rig, err := hil.ReadRig(*path)
	if err != nil {
		return err
	}
	o := hil.Options{Source: ".", Targets: commas(*targets), Only: commas(*only), SelfTest: *selfTest, Progress: c.Out}
	if *file != "" {
		s, err := hil.ReadScenario(*file)
		if err != nil {
			return err
		}
		o.Extra = append(o.Extra, s)
		if len(o.Only) == 0 {
			o.Only = []string{s.Name}
		}
	}
	if err := hil.CheckSource(o.Source); err != nil {
		return err
	}
	report, err := hil.Run(ctx, rig, o)
	if report == nil {
		return err
	}
	for _, w := range []struct {
		path  string
		write func(io.Writer) error
	}{{*junit, report.WriteJUnit}, {*asJSON, report.WriteJSON}, {*html, report.WriteHTML}} {
		if w.path != "" {
			err = errors.Join(err, model.Replace(w.path, w.write))
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "\n%d passed, %d failed, %d skipped in %.0f s; %d things compared, seed %d\n",
		report.Count(hil.Passed), report.Count(hil.Failed), report.Count(hil.Skipped), report.Seconds, report.Compared, report.Seed)
	return report.Err()
}

// commas are names with commas between.
func commas(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func hilBench(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "hil bench", "[--json FILE] [--baseline FILE] [--update]", `
Counts the instructions of an emulated arm64 processor for inference, a wake step and sleeps of a small network in integers, on
one thread: the same from run to run. They are instructions, never a board's time. The counts are compared with a baseline; the
exit code is 1 when one has grown by more than 1 %. make hil-tools fetches emulator and kernel.

Examples:
  hypnos hil bench
  hypnos hil bench --json cost.json
  hypnos hil bench --update`)
	asJSON := f.String("json", "", "write the counts to `file`")
	path := f.String("baseline", "hil/baseline.json", "`file` of the counts to compare with")
	update := f.Bool("update", false, "make the counts the baseline")
	tools := f.String("tools", ".tools/hil", "`folder` of make hil-tools")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if err := hil.CheckSource("."); err != nil {
		return err
	}
	before, err := hil.ReadCosts(*path)
	if err != nil && !(*update && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	costs, err := hil.CountCosts(ctx, ".", filepath.Join(*tools, "cache"), emulator.Tools{Dir: *tools})
	if err != nil {
		return err
	}
	if err := costs.Write(c.Out, before); err != nil {
		return err
	}
	if *asJSON != "" {
		if err := model.Replace(*asJSON, costs.WriteJSON); err != nil {
			return err
		}
	}
	if *update {
		return model.Replace(*path, costs.WriteJSON)
	}
	for _, why := range costs.Explain(before) {
		fmt.Fprintln(c.Out, why)
	}
	if grown := costs.Grown(before, 0.01); len(grown) > 0 {
		return fmt.Errorf("more instructions than in %s by more than 1 %%: %s (--update accepts them)", *path, strings.Join(grown, ", "))
	}
	return nil
}
