package hil

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"hypnos/hil/compute"
	"hypnos/hil/message"
	"hypnos/hil/target"
	"hypnos/server/brain"
)

// session is one scenario on one device.
type session struct {
	target   target.Target
	scenario Scenario
	packages map[string]string
	seed     uint64
	random   *rand.Rand

	config string       // of the daemon
	brain  brain.Config // as the daemon has it
	twin   *twin
	deeds  []deed // acknowledged
	rested int    // whole sleeps among them before the daemon was started

	begin    time.Time
	compared int
	notes    []string
	samples  []Sample
}

// usual is the daemon's configuration. Nothing has it sleep but a request.
func usual(profile string) map[string]any {
	return map[string]any{
		"board": profile,
		"brain": map[string]any{
			"data": "{home}/data/store", "keys": []string{"{home}/maker.pub"}, "package": "{home}/v1.hyp", "rate": 1.0 / 1024, "measure_every": int64(0),
		},
		"governor": map[string]any{"night": []string{}, "wake_hold": "50ms", "stay_awake": "0s", "min_interval": "0s"},
		"server":   map[string]any{"listen": "{listen}", "rate": 0.0},
	}
}

// merged is a with what b has in its place, table by table.
func merged(a, b map[string]any) map[string]any {
	all := maps.Clone(a)
	for k, v := range b {
		inner, is := v.(map[string]any)
		outer, was := all[k].(map[string]any)
		if is && was {
			v = merged(outer, inner)
		}
		all[k] = v
	}
	return all
}

func newSession(t target.Target, s Scenario, packages map[string]string, seed uint64) (*session, error) {
	a := &session{target: t, scenario: s, packages: packages, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), begin: time.Now()}
	text, err := toml.Marshal(merged(usual(t.Profile()), s.Daemon))
	if err != nil {
		return nil, err
	}
	a.config = string(text)
	own := struct {
		Brain brain.Config `toml:"brain"`
	}{brain.DefaultConfig()}
	if _, err := toml.Decode(a.config, &own); err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	if err := own.Brain.Check(); err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	a.brain = own.Brain
	a.twin, err = newTwin(packages["v1.hyp"], a.brain)
	return a, err
}

func (a *session) close() { a.twin.close() }

// run does all steps.
func (a *session) run(ctx context.Context) error {
	if err := a.target.Erase(); err != nil {
		return err
	}
	if err := a.target.Boot(ctx); err != nil {
		return err
	}
	if err := a.mount(ctx); err != nil {
		return err
	}
	if !a.scenario.Off {
		if err := a.start(ctx, Start{}); err != nil {
			return err
		}
	}
	for i, s := range a.scenario.Steps {
		name, err := s.name()
		if err == nil {
			err = a.step(ctx, name, s)
		}
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, name, err)
		}
	}
	if a.compared == 0 {
		return errors.New("nothing was compared")
	}
	return nil
}

func (a *session) step(ctx context.Context, name string, s Step) error {
	switch name {
	case "compute":
		return a.compute(ctx, *s.Compute, cmp.Or(s.Package, "v1.hyp"), cmp.Or(s.Against, s.Package, "v1.hyp"))
	case "golden":
		return a.golden(ctx, s.Golden)
	case "start":
		return a.start(ctx, *s.Start)
	case "stop":
		return a.stop(ctx, s.Stop)
	case "cut":
		return a.cutAndStart(ctx)
	case "learn":
		return a.learn(ctx, s.Learn)
	case "classify":
		return a.classify(ctx, s.Classify)
	case "same":
		return a.same(ctx)
	case "sleep":
		return a.sleep(ctx)
	case "ask":
		return a.ask(ctx, s.Ask)
	case "expect":
		return a.expect(ctx, *s.Expect)
	case "heat":
		return a.target.World().SetTemperature(*s.Heat)
	case "ramp":
		return a.ramp(ctx, *s.Ramp)
	case "line":
		return a.target.World().SetLine(s.Line.Name, s.Line.High)
	case "wait":
		return pause(ctx, s.Wait.Duration)
	case "wake_edge":
		return a.wakeEdge(ctx, s.WakeEdge)
	case "cuts":
		return a.cuts(ctx, *s.Cuts)
	case "file":
		return a.target.Call(ctx, message.Write, message.File{Path: s.File.Path, Data: []byte(s.File.Text)}, nil)
	case "fill":
		var bytes int64
		err := a.target.Call(ctx, message.Fill, nil, &bytes)
		a.note("disk full after %.1f MB", float64(bytes)/1e6)
		return err
	case "remove":
		return a.target.Call(ctx, message.Remove, s.Remove, nil)
	case "read_only":
		return a.target.(target.Storage).Mount(ctx, *s.ReadOnly, true)
	case "flip":
		var path string
		err := a.target.Call(ctx, message.Flip, message.Bit{Path: s.Flip.Path, Where: s.Flip.Where, Bit: a.random.IntN(8)}, &path)
		a.note("a bit of %s flipped", path)
		return err
	case "clock":
		return a.target.Call(ctx, message.Clock, s.Clock.Duration, nil)
	case "sensor":
		return a.sensor(ctx, s.Sensor)
	case "refused":
		return a.refused(ctx, *s.Refused)
	case "update":
		return a.update(ctx, *s.Update)
	case "rollback":
		return a.rollback(ctx)
	case "soak":
		return a.soak(ctx, *s.Soak)
	case "line_noise":
		a.target.Disturb(*s.LineNoise, a.seed)
		return nil
	}
	return errors.New("no such step")
}

func (a *session) note(format string, args ...any) {
	a.notes = append(a.notes, fmt.Sprintf(format, args...))
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// mount mounts the device's own disk, if it has one.
func (a *session) mount(ctx context.Context) error {
	if s, ok := a.target.(target.Storage); ok {
		return s.Mount(ctx, false, false)
	}
	return nil
}

// compute has the device compute with one package what the host computes with another, as a rule the same.
func (a *session) compute(ctx context.Context, l compute.Life, pack, against string) error {
	path, ok := a.packages[against]
	if !ok {
		return fmt.Errorf("no package %s", against)
	}
	want, _, err := compute.Run(ctx, path, l)
	if err != nil {
		return err
	}
	var got message.Lived
	if err := a.target.Call(ctx, message.Compute, message.Life{Package: pack, Life: l}, &got); err != nil {
		return err
	}
	a.compared += len(got.Stages)
	if err := compute.Compare(got.Stages, want); err != nil {
		return err
	}
	a.note("%d digests equal, with %s, last %.12s", len(want), got.Kernels, want[len(want)-1].Digest)
	return nil
}

// golden has the device compare what it computes with a golden file.
func (a *session) golden(ctx context.Context, path string) error {
	var c message.Checked
	if err := a.target.Call(ctx, message.Golden, path, &c); err != nil {
		return err
	}
	a.compared += c.Comparisons
	if len(c.Violated) > 0 {
		return fmt.Errorf("%d of %d comparisons with %s are out of bounds, the first: %s", len(c.Violated), c.Comparisons, c.Against, c.Violated[0])
	}
	if c.Nearest == "" {
		return errors.New("nothing was compared")
	}
	a.note("%d comparisons with %s hold; nearest: %s", c.Comparisons, c.Against, c.Nearest)
	return nil
}

func (a *session) start(ctx context.Context, s Start) error {
	var started message.Started
	a.rested = count(a.deeds, slept)
	err := a.target.Call(ctx, message.Start, message.Configuration{Text: a.config, Drop: s.Drop, Patience: 2 * time.Minute}, &started)
	if s.Fails == "" {
		return err
	}
	if err == nil {
		return errors.New("it started, and must not")
	}
	if !strings.Contains(err.Error(), s.Fails) {
		return fmt.Errorf("%w; want %q", err, s.Fails)
	}
	a.compared++
	return nil
}

func (a *session) stop(ctx context.Context, how string) error {
	if how != "in order" && how != "at once" {
		return fmt.Errorf("%q is neither \"in order\" nor \"at once\"", how)
	}
	return a.target.Call(ctx, message.Stop, how == "at once", nil)
}

func (a *session) cutAndStart(ctx context.Context) error {
	if err := a.target.Cut(); err != nil {
		return err
	}
	return a.again(ctx)
}

// again starts a device that is off, and its daemon.
func (a *session) again(ctx context.Context) error {
	if err := a.target.Boot(ctx); err != nil {
		return err
	}
	if err := a.mount(ctx); err != nil {
		return err
	}
	return a.start(ctx, Start{})
}

// refusal is an error that the daemon answers with.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (r *refusal) Error() string { return r.Message + " (" + r.Code + ")" }

// request asks the daemon, and reads its answer into result.
func (a *session) request(ctx context.Context, q message.Request, result any) error {
	var r message.Response
	if err := a.target.Call(ctx, message.HTTP, q, &r); err != nil {
		return err
	}
	return read(r, result)
}

func read(r message.Response, result any) error {
	if r.Status == http.StatusOK {
		if result == nil {
			return nil
		}
		return json.Unmarshal([]byte(r.Body), result)
	}
	var e struct {
		Error refusal `json:"error"`
	}
	if err := json.Unmarshal([]byte(r.Body), &e); err != nil || e.Error.Code == "" {
		return fmt.Errorf("status %d: %.200s", r.Status, r.Body)
	}
	return &e.Error
}

func (a *session) status(ctx context.Context) (s brain.Status, err error) {
	err = a.request(ctx, message.Request{Method: http.MethodGet, Path: "/v1/status"}, &s)
	if err == nil {
		a.sample(s)
	}
	return s, err
}

func (a *session) picture(i int) message.Request {
	return message.Request{Method: http.MethodPost, Path: "/v1/classify", Type: brain.Tensor, Body: a.twin.picture(i)}
}

// lesson is the request to learn from image i.
func (a *session) lesson(i int) message.Request {
	q := a.picture(i)
	q.Path = fmt.Sprintf("/v1/learn?label=%d", a.twin.label(i))
	return q
}

// learnOne has the device learn from the next image.
func (a *session) learnOne(ctx context.Context) error {
	var ack brain.Ack
	i := count(a.deeds, learned)
	if err := a.request(ctx, a.lesson(i), &ack); err != nil {
		return err
	}
	if !ack.Durable {
		return fmt.Errorf("step %d is not durable: %s", ack.Step, ack.Reason)
	}
	if ack.Step != int64(i)+1 {
		return fmt.Errorf("step %d, want %d", ack.Step, i+1)
	}
	a.deeds = append(a.deeds, learned)
	return nil
}

func (a *session) learn(ctx context.Context, images int) error {
	for range images {
		if err := a.learnOne(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a *session) classify(ctx context.Context, images int) error {
	for i := range images {
		i += 1 << 20 // none that it learns from
		var r brain.Result
		if err := a.request(ctx, a.picture(i), &r); err != nil {
			return err
		}
		if err := a.sameLogits(ctx, r, i); err != nil {
			return err
		}
	}
	return nil
}

func (a *session) sameLogits(ctx context.Context, r brain.Result, i int) error {
	want, err := a.twin.logits(ctx, a.deeds, i)
	if err != nil {
		return err
	}
	a.compared++
	if !slices.Equal(r.Logits, want) {
		return fmt.Errorf("image %d: logits %v, want %v", i, r.Logits, want)
	}
	return nil
}

// same compares the weights of the device with those of the twin.
func (a *session) same(ctx context.Context) error {
	want, err := a.twin.digest(ctx, a.deeds)
	if err != nil {
		return err
	}
	var got string
	if err := a.target.Call(ctx, message.Learned, nil, &got); err != nil {
		return err
	}
	a.compared++
	if got != want {
		return fmt.Errorf("weights after %d images and %d sleeps: digest %.12s…, want %.12s…", count(a.deeds, learned), count(a.deeds, slept), got, want)
	}
	return nil
}

func (a *session) ask(ctx context.Context, what string) error {
	if what != "sleep" && what != "wake" {
		return fmt.Errorf("%q is neither sleep nor wake", what)
	}
	return a.request(ctx, message.Request{Method: http.MethodPost, Path: "/v1/" + what}, nil)
}

// sleep asks for a sleep and waits until it has come to its end. Sleeps that were interrupted, and came to their end since the network
// last learned, are noted with it.
func (a *session) sleep(ctx context.Context) error {
	before, err := a.status(ctx)
	if err != nil {
		return err
	}
	if err := a.ask(ctx, "sleep"); err != nil {
		return err
	}
	return a.until(ctx, 2*time.Minute, func(s brain.Status) error {
		if s.Counters.Sleeps <= before.Counters.Sleeps {
			return fmt.Errorf("it has not slept: %s, %s", s.State, s.Reason)
		}
		for int64(count(a.deeds, slept)-a.rested) < s.Counters.Sleeps {
			a.deeds = append(a.deeds, slept)
		}
		return nil
	})
}

// until looks at the status until there is nothing wrong with it.
func (a *session) until(ctx context.Context, within time.Duration, wrong func(brain.Status) error) error {
	for end := time.Now().Add(within); ; {
		s, err := a.status(ctx)
		if err != nil {
			return err
		}
		if err = wrong(s); err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %v: %w", within, err)
		}
		if err := pause(ctx, 30*time.Millisecond); err != nil {
			return err
		}
	}
}

func (a *session) expect(ctx context.Context, e Expect) error {
	within := e.Within.Duration
	if within == 0 {
		within = 10 * time.Second
	}
	_, changes := false, 0
	if e.LED != "" {
		_, changes = a.target.World().LED()
	}
	a.compared++
	return a.until(ctx, within, func(s brain.Status) error {
		reading := "none"
		for _, r := range s.Readings {
			if r.Name == "temperature" {
				reading = readingText(r)
			}
		}
		reasons := ""
		for _, m := range s.Models {
			reasons += m.Reason + "; "
		}
		for _, x := range []struct {
			wrong     bool
			what      string
			got, want any
		}{
			{e.State != "" && s.State != e.State, "state", s.State + " (" + s.Reason + ")", e.State},
			{!strings.Contains(s.Reason, e.Reason), "reason", s.Reason, e.Reason},
			{s.Counters.Sleeps < e.Sleeps, "whole sleeps", s.Counters.Sleeps, e.Sleeps},
			{e.Version != 0 && s.Model.Version != e.Version, "version", s.Model.Version, e.Version},
			{!strings.Contains(reasons, e.Before), "returned from", reasons, e.Before},
			{!strings.Contains(reading, e.Reading), "temperature", reading, e.Reading},
			{e.Durable != nil && s.Durability.Durable != *e.Durable, "durable", s.Durability.Durable, e.Durable},
		} {
			if x.wrong {
				return fmt.Errorf("%s: %v, want %v", x.what, x.got, x.want)
			}
		}
		if e.LED != "" {
			return a.light(e.LED, changes)
		}
		return nil
	})
}

// light looks at the light; changes is how often it had changed before.
func (a *session) light(want string, before int) error {
	on, changes := a.target.World().LED()
	got := map[bool]string{true: "on", false: "off"}[on]
	if want == "blinks" {
		if changes-before >= 2 {
			return nil
		}
		got = fmt.Sprintf("changed %d times", changes-before)
	}
	if got != want {
		return fmt.Errorf("light: %s, want %s", got, want)
	}
	return nil
}

func readingText(r brain.Reading) string {
	switch {
	case r.Absent != "":
		return "absent: " + r.Absent
	case r.Error != "":
		return "error: " + r.Error
	case r.Value == nil:
		return "none yet"
	}
	return fmt.Sprintf("%g %s", *r.Value, r.Unit)
}

// sample keeps what a report draws.
func (a *session) sample(s brain.Status) {
	p := Sample{At: time.Since(a.begin).Seconds(), State: s.State}
	for _, r := range s.Readings {
		if r.Name == "temperature" && r.Value != nil && r.Error == "" {
			p.Celsius = r.Value
		}
	}
	for _, l := range s.Layers {
		at := l.After
		if at == nil {
			at = l.Before
		}
		if at != nil && !math.IsInf(at.SNR, 0) && !math.IsNaN(at.SNR) && (p.SNR == nil || at.SNR < *p.SNR) {
			p.SNR = &at.SNR
		}
	}
	a.samples = append(a.samples, p)
}
