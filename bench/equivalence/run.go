package equivalence

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// numbers are parameters as float64, by name.
type numbers map[string][]float64

// run is one subject on its way.
type run struct {
	arithmetic
	o      Options
	r      *Result
	name   string
	engine core.Engine
	record Backend

	start    *exam // of the first image, before the first step
	gradient *back
	path     numbers // what the exact gradients along the path add up to, times -lr
	spent    numbers // what the checked steps' errors add up to, at most
	ownPath  numbers // path and spent of the gradients that the backend had
	ownSpent numbers
	after    numbers // weights after the checked steps
}

func newRun(s Subject, o Options, r *Result) (*run, error) {
	x := &run{o: o, r: r, name: s.Name, path: numbers{}, spent: numbers{}, ownPath: numbers{}, ownSpent: numbers{}}
	x.record = Backend{Name: s.Name, Format: s.Backend.Caps().Format}
	params, err := edge.Float(o.Net, o.Params)
	if err != nil {
		return nil, err
	}
	switch x.record.Format {
	case "float64":
		x.roundoff = 0x1p-53
	case "float32":
		x.roundoff, x.single = 0x1p-24, true
	case "tf32":
		x.roundoff, x.factors, x.single = 0x1p-24, 0x1p-11, true
	case "bf16":
		x.roundoff, x.factors, x.stored, x.single = 0x1p-24, 0x1p-8, 0x1p-8, true
	case "int16":
		f, err := edge.FormatsOf(o.Params)
		if err != nil {
			return nil, err
		}
		x.roundoff, x.single, x.formats, params = 0x1p-53, true, &f, o.Params
	default:
		return nil, fmt.Errorf("no bounds for numbers of %s", x.record.Format)
	}
	if x.engine, err = s.Backend.Compile(o.Net, training(o.Test.Batch, o.Seed)); err != nil {
		return nil, err
	}
	if err := x.engine.Load(params); err != nil {
		x.engine.Close()
		return nil, err
	}
	return x, nil
}

func (x *run) close() error { return x.engine.Close() }

// weights are the engine's parameters.
func (x *run) weights() (numbers, error) {
	p, err := x.engine.Save()
	if err != nil {
		return nil, err
	}
	return x.numbers(p)
}

func (x *run) numbers(p *model.Params) (numbers, error) {
	var err error
	if x.formats != nil {
		if p, err = edge.Float(x.o.Net, p); err != nil {
			return nil, err
		}
	}
	all := numbers{}
	for _, q := range x.o.Net.Params() {
		t, err := p.Get(q.Name)
		if err != nil {
			return nil, err
		}
		v, err := t.Float64s()
		if err != nil {
			return nil, err
		}
		all[q.Name] = append([]float64(nil), v...)
	}
	return all, nil
}

// params are numbers as a float backend loads them.
func (x *run) params(w numbers) *model.Params {
	p := &model.Params{}
	for _, q := range x.o.Net.Params() {
		p.Add(model.NewTensor(q.Name, q.Shape, w[q.Name]))
	}
	return p
}

// all takes the subject through the steps, sleeps and tests.
func (x *run) all(ctx context.Context, images []data.Minibatch) error {
	before, _, err := x.test(ctx)
	if err != nil {
		return err
	}
	x.record.Before = share(before)
	for i, m := range images {
		if i < x.o.Check {
			err = x.checkedStep(ctx, i, m)
		} else {
			_, err = x.engine.Wake(ctx, m.X, m.Labels, x.o.Rate)
		}
		if err == nil && i+1 == x.o.Check {
			err = x.checkSteps()
		}
		if err == nil && (i+1)%x.o.Every == 0 {
			phase := x.o.Phase
			phase.Phase, phase.Seed = uint64(i+1), x.o.Seed
			if i+1 == x.o.Every {
				err = x.checkedSleep(ctx, phase)
			} else {
				_, err = x.engine.Sleep(ctx, phase)
			}
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	if x.record.hits, x.record.Loss, err = x.test(ctx); err != nil {
		return err
	}
	x.record.Top1 = share(x.record.hits)
	return x.end(ctx)
}

func share(hits []bool) float64 {
	n := 0
	for _, h := range hits {
		if h {
			n++
		}
	}
	return float64(n) / float64(len(hits))
}

// test classifies the test images: which are hit, and the mean loss.
func (x *run) test(ctx context.Context) (hits []bool, loss float64, err error) {
	for m := range x.o.Test.InOrder(ctx) {
		logits, err := x.engine.Infer(ctx, m.X)
		if err != nil {
			return nil, 0, err
		}
		for i, label := range m.Labels {
			hits = append(hits, core.Rank(logits.Row(i), label) == 0)
			loss += core.CrossEntropy(logits.Row(i), label)
		}
	}
	return hits, loss / float64(len(hits)), ctx.Err()
}

// traced runs a probe and copies what it yields.
func traced(ctx context.Context, e core.Engine, m data.Minibatch) (trace, error) {
	all := trace{}
	for t, err := range e.Trace(ctx, m.X, core.Probe{Train: true, Labels: m.Labels}) {
		if err != nil {
			return nil, err
		}
		v, err := t.Float64s()
		if err != nil {
			return nil, err
		}
		all[t.Name] = append([]float64(nil), v...)
	}
	return all, nil
}

// examine runs an image beside the exact network of the same weights.
func (x *run) examine(ctx context.Context, w numbers, m data.Minibatch) (*exam, error) {
	e := &exam{arithmetic: x.arithmetic, net: x.o.Net, label: m.Labels[0]}
	for _, v := range m.X.Pixels {
		e.pixels = append(e.pixels, float64(v))
	}
	var err error
	if e.got, err = traced(ctx, x.engine, m); err != nil {
		return nil, err
	}
	shadow, err := engineOf(x.o.Net, x.params(w))
	if err != nil {
		return nil, err
	}
	if e.exact, err = traced(ctx, shadow, m); err != nil {
		return nil, err
	}
	for _, v := range x.o.Net.Nodes {
		l, err := newLayer(v, w)
		if err != nil {
			return nil, err
		}
		e.layers = append(e.layers, l)
	}
	return e, e.forward()
}

// checkedStep makes a step and keeps account of its errors; the first one is examined whole.
func (x *run) checkedStep(ctx context.Context, i int, m data.Minibatch) error {
	w, err := x.startWeights(i)
	if err != nil {
		return err
	}
	e, err := x.examine(ctx, w, m)
	if err != nil {
		return err
	}
	b, err := e.backward(false)
	if err != nil {
		return err
	}
	if i == 0 {
		x.start, x.gradient = e, b
		x.localActivations(e)
		if err := x.localGradients(e); err != nil {
			return err
		}
	}
	if _, err := x.engine.Wake(ctx, m.X, m.Labels, x.o.Rate); err != nil {
		return err
	}
	if x.after, err = x.weights(); err != nil {
		return err
	}
	for _, v := range x.o.Net.Nodes {
		for _, q := range v.Params {
			by, own, mine := b.bound[q.Name], b.own[q.Name], e.got["grad/"+q.Name]
			x.account(x.path, x.spent, v, q, w[q.Name], e.exact["grad/"+q.Name], by, own)
			if _, shared := v.Op.(net.Conv2D); !shared { // one image, one product: nothing to sum in another order
				by = make([]float64, len(by))
			}
			x.account(x.ownPath, x.ownSpent, v, q, w[q.Name], mine, by, own)
		}
	}
	if i == 0 { // large, and not needed again
		e.layers, e.exact, b.own = nil, nil, nil
	}
	return nil
}

// startWeights are the weights before step i: the package's own before the first, whatever the engine made of them.
func (x *run) startWeights(i int) (numbers, error) {
	if i > 0 {
		return x.after, nil
	}
	p, err := edge.Float(x.o.Net, x.o.Params)
	if err != nil {
		return nil, err
	}
	y := *x
	y.formats = nil
	return y.numbers(p)
}

// account adds one step of one parameter to a path, of gradients g, and to what its errors may be, the gradients' own being by.
func (x *run) account(paths, spents numbers, v net.Node, q net.Param, w, g, by, own []float64) {
	if paths[q.Name] == nil {
		paths[q.Name], spents[q.Name] = make([]float64, len(w)), make([]float64, len(w))
	}
	path, spent, lr := paths[q.Name], spents[q.Name], x.o.Rate
	unit := x.unit(v, q)
	for i, g := range g {
		path[i] -= lr * g
		size := lr * (math.Abs(g) + by[i])
		spent[i] += lr*by[i] + x.gamma(4)*(math.Abs(w[i])+size)
		if x.formats != nil {
			spent[i] += unit*(1+0x1p-14) + lr*own[i] + 0x1p-15*size
		}
	}
}

// unit is the last place of an integer parameter, 0 for floats.
func (x *run) unit(v net.Node, q net.Param) float64 {
	if x.formats == nil {
		return 0
	}
	frac := x.formats.Weights[v.Params[0].Name].Frac
	if q.Role == net.Bias {
		frac += x.formats.Activations[x.o.Net.Nodes[v.Inputs[0]].Name].Frac
	}
	return math.Ldexp(1, -frac)
}

// limit is the largest integer weight; biases have 31 bits and floats no end.
func (x *run) limit(v net.Node, q net.Param) float64 {
	if x.formats == nil || q.Role == net.Bias {
		return math.Inf(1)
	}
	f := x.formats.Weights[q.Name]
	return f.Float(int64(f.Max()))
}

func (x *run) row(check, layer, tensor, why string) Row {
	return Row{Backend: x.name, Against: "exact", Check: check, Layer: layer, Tensor: tensor, Why: why}
}

// roundingName is what a backend's own errors are.
func (a arithmetic) roundingName() string {
	switch {
	case a.formats != nil:
		return "rounding"
	case a.stored > 0:
		return "bf16"
	case a.factors > 0:
		return "tf32, order"
	case a.single:
		return "float32, order"
	}
	return "float64, order"
}

// localActivations compares every layer with the exact formula of what it got.
func (x *run) localActivations(e *exam) {
	for i, v := range e.net.Nodes {
		if e.formula[i] == nil {
			continue
		}
		row := x.row("local activation", v.Name, "out/"+v.Name, x.roundingName())
		row.Saturated = e.saturatedAt(i)
		want, sharp := e.rounded(i, v)
		bound := func(j int) float64 { return e.local[i][j] }
		if sharp {
			row.Kind, bound = identical, func(int) float64 { return 0 }
		}
		x.r.add(row, e.out(i), want, bound)
	}
}

// localGradients compares the gradients of layers with the formula of what the layers behind them had.
func (x *run) localGradients(e *exam) error {
	b, err := e.backward(true)
	if err != nil {
		return err
	}
	for _, v := range slices.Backward(e.net.Nodes) { // as errors go, so that a fault's own layer comes first
		for _, q := range v.Params {
			if want := b.local[q.Name]; want != nil {
				x.r.add(x.row("local gradient", v.Name, "grad/"+q.Name, x.roundingName()), e.got["grad/"+q.Name], want,
					func(j int) float64 { return b.localBy[q.Name][j] })
			}
		}
	}
	return nil
}

// checkSteps compares the weights after the checked steps with the exact steps along their own path, and with steps by the
// gradients that the backend had.
func (x *run) checkSteps() error {
	start, err := x.startWeights(0)
	if err != nil {
		return err
	}
	for _, v := range x.o.Net.Nodes {
		for _, q := range v.Params {
			got := x.after[q.Name]
			x.stepsRow(fmt.Sprintf("local %d steps", x.o.Check), v, q, got, plus(start[q.Name], 1, x.ownPath[q.Name]), x.ownSpent[q.Name])
			saturated := x.stepsRow(fmt.Sprintf("%d steps", x.o.Check), v, q, got, plus(start[q.Name], 1, x.path[q.Name]), x.spent[q.Name])
			if x.formats != nil && saturated == 0 {
				x.drift(v, q, got, plus(start[q.Name], 1, x.ownPath[q.Name]))
			}
		}
	}
	x.ownPath, x.ownSpent = nil, nil
	return nil
}

// stepsRow adds a row of weights after steps; it returns how many are at an end of their range, which bounds say nothing of.
func (x *run) stepsRow(check string, v net.Node, q net.Param, got, want, spent []float64) int {
	row, limit := x.row(check, v.Name, q.Name, x.roundingName()), x.limit(v, q)
	for i := range got {
		if math.Abs(got[i]) == limit {
			row.Saturated++
		}
	}
	x.r.add(row, got, want, func(i int) float64 {
		if math.Abs(got[i]) == limit {
			return max(spent[i], math.Abs(got[i]-want[i]))
		}
		return spent[i]
	})
	return row.Saturated
}

// drift compares the mean of what rounding did to a parameter with its statistical bound.
func (x *run) drift(v net.Node, q net.Param, got, want []float64) {
	var mean, others float64
	k, n, unit := float64(x.o.Check), float64(len(got)), x.unit(v, q)
	for i := range got {
		mean += (got[i] - want[i]) / n
		others += (x.ownSpent[q.Name][i] - k*unit) / n
	}
	row := x.row(fmt.Sprintf("drift of %d steps", x.o.Check), v.Name, q.Name, "rounding")
	row.Kind = statistical
	x.r.add(row, []float64{mean}, []float64{0}, func(int) float64 { return 3*unit*math.Sqrt(k/n) + others })
}

// checkedSleep sleeps beside the exact network of the same weights.
func (x *run) checkedSleep(ctx context.Context, phase sleep.Stream) error {
	before, err := x.weights()
	if err != nil {
		return err
	}
	shadow, err := engineOf(x.o.Net, x.params(before))
	if err != nil {
		return err
	}
	phase.Measure = true
	mine, err := x.engine.Sleep(ctx, phase)
	if err != nil {
		return err
	}
	exact, err := shadow.Sleep(ctx, phase)
	if err != nil {
		return err
	}
	got, err := x.weights()
	if err != nil {
		return err
	}
	saved, err := shadow.Save()
	if err != nil {
		return err
	}
	y := *x
	y.formats = nil
	want, err := y.numbers(saved)
	if err != nil {
		return err
	}
	const check = "sleep"
	slept := 0
	for _, v := range x.o.Net.Nodes {
		i := slept
		located := i < len(mine.Layers) && mine.Layers[i].Layer == v.Name
		var weight float64
		for _, q := range v.Params {
			by := 0.0
			if located {
				by = x.sleepBound(sleep.Layers(x.o.Net)[i], phase, v, q, before)
			}
			if q.Role == net.Weight {
				weight = by
			}
			limit := x.limit(v, q)
			x.r.add(x.row(check, v.Name, q.Name, x.roundingName()), got[q.Name], want[q.Name], func(j int) float64 {
				if math.Abs(got[q.Name][j]) == limit && math.Abs(want[q.Name][j]) > limit {
					return math.Abs(got[q.Name][j] - want[q.Name][j])
				}
				return by
			})
		}
		if !located {
			continue
		}
		x.regularity(check, sleep.Layers(x.o.Net)[i], phase.Border, mine.Layers[i], exact.Layers[i], before, want, weight)
		slept++
	}
	if slept != len(mine.Layers) || slept != len(exact.Layers) {
		return fmt.Errorf("%d layers slept, %d on the reference backend", len(mine.Layers), len(exact.Layers))
	}
	return nil
}

// sleepBound is how far an element of a parameter may be from the exact sleep.
func (x *run) sleepBound(l sleep.Layer, phase sleep.Stream, v net.Node, q net.Param, before numbers) float64 {
	largest := 0.0 // of weights and biases
	for _, q := range v.Params {
		for _, w := range before[q.Name] {
			largest = max(largest, math.Abs(w))
		}
	}
	members := 0
	for _, g := range l.Grids(phase.Border) {
		members = max(members, len(g.Positions))
	}
	unit := x.unit(v, q)
	if phase.Rule.Kind() == (sleep.Instant{}).Kind() {
		return unit/2 + x.gamma(members+3)*3*largest
	}
	m, shown, steps := l.Inputs(), 2*phase.Events, 2.0
	switch rule := phase.Rule.(type) {
	case sleep.Hebbian:
		shown *= rule.Batch
	case sleep.Circuit:
		steps = (rule.Presentation + rule.Settle) / rule.Dt
	}
	float := 2 * max(x.gamma(int(min(4*steps*float64(m)*float64(phase.Events), math.MaxInt32))), 10*float64(shown)*x.gamma(m+shown+4)) * largest
	if x.formats == nil {
		return float
	}
	return unit + float64(m)*0x1p-20*2*largest + float
}

// regularity compares what a sleep did to a layer's means and signal-to-noise ratio.
func (x *run) regularity(check string, l sleep.Layer, border sleep.Border, mine, exact sleep.LayerReport, before, want numbers, by float64) {
	weight := x.o.Net.Nodes[l.Node].Params[0].Name
	var low, high, sizes, squares float64
	n := 0
	for _, g := range l.Grids(border) {
		if len(g.Positions) < 2 {
			continue
		}
		for channel := range l.Out.C {
			for j := range l.K {
				m, _ := sleep.Moments(before[weight], l, g.Positions, channel, j)
				sizes, squares = sizes+math.Abs(m), squares+m*m
				m, variance := sleep.Moments(want[weight], l, g.Positions, channel, j)
				s := math.Sqrt(variance)
				n++
				if !(s > by) { // it may be equal, and not count
					high = math.Inf(1)
					continue
				}
				low += math.Pow(max(math.Abs(m)-by, 0)/(s+by), 2)
				high += math.Pow((math.Abs(m)+by)/(s-by), 2)
			}
		}
	}
	if n == 0 { // no group has two members
		return
	}
	x.r.add(x.row(check+": mean ratio", l.Name, weight, x.roundingName()), []float64{mine.Mean.Ratio}, []float64{exact.Mean.Ratio},
		func(int) float64 { return by * sizes / squares * (1 + 0x1p-20) })
	row := x.row(check+": ln(1/SNR)", l.Name, weight, x.roundingName())
	a, b := mine.After.LnInverseSNR(), exact.After.LnInverseSNR()
	if mine.After.AllEqual() && exact.After.AllEqual() {
		x.r.add(row, []float64{0}, []float64{0}, func(int) float64 { return 0 })
		return
	}
	x.r.add(row, []float64{a}, []float64{b}, func(int) float64 {
		if a > b {
			return -math.Log(low/float64(n)) - b + 0x1p-20
		}
		return b + math.Log(high/float64(n)) + 0x1p-20
	})
}

// end compares the logits of the last weights with the exact ones, and keeps their digest.
func (x *run) end(ctx context.Context) error {
	p, err := x.engine.Save()
	if err != nil {
		return err
	}
	w, err := x.numbers(p)
	if err != nil {
		return err
	}
	x.record.Digest = digest(x.o.Net, w)
	one := *x.o.Test
	one.Batch = 1
	for m := range one.InOrder(ctx) {
		e, err := x.examine(ctx, w, m)
		if err != nil {
			return err
		}
		last := len(e.net.Nodes) - 1
		row := x.row("last logits", e.net.Nodes[last].Name, "out/"+e.net.Nodes[last].Name, x.roundingName())
		row.Saturated = e.saturatedAt(last)
		x.r.add(row, e.out(last), e.ideal(last), func(j int) float64 { return e.bound[last][j] })
		if m.Index+1 == min(3, one.Images.Len()) {
			break
		}
	}
	return ctx.Err()
}

// compare compares a finished run with the first.
func (x *run) compare(first *run) {
	same := x.formats != nil && first.formats != nil
	row := func(check, layer, tensor string) Row {
		r := Row{Backend: x.name, Against: first.name, Check: check, Layer: layer, Tensor: tensor}
		if same {
			r.Kind = identical
		}
		return r
	}
	bounded := func(a, b []float64) func(int) float64 {
		if same {
			return func(int) float64 { return 0 }
		}
		return func(i int) float64 { return a[i] + b[i] }
	}
	a, b := first.start, x.start
	for i, v := range a.net.Nodes {
		r := row("activation", v.Name, "out/"+v.Name)
		r.Saturated = a.saturatedAt(i) + b.saturatedAt(i)
		r.Why = why(a, b, i, v)
		x.r.add(r, b.out(i), a.out(i), bounded(a.bound[i], b.bound[i]))
	}
	for _, v := range a.net.Nodes {
		for _, q := range v.Params {
			r := row("gradient", v.Name, "grad/"+q.Name)
			r.Otherwise = first.gradient.otherwise + x.gradient.otherwise
			r.Why = reasons(a.arithmetic, b.arithmetic)
			if r.Otherwise > 0 {
				r.Why = "rectifiers"
			}
			x.r.add(r, b.got["grad/"+q.Name], a.got["grad/"+q.Name], bounded(first.gradient.bound[q.Name], x.gradient.bound[q.Name]))
			r = row(fmt.Sprintf("paths of %d steps", x.o.Check), v.Name, q.Name)
			r.Why = reasons(a.arithmetic, b.arithmetic)
			parted := mapped(plus(x.path[q.Name], -1, first.path[q.Name]), math.Abs)
			x.r.add(r, x.after[q.Name], first.after[q.Name], bounded(plus(parted, 1, x.spent[q.Name]), first.spent[q.Name]))
		}
	}
	r := row("last accuracy", "", "top-1")
	d := 0
	for i, h := range x.record.hits {
		if h != first.record.hits[i] {
			d++
		}
	}
	r.Why = fmt.Sprintf("%d of %d images", d, len(x.record.hits))
	limit := 0.0
	if !same {
		r.Kind, limit = statistical, max(0.01, 4*math.Sqrt(float64(d))/float64(len(x.record.hits)))
	} else if x.record.Digest != first.record.Digest {
		x.r.Violated = append(x.r.Violated, fmt.Sprintf("%s against %s: weights at the end have the digest %s, want %s",
			x.name, first.name, x.record.Digest, first.record.Digest))
	}
	x.r.add(r, []float64{x.record.Top1}, []float64{first.record.Top1}, func(int) float64 { return limit + 0x1p-40 })
}

// reasons are why two backends differ at all.
func reasons(a, b arithmetic) string {
	first, second := a.roundingName(), b.roundingName()
	switch {
	case a.formats != nil || b.formats != nil:
		return "rounding"
	case first == second || strings.HasPrefix(first, "float64"):
		return second
	}
	return first
}

// why says what makes the largest difference of a node's outputs.
func why(a, b *exam, i int, v net.Node) string {
	x, y := a.out(i), b.out(i)
	at := 0
	for j := range min(len(x), len(y)) {
		if math.Abs(x[j]-y[j]) > math.Abs(x[at]-y[at]) {
			at = j
		}
	}
	for _, e := range []*exam{a, b} {
		if e.saturated[i] != nil && e.saturated[i][at] {
			return "saturation"
		}
	}
	if _, ok := v.Op.(net.ReLU); ok && len(x) == len(y) && (x[at] > 0) != (y[at] > 0) {
		return "rectifier"
	}
	if own := ownError(a, i, at) + ownError(b, i, at); 2*own < math.Abs(x[at]-y[at]) {
		return reasons(a.arithmetic, b.arithmetic) + " before"
	}
	return reasons(a.arithmetic, b.arithmetic) + " here"
}

// ownError is what a node added itself to one element, at most the bound where its formula is not evaluated.
func ownError(e *exam, i, at int) float64 {
	if e.formula[i] == nil {
		return e.local[i][at]
	}
	return math.Abs(e.out(i)[at] - e.formula[i][at])
}
