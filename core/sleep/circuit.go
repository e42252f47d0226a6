package sleep

import (
	"fmt"
	"math"
)

// Circuit is Eq. 8: N excitatory neurons r_i and one inhibitory neuron r_inh, which a pattern x drives for a while,
//
//	τ ṙ_i = -r_i + w_i·x - α r_inh + b          (8a)
//	τ ṙ_inh = -r_inh + (1/N) Σ r_j - b          (8b)
//
// by explicit Euler steps of Dt, and, but for the first Settle ms of the run, plasticity at every step,
//
//	g_i = (r_i - b) x + γ (w_i - w_i(0))        v_i ← μ v_i - η g_i        w_i ← w_i + v_i
//
// The rates begin at rest, r_i = b and r_inh = 0, and go on from pattern to pattern. With r_i counted from b, as here
// below, b falls out of all equations: it only keeps rates positive.
//
// The leak. At the fixed point (Eq. 9) r_i = z_i - z̄ + z̄/(1+α): finite inhibition leaves z̄/(1+α), which no deviation
// sees and which pulls the mean to 0 against γ; that is why the paper stops early. Summing (8a) and (8b) over a
// presentation of T ms, the transient included, the mean rate adds up to z̄ (T + τ (α-1)/(α+1))/(1+α) if patterns are
// independent, so that for a small learning rate the mean goes to γ/(γ+s) of its start, s = (1 + (τ/T)(α-1)/(α+1))/(1+α).
// The mean-preserving form takes from each neuron's rate what the inhibitory neuron receives, its rate and the time
// derivative of it,
//
//	g_i = (r_i - r_inh - τ ṙ_inh) x + γ (w_i - w_i(0))
//
// By (8b) r_inh + τ ṙ_inh = (1/N) Σ r_j at every moment, settled or not, so that the first terms sum to 0 over the
// group and the mean is conserved as exactly as by Eq. 4. (Taking r_inh alone, which equals the mean rate at the fixed
// point, would leave what is not yet settled.) Deviations r_i - (1/N) Σ r_j obey the same equations in both forms,
// the inhibition being common to all; so variances are the same, the mean is larger, and SNR is higher.
type Circuit struct {
	Gamma          float64 // γ ≥ 0
	Alpha          float64 // α ≥ 0, strength of inhibition
	B              float64 // b, mean rate
	Tau            float64 // τ, ms
	Dt             float64 // Euler step, ms
	Presentation   float64 // of one pattern, ms
	Settle         float64 // without plasticity at the start of the run, ms
	Rate           Rate    // η of the Euler steps of an event, its time counted in ms from the run's start to the event's
	Momentum       float64 // 0 ≤ μ < 1
	MeanPreserving bool
}

// Kind is "circuit".
func (Circuit) Kind() string { return "circuit" }

// DefaultCircuit has the constants of Fig. 4B, a rate chosen for each layer, and the mean-preserving form.
func DefaultCircuit() Circuit {
	return Circuit{
		Gamma: 0.01, Alpha: 10, B: 1, Tau: 30, Dt: 1, Presentation: 150, Settle: 50,
		Rate: Rate{Decay: DecayNone}, Momentum: 0.95, MeanPreserving: true,
	}
}

// Check returns a SettingError for the first setting out of range. The rates themselves are stable only for
// α < 2τ/dt - 1: Euler's step multiplies the mean rates by 1 - h ± i h√α, h = dt/τ, whose square is below 1 for
// h (1+α) < 2; with α = 0 it multiplies the deviations by 1 - h.
func (c Circuit) Check() error {
	bad := func(key, format string, args ...any) error { return outOfRange(c.Kind(), key, format, args...) }
	for _, v := range []struct {
		key string
		v   float64
	}{{"alpha", c.Alpha}, {"b", c.B}, {"settle", c.Settle}} {
		if !nonNegative(v.v) {
			return bad(v.key, "%g is not a finite number of at least 0", v.v)
		}
	}
	for _, v := range []struct {
		key string
		v   float64
	}{{"tau", c.Tau}, {"dt", c.Dt}} {
		if !(v.v > 0 && isFinite(v.v)) {
			return bad(v.key, "%g ms is not a finite time above 0", v.v)
		}
	}
	switch {
	case !(c.Alpha < 2*c.Tau/c.Dt-1):
		return bad("alpha", "%g is unstable: with tau %g ms and steps of %g ms it must be below 2·tau/dt - 1 = %g", c.Alpha, c.Tau, c.Dt, 2*c.Tau/c.Dt-1)
	case !(c.Presentation >= c.Dt && c.Presentation/c.Dt <= 1e6):
		return bad("presentation", "%g ms has less than one step of %g ms, or more than a million", c.Presentation, c.Dt)
	}
	return checkShared(c.Kind(), c.Gamma, c.Momentum, c.Rate)
}

// steps are the Euler steps of a presentation, and those without plasticity at the start of the run.
func (c Circuit) steps() (all, settling int) {
	return int(math.Round(c.Presentation / c.Dt)), int(math.Round(c.Settle / c.Dt))
}

// rate is η of event t. It falls from event to event: with a rate that fell from step to step the first pattern, whose
// steps are the largest by far, would do less, and Fig. 4B come out otherwise (docs/SLEEP.md).
func (c Circuit) rate(t int) float64 {
	all, _ := c.steps()
	return c.Rate.At(float64(t) * float64(all) * c.Dt)
}

// overshoot is what one presentation, its momentum run out, leaves of a response: the factor by which a deviation
// along a pattern with |x|² = square changes when other patterns follow. It must stay between -1 and 1.
func (c Circuit) overshoot(square float64) float64 {
	c.Settle = 0
	p := c.presentation(0, square, true)
	k := c.Momentum / (1 - c.Momentum)
	// The rate of a settled response is the response itself: y and r are 1.
	settled := p.out[coefficient][ofResponse] + p.out[coefficient][ofRate]
	moving := p.out[velocity][ofResponse] + p.out[velocity][ofRate]
	return 1 + float64(square*(settled+float64(k*moving)))
}

func (c Circuit) forStrength(s Strength) (Rule, error) {
	if c.Rate.Base == 0 {
		// Rates lag behind by τ: with κ = η|x|²/((1-μ)dt) the response and the rates are an oscillator of frequency
		// √(κ/τ) that decays with 1/(2τ). κτ = 1 is past critical damping, and quick. Momentum that lasts longer than
		// τ lags behind, too, and asks for less.
		c.Rate.Base = (1 - c.Momentum) * c.Dt / c.Tau / s.Square
		for range 60 {
			if c.overshoot(s.Square) > -0.5 {
				break
			}
			c.Rate.Base /= 2
		}
	}
	if o := c.overshoot(s.Square); !(o > -1 && o < 1) {
		return nil, fmt.Errorf("rate %g is unstable: with momentum %g and patterns of |x|² = %.4g a presentation of %g ms multiplies deviations by %.4g, which must be between -1 and 1", c.Rate.Base, c.Momentum, s.Square, c.Presentation, o)
	}
	return c, nil
}

// Excite is Eq. 8a as one Euler step of h = dt/τ: the rate of an excitatory neuron from its rate, its input z = w·x
// and the inhibitory rate.
func (c Circuit) Excite(r, z, inhibition float64) float64 {
	return r + float64(c.Dt/c.Tau*(-r+z-float64(c.Alpha*inhibition)+c.B))
}

// Inhibit is Eq. 8b as one Euler step: the rate of the inhibitory neuron from its rate and the mean excitatory one.
func (c Circuit) Inhibit(r, mean float64) float64 {
	return r + float64(c.Dt/c.Tau*(-r+mean-c.B))
}

// Settled is Eq. 9, the fixed point of an excitatory rate: z is the neuron's input, mean that of its group.
func (c Circuit) Settled(z, mean float64) float64 { return c.B + z - mean + mean/(1+c.Alpha) }

// circuitDirect is Eq. 8 by the letter for one group: the definition.
type circuitDirect struct {
	Circuit
	w, w0, v [][]float64 // (N, M)
	r        []float64   // (N)
	inh      float64
}

func (c Circuit) direct(w [][]float64) *circuitDirect {
	d := &circuitDirect{Circuit: c, w: w, r: make([]float64, len(w))}
	for i := range w {
		d.w0 = append(d.w0, append([]float64(nil), w[i]...))
		d.v = append(d.v, make([]float64, len(w[i])))
		d.r[i] = c.B
	}
	return d
}

// present shows pattern x, (M), as event t.
func (d *circuitDirect) present(t int, x []float64) {
	all, settling := d.steps()
	n, rate := float64(len(d.w)), d.rate(t)
	for i := range all {
		mean := 0.0
		for _, r := range d.r {
			mean += r / n
		}
		for k, w := range d.w {
			d.r[k] = d.Excite(d.r[k], Response(w, x), d.inh)
		}
		d.inh = d.Inhibit(d.inh, mean)
		if t*all+i < settling {
			continue
		}
		rest := d.B
		if d.MeanPreserving { // r_inh + τ ṙ_inh + b
			drive := -d.inh - d.B
			for _, r := range d.r {
				drive += r / n
			}
			rest = d.inh + drive + d.B
		}
		for k, w := range d.w {
			for j := range w {
				g := float64((d.r[k]-rest)*x[j]) + float64(d.Gamma*(w[j]-d.w0[k][j]))
				d.v[k][j] = float64(d.Momentum*d.v[k][j]) - float64(rate*g)
				w[j] += d.v[k][j]
			}
		}
	}
}

// presentation is what one presentation does, told by few numbers. Weights move along the patterns shown and nowhere
// else: w = w(0) + Σ_s c_s x_s, v = Σ_s e_s x_s. During the presentation of x, which moves only its own coefficient
// by more than momentum and γ do, the others go
//
//	(c, e) ← carry (c, e)
//
// whatever the neuron; and what comes out is linear in five numbers of the neuron: its response y = x·w(0) at the
// start of the run, x·(w - w(0)) and x·v now, its rate (counted from b), and the inhibitory rate.
//
// Averaged over a group, the equations are the same; so they are for deviations from the mean, without the inhibitory
// neuron. Hence one presentation for the mean and one for all deviations do for the group (the "small mean system").
type presentation struct {
	carry [2][2]float64 // of (c, e), by (c, e)
	out   [4][5]float64 // out, by in
}

// Rows and columns of presentation.out.
const (
	coefficient   = iota // c of the pattern itself
	velocity             // e
	rateOut              // r
	inhibitionOut        // r_inh

	ofResponse   = iota - 4 // y
	ofChange                // x·(w - w(0))
	ofVelocity              // x·v
	ofRate                  // r
	ofInhibition            // r_inh
)

// presentation computes event t with |x|² = square for deviations, or for the mean.
func (c Circuit) presentation(t int, square float64, deviations bool) presentation {
	all, settling := c.steps()
	h, alpha, rate := c.Dt/c.Tau, c.Alpha, c.rate(t)
	if deviations {
		alpha = 0
	}
	var p presentation
	p.carry = [2][2]float64{{1, 0}, {0, 1}}
	o := &p.out
	o[rateOut][ofRate], o[inhibitionOut][ofInhibition] = 1, 1
	for i := range all {
		// z = y + x·(what the others' coefficients are by now) + |x|² c
		z := [5]float64{ofResponse: 1, ofChange: p.carry[0][0], ofVelocity: p.carry[0][1]}
		for k := range z {
			z[k] += float64(square * o[coefficient][k])
			r, inh := o[rateOut][k], o[inhibitionOut][k]
			o[rateOut][k] = r + float64(h*(-r+z[k]-float64(alpha*inh)))
			o[inhibitionOut][k] = inh + float64(h*(-inh+r))
		}
		if t*all+i < settling {
			continue
		}
		for k := range z {
			o[velocity][k] = float64(c.Momentum*o[velocity][k]) - float64(rate*(o[rateOut][k]+float64(c.Gamma*o[coefficient][k])))
			o[coefficient][k] += o[velocity][k]
		}
		for k := range p.carry {
			p.carry[1][k] = float64(c.Momentum*p.carry[1][k]) - float64(rate*c.Gamma*p.carry[0][k])
			p.carry[0][k] += p.carry[1][k]
		}
	}
	return p
}

// stream runs all events for one neuron told by its deviation, or for the mean. x are the patterns, (T, M), shown[t]
// their presentations; scratch holds 3M numbers.
func (c Circuit) stream(w, x []float64, shown []presentation, scratch []float64) {
	m := len(w)
	start, change, v := scratch[:m], scratch[m:2*m], scratch[2*m:3*m]
	copy(start, w)
	clear(change)
	clear(v)
	var r, inh float64
	for t, p := range shown {
		x := x[t*m : (t+1)*m]
		in := [5]float64{dot(x, start), dot(x, change), dot(x, v), r, inh}
		var out [4]float64
		for i := range out {
			for k, a := range in {
				out[i] += float64(p.out[i][k] * a)
			}
		}
		r, inh = out[rateOut], out[inhibitionOut]
		for j := range change {
			d, e := change[j], v[j]
			change[j] = carry(p.carry[0], d, e) + float64(out[coefficient]*x[j])
			v[j] = carry(p.carry[1], d, e) + float64(out[velocity]*x[j])
		}
	}
	for j := range w {
		w[j] += change[j]
	}
}

// circuitDense is the dense map of deviations, or of the mean, as a recurrence: change = D - I and v are matrices,
// the rates linear forms in what the weights were at the start.
type circuitDense struct {
	Circuit
	deviations bool
	m, t       int
	change, v  []float64    // (M, M)
	rate, inh  []float64    // (M)
	row        [4][]float64 // (M)
	in         [2][]float64 // (M)
}

func (c Circuit) dense(m int, deviations bool) *circuitDense {
	e := &circuitDense{Circuit: c, deviations: deviations, m: m, change: make([]float64, m*m), v: make([]float64, m*m), rate: make([]float64, m), inh: make([]float64, m)}
	for i := range e.row {
		e.row[i] = make([]float64, m)
	}
	for i := range e.in {
		e.in[i] = make([]float64, m)
	}
	return e
}

func (e *circuitDense) present(x []float64) {
	p := e.presentation(e.t, dot(x, x), e.deviations)
	leftTimes(e.in[0], x, e.change)
	leftTimes(e.in[1], x, e.v)
	combine(&e.row, &p, [5][]float64{x, e.in[0], e.in[1], e.rate, e.inh})
	copy(e.rate, e.row[rateOut])
	copy(e.inh, e.row[inhibitionOut])
	for i, a := range x {
		for j := range e.m {
			d, v := &e.change[i*e.m+j], &e.v[i*e.m+j]
			*d, *v = carry(p.carry[0], *d, *v)+float64(a*e.row[coefficient][j]), carry(p.carry[1], *d, *v)+float64(a*e.row[velocity][j])
		}
	}
	e.t++
}

// combine sets out to the presentation's linear combinations of the rows in.
func combine(out *[4][]float64, p *presentation, in [5][]float64) {
	for i, row := range out {
		clear(row)
		for k, a := range in {
			axpy(row, p.out[i][k], a)
		}
	}
}

func (e *circuitDense) Map() Map {
	d := append([]float64(nil), e.change...)
	for i := range e.m {
		d[i*e.m+i]++
	}
	return Map{Dense: d}
}

// circuitEvolution is the pair of dense maps.
type circuitEvolution struct{ deviation, mean *circuitDense }

func (c Circuit) evolve(m int) Evolution {
	e := circuitEvolution{deviation: c.dense(m, true)}
	if !c.MeanPreserving {
		e.mean = c.dense(m, false)
	}
	return e
}

func (e circuitEvolution) Present(x []float64) {
	e.deviation.present(x)
	if e.mean != nil {
		e.mean.present(x)
	}
}

func (e circuitEvolution) Maps() (deviation, mean Map) {
	if e.mean != nil {
		mean = e.mean.Map()
	}
	return e.deviation.Map(), mean
}

// factors is the map of a run as D = I + XᵀY (see Hebbian.factors): x are the patterns, (T, M), shown their
// presentations. Pattern s is born with coefficients that are linear forms in the start, rows of births; carried on
// by the same 2×2 factors for all neurons and weights. stop is asked before each event.
func (c Circuit) factors(x []float64, m int, shown []presentation, stop func() error) (Map, error) {
	n := len(shown)
	born := [2][]float64{make([]float64, len(x)), make([]float64, len(x))} // c and e, (T, M)
	carried := make([][2][2]float64, 0, n)
	rate, inh := make([]float64, m), make([]float64, m)
	change, v := make([]float64, m), make([]float64, m)
	var row [4][]float64
	for i := range row {
		row[i] = make([]float64, m)
	}
	at := func(a []float64, t int) []float64 { return a[t*m : (t+1)*m] }
	for t, p := range shown {
		if err := stop(); err != nil {
			return Map{}, err
		}
		clear(change)
		clear(v)
		for s, f := range carried {
			g := dot(at(x, t), at(x, s))
			for k := range born {
				axpy(change, g*f[0][k], at(born[k], s))
				axpy(v, g*f[1][k], at(born[k], s))
			}
		}
		combine(&row, &p, [5][]float64{at(x, t), change, v, rate, inh})
		copy(rate, row[rateOut])
		copy(inh, row[inhibitionOut])
		copy(at(born[0], t), row[coefficient])
		copy(at(born[1], t), row[velocity])
		for s, f := range carried {
			carried[s] = times(p.carry, f)
		}
		carried = append(carried, [2][2]float64{{1, 0}, {0, 1}})
	}
	for s, f := range carried {
		c, e := at(born[0], s), at(born[1], s)
		for j := range c {
			c[j] = carry(f[0], c[j], e[j])
		}
	}
	return Map{X: x, Y: born[0]}, nil
}

// times is the matrix product a b.
func times(a, b [2][2]float64) (c [2][2]float64) {
	for i := range c {
		for j := range c[i] {
			c[i][j] = carry(a[i], b[0][j], b[1][j])
		}
	}
	return c
}

// carry is a row of a presentation's carry applied to a coefficient and its velocity.
func carry(row [2]float64, c, e float64) float64 { return float64(row[0]*c) + float64(row[1]*e) }
