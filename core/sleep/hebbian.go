package sleep

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"
)

// Hebbian is Eq. 4: under a pattern x that all N neurons of a group see,
//
//	g_i = (z_i - z̄) x + γ (w_i - w_i(0))        z_i = w_i·x (Eq. 3), z̄ = (1/N) Σ z_j
//	v_i ← μ v_i - η g_i        w_i ← w_i + v_i        v_i = 0 at the start of a run
//
// with the first term averaged over the patterns of a batch. The group's mean is conserved exactly, momentum
// included: the first terms of g_i sum to 0 over the group, and so do the second ones then.
type Hebbian struct {
	Gamma    float64 // γ ≥ 0, the pull to the weights at the start of the sleep
	Momentum float64 // 0 ≤ μ < 1
	Rate     Rate    // η of an event, its time counted in events
	Batch    int     // patterns an event, at least 1
	// Noise is σ ≥ 0: every neuron sees x + σ ξ_i with standard normal ξ_i of its own. It acts as a weight decay
	// s = σ²(1-1/N): the mean goes to γ/(γ+s) of its start. It makes each neuron's run its own: Direct is the only
	// execution. A bias has no noise.
	Noise float64
}

// Kind is "hebbian".
func (Hebbian) Kind() string { return "hebbian" }

// Rate is a learning rate with its schedule.
type Rate struct {
	Base  float64 // η at time 0; 0 chooses it for each layer, half of the stability bound
	Decay Decay
	Tau   float64 // unit of time of the decay, in events (Hebbian) or ms (Circuit); above 0
}

// Decay is how a learning rate falls with time.
type Decay string

// The decays. Fig. 4A has η = 0.5/(1000+t), which is the inverse decay of base 0.0005 and τ = 1000 events; Fig. 4B
// has the root decay.
const (
	DecayNone    Decay = "constant" // Base
	DecayInverse Decay = "inverse"  // Base/(1+t/Tau)
	DecayRoot    Decay = "root"     // Base/√(1+t/Tau)
)

// At is the rate at time t.
func (r Rate) At(t float64) float64 {
	switch r.Decay {
	case DecayInverse:
		return r.Base / (1 + t/r.Tau)
	case DecayRoot:
		return r.Base / math.Sqrt(1+t/r.Tau)
	}
	return r.Base
}

// check returns what is wrong with the rate of a rule.
func (r Rate) check(rule string) error {
	switch decays := []Decay{DecayNone, DecayInverse, DecayRoot}; {
	case !nonNegative(r.Base):
		return outOfRange(rule, "rate", "%g is not a finite number of at least 0", r.Base)
	case r.Decay == "":
	case !slices.Contains(decays, r.Decay):
		return outOfRange(rule, "decay", "%q is unknown (known: %s, %s, %s)", r.Decay, decays[0], decays[1], decays[2])
	case r.Decay != DecayNone && !(r.Tau > 0 && isFinite(r.Tau)):
		return outOfRange(rule, "decay_time", "%g is not a finite number above 0", r.Tau)
	}
	return nil
}

// checkShared checks what Hebbian and Circuit have in common.
func checkShared(rule string, gamma, momentum float64, r Rate) error {
	switch {
	case !nonNegative(gamma):
		return outOfRange(rule, "gamma", "%g is not a finite number of at least 0", gamma)
	case !(momentum >= 0 && momentum < 1):
		return outOfRange(rule, "momentum", "%g is outside [0, 1)", momentum)
	}
	return r.check(rule)
}

// Check returns a SettingError for the first setting out of range.
func (h Hebbian) Check() error {
	switch {
	case h.Batch < 1:
		return outOfRange(h.Kind(), "batch", "%d is below 1", h.Batch)
	case !nonNegative(h.Noise):
		return outOfRange(h.Kind(), "noise", "%g is not a finite number of at least 0", h.Noise)
	}
	return checkShared(h.Kind(), h.Gamma, h.Momentum, h.Rate)
}

// bound is the rate below which deviations shrink in the mean square,
//
//	0 < η (q + γ) < 2 (1 - μ)        q = E|x|⁴/E|x|²
//
// Proof. Let patterns be independent with E[x xᵀ] = λI, and e be what is left of a deviation: v ← μv - η(A+γ)e,
// e ← e + v with A = x xᵀ. As A² = |x|²A, the mean of A+γ is λ' = λ+γ, that of its square S = qλ + 2γλ + γ². Hence
// P = E|e|², Q = E e·v and R = E|v|² go
//
//	R ← μ²R - 2μηλ'Q + η²S P        Q ← μQ - ηλ'P + R        P ← P + 2(μQ - ηλ'P) + R        (new R at the right)
//
// This maps covariances of (e, v) to covariances, so that its spectral radius is itself an eigenvalue; stability, which
// there is for small η, ends where it is 1. Then Q = ηλ'P/(1+μ), R = 2Q, and the first line leaves
//
//	η (S/λ' - 2μλ'/(1+μ)) = 2 (1 - μ)
//
// whose bracket is at most q + γ, since λ ≤ q. The difference is what a direction gains by being met again and again:
// for one pattern for ever, λ = q and γ = 0, it is the well-known ηq < 2(1+μ) of the heavy ball. It is nothing for
// patterns in turn, each along a line of its own and met when the momentum of the last time has run out (OneHot with
// many lines): a line then keeps 1 - η|x|²/(1-μ) a round, and the bound is exact.
//
// A batch of B averages: E[A²] has q/B + (1-1/B)λ for q. Where E[x xᵀ] is not isotropic, its largest eigenvalue stands
// for λ there; the rest of the bound is then an estimate. Noise of the neuron's own adds its square length to q.
func (h Hebbian) bound(s Strength) float64 {
	b := float64(h.Batch)
	noise := float64(s.Noisy * h.Noise * h.Noise)
	return 2 * (1 - h.Momentum) / ((s.Square+noise)/b + float64((1-1/b)*s.Largest) + h.Gamma)
}

// forStrength is the rule with its rate chosen, if it is to be, for patterns of a strength; one that is unstable is refused.
func (h Hebbian) forStrength(s Strength) (Rule, error) {
	bound := h.bound(s)
	if h.Rate.Base == 0 {
		h.Rate.Base = bound / 2
	}
	if !(h.Rate.Base < bound) {
		return nil, fmt.Errorf("rate %g is unstable: with momentum %g, gamma %g and patterns of |x|² = %.4g it must be below %.4g", h.Rate.Base, h.Momentum, h.Gamma, s.Square, bound)
	}
	return h, nil
}

// Response is Eq. 3, z = w·x.
func Response(w, x []float64) float64 { return dot(w, x) }

// FixedPoint is Eq. 5: the weights (C+γI)⁻¹(C w̄ + γ w0) to which Eq. 4 takes a neuron that began at w0 in a group
// with mean w̄, under patterns of covariance C = (1/M) Σ x xᵀ. It solves by Cholesky; an error is a matrix C+γI that
// is not positive definite: γ = 0 and patterns that do not span the space.
func FixedPoint(c mat.Symmetric, gamma float64, mean, w0 []float64) ([]float64, error) {
	n := len(w0)
	a, rhs := mat.NewSymDense(n, nil), mat.NewVecDense(n, nil)
	rhs.MulVec(c, mat.NewVecDense(n, mean))
	for i := range n {
		for j := i; j < n; j++ {
			a.SetSym(i, j, c.At(i, j))
		}
		a.SetSym(i, i, c.At(i, i)+gamma)
		rhs.SetVec(i, rhs.AtVec(i)+gamma*w0[i])
	}
	var chol mat.Cholesky
	if !chol.Factorize(a) {
		return nil, fmt.Errorf("sleep: Eq. 5: C + %g·I is not positive definite", gamma)
	}
	w := mat.NewVecDense(n, nil)
	if err := chol.SolveVecTo(w, rhs); err != nil {
		return nil, fmt.Errorf("sleep: Eq. 5: %w", err)
	}
	return w.RawVector().Data, nil
}

// Floor is the lowest ln(1/SNR) that Eq. 4 can reach under isotropic patterns, C = I, from a given one: every
// deviation ends at γ/(1+γ) of its start (Eq. 5), the dashed line of Fig. 4A.
func (h Hebbian) Floor(lnInverseSNR float64) float64 {
	return lnInverseSNR + 2*math.Log(h.Gamma/(1+h.Gamma))
}

// hebbianDirect is Eq. 4 by the letter for one group, event by event: the definition.
type hebbianDirect struct {
	Hebbian
	w, w0, v, g, seen [][]float64 // (N, M)
	z                 []float64   // (N)
}

func (h Hebbian) direct(w [][]float64) *hebbianDirect {
	zeros := func() [][]float64 {
		a := make([][]float64, len(w))
		for i := range w {
			a[i] = make([]float64, len(w[i]))
		}
		return a
	}
	d := &hebbianDirect{Hebbian: h, w: w, w0: zeros(), v: zeros(), g: zeros(), seen: zeros(), z: make([]float64, len(w))}
	for i := range w {
		copy(d.w0[i], w[i])
	}
	return d
}

// present shows the patterns of event t, (B, M). noise, if not nil, adds σξ to what neuron i sees of pattern b.
func (d *hebbianDirect) present(t int, x []float64, noise func(b, i int, seen []float64)) {
	m, n := len(d.w[0]), float64(len(d.w))
	for i := range d.g {
		clear(d.g[i])
	}
	for b := range d.Batch {
		mean := 0.0
		for i := range d.w {
			copy(d.seen[i], x[b*m:(b+1)*m])
			if noise != nil {
				noise(b, i, d.seen[i])
			}
			d.z[i] = Response(d.w[i], d.seen[i])
			mean += d.z[i] / n
		}
		for i := range d.w {
			axpy(d.g[i], (d.z[i]-mean)/float64(d.Batch), d.seen[i])
		}
	}
	rate := d.Rate.At(float64(t))
	for i := range d.w {
		for j := range m {
			g := d.g[i][j] + float64(d.Gamma*(d.w[i][j]-d.w0[i][j]))
			d.v[i][j] = float64(d.Momentum*d.v[i][j]) - float64(rate*g)
			d.w[i][j] += d.v[i][j]
		}
	}
}

// stream runs all events for one neuron, which is told by its deviation δ alone: the group's mean being conserved,
// z_i - z̄ = δ·x. x are the patterns, (T·B, M); scratch holds 3M numbers.
func (h Hebbian) stream(δ, x, scratch []float64) {
	m := len(δ)
	start, v, g := scratch[:m], scratch[m:2*m], scratch[2*m:3*m]
	copy(start, δ)
	clear(v)
	for t := range len(x) / (m * h.Batch) {
		clear(g)
		for b := range h.Batch {
			x := x[(t*h.Batch+b)*m:][:m]
			axpy(g, dot(δ, x)/float64(h.Batch), x)
		}
		rate := h.Rate.At(float64(t))
		for j := range δ {
			v[j] = float64(h.Momentum*v[j]) - float64(rate*(g[j]+float64(h.Gamma*(δ[j]-start[j]))))
			δ[j] += v[j]
		}
	}
}

// hebbianDense is Eq. 4 as a recurrence of the dense map: with D = I and V = 0 at the start,
//
//	V ← μ V - η ((1/B) Σ_b x_b (x_bᵀ D) + γ (D - I))        D ← D + V
type hebbianDense struct {
	Hebbian
	m, t    int
	d, v, g []float64 // (M, M)
	row     []float64 // (M)
}

func (h Hebbian) evolve(m int) Evolution {
	return &hebbianDense{Hebbian: h, m: m, d: identity(m), v: make([]float64, m*m), g: make([]float64, m*m), row: make([]float64, m)}
}

func (e *hebbianDense) Present(x []float64) {
	clear(e.g)
	for b := range e.Batch {
		x := x[b*e.m : (b+1)*e.m]
		leftTimes(e.row, x, e.d)
		for i, v := range x {
			if v != 0 {
				axpy(e.g[i*e.m:(i+1)*e.m], v/float64(e.Batch), e.row)
			}
		}
	}
	rate := e.Rate.At(float64(e.t))
	for i := range e.d {
		d := e.d[i]
		if i%(e.m+1) == 0 {
			d--
		}
		e.v[i] = float64(e.Momentum*e.v[i]) - float64(rate*(e.g[i]+float64(e.Gamma*d)))
		e.d[i] += e.v[i]
	}
	e.t++
}

// Maps implements Evolution. The deviations' map is the evolution's own.
func (e *hebbianDense) Maps() (deviation, mean Map) { return Map{Dense: e.d}, Map{} }

// factors is the map of a run as D = I + XᵀY, R = T·B patterns of M, at a cost of R²M instead of R·M² operations.
//
// Pattern q, of event s, adds x_q times a coefficient to every deviation. Born as -(η_s/B) u_q, u_q = x_q·δ being the
// neuron's response when it was shown, the coefficient then lives on by itself: momentum goes on and γ pulls it back,
// by the same factor φ_s(t) for all neurons and all weights, since c ← c + e with e ← μ e - η_t γ c (c = e = 1 at
// birth) does not know them. So the responses come one after the other,
//
//	u_p = x_p·δ(0) - Σ_{q shown before p's event} (x_p·x_q) (η_s/B) φ_s u_q
//
// which is one forward substitution; as linear forms in δ(0), u_p = U_p·δ(0), its rows are the solution of a lower
// triangular system with X at the right. At the end Y_q = -(η_s/B) φ_s(T) U_q.
// The patterns go in blocks: their products, then what has become of the coefficients by the time of each event, then the
// substitution, of which every column is its own. each shares loops among workers; stop is asked before each block.
func (h Hebbian) factors(x []float64, m int, each func(n int, f func(lo, hi int)), stop func() error) (Map, error) {
	r := len(x) / m
	row := func(a []float64, p int) []float64 { return a[p*m : (p+1)*m] }
	before := func(p int) int { return p / h.Batch * h.Batch } // patterns shown before p's event
	u := slices.Clone(x)
	c, e := make([]float64, 0, r/h.Batch), make([]float64, 0, r/h.Batch) // c = φ_s, by event
	born := make([]float64, 0, r/h.Batch)                                // η_s/B
	block := min(max(1, 64/h.Batch)*h.Batch, r)
	responds := make([]float64, block*r)
	for lo := 0; lo < r; lo += block {
		if err := stop(); err != nil {
			return Map{}, err
		}
		hi := min(lo+block, r)
		to := func(p int) []float64 { return responds[(p-lo)*r:][:before(p)] } // of u_q in u_p
		each(hi-lo, func(from, end int) {
			for p := lo + from; p < lo+end; p++ {
				for q := range to(p) {
					to(p)[q] = dot(row(x, p), row(x, q))
				}
			}
		})
		for p := lo; p < hi; p++ {
			for q, g := range to(p) {
				to(p)[q] = -g * born[q/h.Batch] * c[q/h.Batch]
			}
			if (p+1)%h.Batch != 0 {
				continue
			}
			rate := h.Rate.At(float64(p / h.Batch))
			for s := range c {
				e[s] = float64(h.Momentum*e[s]) - float64(rate*h.Gamma*c[s])
				c[s] += e[s]
			}
			c, e, born = append(c, 1), append(e, 1), append(born, rate/float64(h.Batch))
		}
		each(m, func(from, end int) {
			for p := lo; p < hi; p++ {
				for q, a := range to(p) {
					if a != 0 {
						axpy(row(u, p)[from:end], a, row(u, q)[from:end])
					}
				}
			}
		})
	}
	for q := range r {
		scale := -born[q/h.Batch] * c[q/h.Batch]
		for j := range m {
			u[q*m+j] *= scale
		}
	}
	return Map{X: x, Y: u}, nil
}

// diagonal is the map under patterns of one input line each (Fig. 3B): every weight relaxes to its group's mean on
// its own.
func (h Hebbian) diagonal(x []float64, m int, line []int) Map {
	d, v, g := make([]float64, m), make([]float64, m), make([]float64, m)
	for j := range d {
		d[j] = 1
	}
	for t := range len(line) / h.Batch {
		clear(g)
		for p := t * h.Batch; p < (t+1)*h.Batch; p++ {
			j := line[p]
			g[j] += float64(x[p*m+j]*x[p*m+j]*d[j]) / float64(h.Batch)
		}
		rate := h.Rate.At(float64(t))
		for j := range d {
			v[j] = float64(h.Momentum*v[j]) - float64(rate*(g[j]+float64(h.Gamma*(d[j]-1))))
			d[j] += v[j]
		}
	}
	return Map{Diagonal: d}
}
