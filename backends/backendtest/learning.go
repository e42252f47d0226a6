package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// snapshot copies an engine's state.
func snapshot(t *testing.T, e core.Engine) *model.Params {
	t.Helper()
	p, err := e.Save()
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sameParams compares two states bit by bit.
func sameParams(t *testing.T, got, want *model.Params) {
	t.Helper()
	if got.Len() != want.Len() {
		t.Fatalf("%d tensors, want %d", got.Len(), want.Len())
	}
	for _, info := range want.Infos() {
		if info.Name == core.StepTensor {
			g, err1 := core.SavedStep(got)
			w, err2 := core.SavedStep(want)
			if err := errors.Join(err1, err2); err != nil || g != w {
				t.Errorf("step %d, want %d (%v)", g, w, err)
			}
			continue
		}
		same(t, info.Name, values(t, got, info.Name), values(t, want, info.Name))
	}
}

func wake(t *testing.T, e core.Engine, x core.Batch, y core.Labels, lr float64) core.Step {
	t.Helper()
	s, err := e.Wake(context.Background(), x, y, lr)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runningStatistics: one step moves the running mean and variance by a tenth of the way to the batch's, the variance
// made unbiased; inference uses them and learning does not change what they were used for.
func (c Config) runningStatistics(t *testing.T) {
	const images = 6
	b := net.NewBuilder("stats")
	x := b.BatchNorm("bn", b.Input(net.Shape{H: 2, W: 3, C: 4}))
	b.Linear("linear", b.GlobalAvgPool("pool", x), 7)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	p := randomParams(n, 1)
	pixels := numbers(2, images*n.Input().Len())
	e := compile(t, c.open(t), n, training(images), p)
	wake(t, e, Batch(images, pixels), labels(images), 0.1)
	after := snapshot(t, e)
	const channels, m = 4, images * 6
	var mean, variance [channels]float64
	for i, v := range pixels {
		mean[i%channels] += v / m
	}
	for i, v := range pixels {
		d := v - mean[i%channels]
		variance[i%channels] += d * d / (m - 1)
	}
	// The batch's moments are off by γ(2m) of the largest values, the move by a few roundings.
	bound := func(i int) float64 { return c.gamma(2*m+8) * 16 }
	move := func(old []float64, to [channels]float64) []float64 {
		for i := range old {
			old[i] += 0.1 * (to[i] - old[i])
		}
		return old
	}
	closeTo(t, "running mean", values(t, after, "bn.mean"), move(values(t, p, "bn.mean"), mean), bound)
	closeTo(t, "running variance", values(t, after, "bn.var"), move(values(t, p, "bn.var"), variance), bound)
}

// optimizers compares every optimiser, step by step, with package optim: the state before a step and the gradients that
// Trace gives predict the state after it. The update takes at most 16 roundings of the sizes added up below; the
// square root of v halves its relative error, and v is a sum of positive terms.
func (c Config) optimizers(t *testing.T) {
	const images, lr = 5, 0.05
	n := smallNet(t, true)
	x := Batch(images, numbers(2, images*n.Input().Len()))
	compared := 0
	for _, spec := range []optim.Spec{
		optim.Default(optim.AdamW, 0.1), optim.Default(optim.Adam, 0.1), optim.Default(optim.SGD, 0.1),
		optim.Default(optim.AdamW, 0), optim.Default(optim.SGD, 0),
	} {
		t.Run(string(spec.Kind), func(t *testing.T) {
			e := compile(t, c.open(t), n, core.Options{MaxBatch: images, Train: true, Optimizer: spec}, randomParams(n, 1))
			for step := int64(1); step <= 3; step++ {
				before := snapshot(t, e)
				gradients := Trace(t, e, x, core.Probe{Train: true, Labels: labels(images)})
				wake(t, e, x, labels(images), lr)
				after := snapshot(t, e)
				s := spec.At(step, lr)
				for _, q := range n.Params() {
					if !q.Trained() {
						continue
					}
					w, g := values(t, before, q.Name), gradients["grad/"+q.Name]
					slots := [2][]float64{make([]float64, len(w)), make([]float64, len(w))}
					for i, slot := range spec.Slots() {
						slots[i] = values(t, before, core.SlotTensor(slot, q.Name))
					}
					want, bound := make([]float64, len(w)), make([]float64, len(w))
					for i := range w {
						m0, v0 := slots[0][i], slots[1][i]
						want[i], _, slots[1][i] = s.Update(w[i], g[i], m0, v0)
						rate := s.Rate
						if spec.Kind != optim.SGD {
							rate /= math.Sqrt(slots[1][i])/s.RootC2 + s.Eps
						}
						bound[i] = c.gamma(16) * (math.Abs(w[i]) + rate*(math.Abs(m0)+math.Abs(g[i])+s.L2*math.Abs(w[i])))
					}
					closeTo(t, q.Name, values(t, after, q.Name), want, func(i int) float64 { return bound[i] })
					compared++
				}
			}
		})
	}
	if compared < 5*3*10 {
		t.Errorf("only %d parameters compared", compared)
	}
}

// nonFiniteIsRefused: a step that meets a number that is not finite names the layer where it began and leaves the
// engine as it was.
func (c Config) nonFiniteIsRefused(t *testing.T) {
	const images = 5
	n := smallNet(t, true)
	good := Batch(images, numbers(2, images*n.Input().Len()))
	for _, f := range []struct {
		name, layer, what string
		x                 core.Batch
		spoil             func(name string, v []float64)
	}{
		{"image", "input", "output", Batch(images, append([]float64{math.NaN()}, numbers(2, images*n.Input().Len()-1)...)), nil},
		{"weight", "conv2", "weights", good, func(name string, v []float64) {
			if name == "conv2.weight" {
				v[4*8] = math.Inf(1) // the centre of the first kernel
			}
		}},
		{"overflow", "linear", "output", good, func(name string, v []float64) {
			for i := range v {
				if name == "linear.weight" || name == "bn2.gain" {
					v[i] = math.MaxFloat64
					if c.Roundoff > 1e-10 {
						v[i] = math.MaxFloat32
					}
				}
			}
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			p := randomParams(n, 1)
			if f.spoil != nil {
				p = ParamsOf(n, func(_ int, q net.Param) []float64 {
					v := values(t, p, q.Name)
					f.spoil(q.Name, v)
					return v
				})
			}
			e := compile(t, c.open(t), n, training(images), p)
			before := snapshot(t, e)
			_, err := e.Wake(context.Background(), f.x, labels(images), 0.1)
			var where *core.NonFiniteError
			if !errors.As(err, &where) {
				t.Fatalf("error %v, want a NonFiniteError", err)
			}
			if f.name != "overflow" && (where.Layer != f.layer || where.What != f.what) {
				t.Errorf("%v, want %s of layer %q", err, f.what, f.layer)
			}
			sameParams(t, snapshot(t, e), before)
		})
	}
}

// saveAndLoad: a state survives a file bit by bit, an engine that loads it goes on exactly like the one that saved it,
// and without the optimiser's state it starts anew.
func (c Config) saveAndLoad(t *testing.T) {
	const images = 5
	n := smallNet(t, true)
	x := Batch(images, numbers(2, images*n.Input().Len()))
	adam := core.Options{MaxBatch: images, Train: true, Optimizer: optim.Default(optim.AdamW, 0.1)}
	sgd := core.Options{MaxBatch: images, Train: true, Optimizer: optim.Default(optim.SGD, 0.1)}
	for _, o := range append(c.rules(t, adam), sgd) {
		one := compile(t, c.open(t), n, o, randomParams(n, 1))
		for range 2 {
			wake(t, one, x, labels(images), 0.05)
		}
		path := filepath.Join(t.TempDir(), "state.safetensors")
		p, err := one.Save()
		if err != nil {
			t.Fatal(err)
		}
		if err := model.Save(path, p); err != nil {
			t.Fatal(err)
		}
		f, err := model.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		sameParams(t, &f.Params, snapshot(t, one))
		two := compile(t, c.open(t), n, o, &f.Params)
		sameParams(t, snapshot(t, two), snapshot(t, one))
		for range 2 {
			if a, b := wake(t, one, x, labels(images), 0.05), wake(t, two, x, labels(images), 0.05); a != b {
				t.Errorf("%+v before saving goes on as %+v", a, b)
			}
		}
		sameParams(t, snapshot(t, two), snapshot(t, one))

		weights := ParamsOf(n, func(_ int, q net.Param) []float64 { return values(t, &f.Params, q.Name) })
		if err := two.Load(weights); err != nil {
			t.Fatal(err)
		}
		if step, err := core.SavedStep(snapshot(t, two)); err != nil || step != 0 {
			t.Errorf("without the optimiser's state the step is %d (%v), want 0", step, err)
		}
		infer := compile(t, c.open(t), n, core.Options{MaxBatch: images}, &f.Params)
		if got := snapshot(t, infer).Len(); got != len(n.Params()) {
			t.Errorf("an engine for inference saves %d tensors, want %d", got, len(n.Params()))
		}
	}
}

// sameBits: the same steps, sleeps and inferences give the same bits each time and in every configuration that the
// backend says is the same.
func (c Config) sameBits(t *testing.T) {
	const images = 19
	openers := map[string]func() (core.Backend, error){"again": c.Open}
	for name, f := range c.Same {
		openers[name] = f
	}
	compared := 0
	o := core.Options{MaxBatch: images, Train: true, Optimizer: optim.Default(optim.AdamW, 0.1)}
	type learner struct {
		*net.Network
		core.Options
	}
	var learners []learner
	for _, n := range wholeNets(t) {
		for _, o := range c.rules(t, o) {
			learners = append(learners, learner{n, o})
		}
	}
	for _, n := range learners {
		x := Batch(images, numbers(2, images*n.Input().Len()))
		run := func(f func() (core.Backend, error)) (*model.Params, []float64, []core.Step) {
			e := compile(t, open(t, f), n.Network, n.Options, randomParams(n.Network, 1))
			var steps []core.Step
			for range 3 {
				steps = append(steps, wake(t, e, x, labels(images), 0.05))
			}
			if _, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}}); err != nil {
				t.Fatal(err)
			}
			l, err := e.Infer(context.Background(), x)
			if err != nil {
				t.Fatal(err)
			}
			return snapshot(t, e), l.Values, steps
		}
		want, logits, steps := run(c.Open)
		for name, f := range openers {
			t.Run(fmt.Sprintf("%s %s %s", n.Name, n.Rule, name), func(t *testing.T) {
				p, l, s := run(f)
				sameParams(t, p, want)
				same(t, "logits", l, logits)
				for i := range s {
					if s[i] != steps[i] {
						t.Errorf("step %d: %+v, want %+v", i, s[i], steps[i])
					}
				}
				compared++
			})
		}
	}
	if want := len(learners) * len(openers); compared != want {
		t.Errorf("%d runs compared, want %d", compared, want)
	}
}

// sleepNet has locally connected layers of all geometries that make different groups.
func sleepNet(t *testing.T) *net.Network {
	t.Helper()
	b := net.NewBuilder("sleep")
	x := b.Input(net.Shape{H: 12, W: 8, C: 2})
	x = b.LC2D("k3", x, net.Window{Out: 6, Kernel: 3, Stride: 1, Bias: true})
	x = b.LC2D("k7", x, net.Window{Out: 4, Kernel: 7, Stride: 1, Groups: 2})
	x = b.LC2D("k3s2", x, net.Window{Out: 5, Kernel: 3, Stride: 2})
	x = b.LC2D("k1", x, net.Window{Out: 40, Kernel: 1, Stride: 1})
	x = b.LC2D("k3g", x, net.Window{Out: 8, Kernel: 3, Stride: 2, Groups: 4, Bias: true})
	x = b.Transpose("t", x)
	x = b.LC2D("tokens", x, net.Window{Out: 8, Kernel: 1, Stride: 1, Bias: true})
	x = b.TransposeBack("back", x, net.Shape{H: 4, W: 2})
	x = b.LC2D("patches", x, net.Window{Out: 5, Kernel: 2, Stride: 2, Bias: true, Patches: true})
	b.Linear("linear", b.GlobalAvgPool("pool", x), 7)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// instantSleep: every group gets its mean, within the rounding of a sum of N numbers; resting border neurons and all
// else keep their bits; the report tells the truth about regularity and means.
func (c Config) instantSleep(t *testing.T) {
	n := sleepNet(t)
	p := randomParams(n, 1)
	groups := 0
	for _, border := range []sleep.Border{sleep.BorderShares, sleep.BorderRests} {
		e := compile(t, c.open(t), n, core.Options{MaxBatch: 1}, p)
		report, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}, Border: border, Measure: true})
		if err != nil {
			t.Fatal(err)
		}
		after := snapshot(t, e)
		layers := sleep.Layers(n)
		if len(report.Layers) != len(layers) || report.Next != nil || report.Bytes <= 0 {
			t.Fatalf("report %+v for %d layers", report, len(layers))
		}
		for i, l := range layers {
			for _, q := range n.Nodes[l.Node].Params {
				k := q.Len() / (l.Out.H * l.Out.W * l.Out.C)
				groups += c.checkShared(t, l, border, q.Name, values(t, after, q.Name), values(t, p, q.Name), k)
			}
			c.checkReport(t, report.Layers[i], l, border, values(t, p, l.Name+".weight"))
		}
		same(t, "linear.weight", values(t, after, "linear.weight"), values(t, p, "linear.weight"))
	}
	if groups < 500 {
		t.Errorf("only %d groups compared", groups)
	}
}

// checkShared checks one parameter, (positions, N, k), and returns the number of groups that shared.
func (c Config) checkShared(t *testing.T, l sleep.Layer, border sleep.Border, name string, after, before []float64, k int) (groups int) {
	t.Helper()
	at := func(position, channel, j int) int { return (position*l.Out.C+channel)*k + j }
	shared := map[int]bool{}
	for _, g := range l.Grids(border) {
		for channel := range l.Out.C {
			for j := range k {
				mean, size := 0.0, 0.0
				for _, p := range g.Positions {
					mean += before[at(p, channel, j)] / float64(len(g.Positions))
					size += math.Abs(before[at(p, channel, j)])
				}
				for _, p := range g.Positions {
					shared[at(p, channel, j)] = true
					v := after[at(p, channel, j)]
					if first := after[at(g.Positions[0], channel, j)]; v != first {
						t.Errorf("%s: neurons of one group have %g and %g", name, first, v)
						return groups
					}
					// A sum of N deviations, a division, an addition and the final rounding.
					if d := math.Abs(v - mean); !(d <= c.gamma(len(g.Positions)+4)*size) {
						t.Errorf("%s: a group of %d has %g, its mean is %g", name, len(g.Positions), v, mean)
						return groups
					}
				}
			}
			groups++
		}
	}
	for i := range after {
		if !shared[i] && math.Float64bits(after[i]) != math.Float64bits(before[i]) {
			t.Errorf("%s[%d] of a resting neuron went from %g to %g", name, i, before[i], after[i])
			return groups
		}
	}
	return groups
}

// checkReport compares a layer's report with the definitions in core.
func (c Config) checkReport(t *testing.T, r sleep.LayerReport, l sleep.Layer, border sleep.Border, before []float64) {
	t.Helper()
	compare := func(what string, got, want float64) {
		t.Helper()
		// Means and variances are computed in float64 from weights of the backend's format; both sides round those
		// sums differently, by less than γ(groups' sizes) relative to a variance that no cancellation shrinks much.
		if !(math.Abs(got-want) <= 1e-9*math.Abs(want)) && got != want && !(math.IsNaN(got) && math.IsNaN(want)) { // NaN: no groups
			t.Errorf("%s: %s = %g, want %g", l.Name, what, got, want)
		}
	}
	if r.Before == nil || r.After == nil {
		t.Fatalf("%s: not measured: %+v", l.Name, r)
	}
	want := sleep.Measure(before, l, border)
	compare("SNR", r.Before.SNR, want.SNR)
	compare("inverse ratio", r.Before.InverseRatio, want.InverseRatio)
	compare("absolute ratio", r.Before.AbsRatio, want.AbsRatio)
	if r.Before.Groups != want.Groups {
		t.Errorf("%s: %d groups, want %d", l.Name, r.Before.Groups, want.Groups)
	}
	if want.Groups > 0 && !(math.IsInf(r.After.SNR, 1) && r.After.InverseRatio == 0) {
		t.Errorf("%s: after sharing SNR = %g, var/mean² = %g", l.Name, r.After.SNR, r.After.InverseRatio)
	}
	// Only the final rounding moves a mean.
	if !(math.Abs(r.Mean.Ratio-1) <= 2*c.Roundoff) || !(r.Mean.Error <= 2*c.Roundoff) {
		t.Errorf("%s: means kept to %v", l.Name, r.Mean)
	}
}

// countdown is a context that ends at the n-th look at it.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	c.left--
	if c.left < 0 {
		return context.Canceled
	}
	return nil
}

// sleepIsInterruptible: wherever a phase is interrupted, every group is untouched or finished, and going on from the
// report's token gives the bits of an uninterrupted phase.
func (c Config) sleepIsInterruptible(t *testing.T) {
	interrupted := 0
	for _, stream := range append(c.plasticStreams(t), sleep.Stream{Rule: sleep.Instant{}}) {
		t.Run(stream.Rule.Kind()+" "+stream.Execution.String(), func(t *testing.T) { interrupted += c.interruptions(t, stream) })
	}
	if interrupted < 10 {
		t.Errorf("only %d interruptions", interrupted)
	}
}

// interruptions interrupts one phase at many places and goes on.
func (c Config) interruptions(t *testing.T, stream sleep.Stream) (interrupted int) {
	n := sleepNet(t)
	p := randomParams(n, 1)
	whole := compile(t, c.open(t), n, core.Options{MaxBatch: 1}, p)
	if _, err := whole.Sleep(context.Background(), stream); err != nil {
		t.Fatal(err)
	}
	want, before := snapshot(t, whole), snapshot(t, compile(t, c.open(t), n, core.Options{MaxBatch: 1}, p))
	old, done := map[string][]float64{}, map[string][]float64{}
	for _, q := range n.Params() {
		old[q.Name], done[q.Name] = values(t, before, q.Name), values(t, want, q.Name)
	}
	every := c.Interruptions
	if every == 0 {
		every = 11
	}
	for stop := 0; ; stop += every {
		e := compile(t, c.open(t), n, core.Options{MaxBatch: 1}, p)
		report, err := e.Sleep(&countdown{context.Background(), stop}, stream)
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "interrupted") || report.Next == nil {
			t.Fatalf("interrupted at %d: error %v, report %+v", stop, err, report)
		}
		interrupted++
		saved := snapshot(t, e)
		for _, q := range n.Params() {
			now, old, done := values(t, saved, q.Name), old[q.Name], done[q.Name]
			for i := range now {
				if now[i] != old[i] && now[i] != done[i] {
					t.Fatalf("interrupted at %d: %s[%d] is neither as before nor finished", stop, q.Name, i)
				}
			}
		}
		rest := stream
		rest.From = report.Next
		if _, err := e.Sleep(context.Background(), rest); err != nil {
			t.Fatal(err)
		}
		sameParams(t, snapshot(t, e), want)
	}
	return interrupted
}

// refusals: bad arguments are errors that name what is wrong, and change nothing.
func (c Config) refusals(t *testing.T) {
	const images = 4
	n := smallNet(t, true)
	b := c.open(t)
	e := compile(t, b, n, training(images), randomParams(n, 1))
	before := snapshot(t, e)
	ctx := context.Background()
	x := Batch(images, numbers(2, images*n.Input().Len()))
	wakeErr := func(x core.Batch, y core.Labels, lr float64) func() error {
		return func() error { _, err := e.Wake(ctx, x, y, lr); return err }
	}
	load := func(change func(p *model.Params) *model.Params) func() error {
		return func() error { return e.Load(change(randomParams(n, 9))) }
	}
	without := func(name string) func(p *model.Params) *model.Params {
		return func(p *model.Params) *model.Params {
			q := &model.Params{}
			for v, err := range p.All() {
				if err != nil {
					t.Fatal(err)
				}
				if v.Name != name {
					q.Add(v)
				}
			}
			return q
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, f := range []struct {
		name, want string
		do         func() error
	}{
		{"batch too large", "batch of 5 images", wakeErr(Batch(5, numbers(1, 5*n.Input().Len())), labels(5), 1)},
		{"empty batch", "batch of 0 images", wakeErr(core.Batch{}, nil, 1)},
		{"wrong number of pixels", "numbers, want", wakeErr(core.Batch{N: 2, Pixels: make([]float32, 7)}, labels(2), 1)},
		{"label too large", "label 7 of image 1", wakeErr(x, core.Labels{0, 7, 0, 0}, 1)},
		{"negative label", "label -1 of image 0", wakeErr(x, core.Labels{-1, 0, 0, 0}, 1)},
		{"missing labels", "2 labels for 4 images", wakeErr(x, labels(2), 1)},
		{"learning rate", "learning rate NaN", wakeErr(x, labels(images), math.NaN())},
		{"cancelled", "canceled", func() error { _, err := e.Wake(ended, x, labels(images), 1); return err }},
		{"inference of a wrong batch", "batch of 9 images", func() error { _, err := e.Infer(ctx, core.Batch{N: 9}); return err }},
		{"tensor missing", `"conv1.bias" is missing`, load(without("conv1.bias"))},
		{"another network's tensor", `"alien" belongs to no layer`, load(func(p *model.Params) *model.Params {
			p.Add(model.NewTensor("alien", []int{1}, []float32{1}))
			return p
		})},
		{"another shape", "has shape", load(func(p *model.Params) *model.Params {
			q := without("linear.bias")(p)
			q.Add(model.NewTensor("linear.bias", []int{3}, make([]float32, 3)))
			return q
		})},
		{"half an optimiser state", `"optimizer/m/stem.weight" is missing`, load(func(p *model.Params) *model.Params {
			p.Add(model.NewTensor(core.StepTensor, nil, []int64{3}))
			return p
		})},
		{"unknown layer to sleep", `no locally connected layer "linear"`, func() error {
			_, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}, Layers: []string{"linear"}})
			return err
		}},
		{"sleep without a rule", "without a rule", func() error { _, err := e.Sleep(ctx, sleep.Stream{}); return err }},
		{"gradient without training", "gradients need", func() error {
			for _, err := range e.Trace(ctx, x, core.Probe{Labels: labels(images)}) {
				return err
			}
			return nil
		}},
		{"options", "batch size 0", func() error { _, err := b.Compile(n, core.Options{}); return err }},
		{"wake rule", `unknown wake rule "hope" (known: backprop, broadcast)`, func() error {
			o := training(1)
			o.Rule = "hope"
			_, err := b.Compile(n, o)
			return err
		}},
		{"optimiser", `unknown optimiser "lbfgs"`, func() error {
			_, err := b.Compile(n, core.Options{MaxBatch: 1, Train: true, Optimizer: optim.Spec{Kind: "lbfgs"}})
			return err
		}},
	} {
		err := f.do()
		if err == nil || !strings.Contains(err.Error(), f.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line with %q", f.name, err, f.want)
		}
	}
	sameParams(t, snapshot(t, e), before)

	infer := compile(t, b, n, core.Options{MaxBatch: images}, randomParams(n, 1))
	if _, err := infer.Wake(ctx, x, labels(images), 1); err == nil || !strings.Contains(err.Error(), "inference only") {
		t.Errorf("learning with an engine for inference: %v", err)
	}
	single := compile(t, b, oneValueNet(t), training(2), randomParams(oneValueNet(t), 1))
	if _, err := single.Wake(ctx, Batch(1, numbers(1, 3)), core.Labels{0}, 1); err == nil || !strings.Contains(err.Error(), `layer "bn"`) {
		t.Errorf("batch norm of one value a channel: %v", err)
	}
}

// oneValueNet has a batch norm that sees one value a channel and image.
func oneValueNet(t *testing.T) *net.Network {
	t.Helper()
	b := net.NewBuilder("one")
	b.Linear("linear", b.BatchNorm("bn", b.Input(net.Shape{H: 1, W: 1, C: 3})), 2)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
