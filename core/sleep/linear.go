package sleep

import "math"

// Map is what a run of events does to every neuron of the groups that see its patterns: δ(T) = D δ(0) for the
// deviation δ = w - w̄ from the group's mean, M weights a neuron, the bias last. It holds D in the form that is
// cheapest to apply; a Map without any is the identity.
//
// D is always the identity plus something of rank R at most, R the number of patterns shown: a rule changes weights
// along the patterns only, and its pull to the weights at the start of the sleep is 0 for a neuron that stays there.
type Map struct {
	Diagonal []float64 // (M): D = diag
	Dense    []float64 // (M, M): D, row by row
	X, Y     []float64 // (R, M): D = I + Xᵀ Y, X the patterns, Y the responses' coefficients
}

// Identity tells whether the map changes nothing.
func (m Map) Identity() bool { return m.Diagonal == nil && m.Dense == nil && m.X == nil }

// Apply replaces δ by D δ. scratch holds max(M, R) numbers.
func (m Map) Apply(δ, scratch []float64) {
	n := len(δ)
	switch {
	case m.Diagonal != nil:
		for j, d := range m.Diagonal {
			δ[j] *= d
		}
	case m.Dense != nil:
		old := scratch[:n]
		copy(old, δ)
		for i := range δ {
			δ[i] = dot(m.Dense[i*n:(i+1)*n], old)
		}
	case m.X != nil:
		response := scratch[:len(m.X)/n]
		for r := range response {
			response[r] = dot(m.Y[r*n:(r+1)*n], δ)
		}
		for r, c := range response {
			axpy(δ, c, m.X[r*n:(r+1)*n])
		}
	}
}

// dense brings a factored map of n weights to its dense form.
func (m Map) dense(n int) Map {
	d := identity(n)
	for r := range len(m.X) / n {
		x, y := m.X[r*n:(r+1)*n], m.Y[r*n:(r+1)*n]
		for i, v := range x {
			axpy(d[i*n:(i+1)*n], v, y)
		}
	}
	return Map{Dense: d}
}

// seen is the map for neurons whose weight j belongs to what the map calls input[j].
func (m Map) seen(input []int) Map {
	n := len(input)
	columns := func(a []float64) []float64 {
		if a == nil {
			return nil
		}
		b := make([]float64, len(a))
		for r := range len(a) / n {
			for j, from := range input {
				b[r*n+j] = a[r*n+from]
			}
		}
		return b
	}
	s := Map{Diagonal: columns(m.Diagonal), X: columns(m.X), Y: columns(m.Y)}
	if m.Dense != nil {
		s.Dense = make([]float64, len(m.Dense))
		for i, row := range input {
			for j, column := range input {
				s.Dense[i*n+j] = m.Dense[row*n+column]
			}
		}
	}
	return s
}

func identity(n int) []float64 {
	d := make([]float64, n*n)
	for i := range n {
		d[i*n+i] = 1
	}
	return d
}

// Maps and responses are the same numbers on every processor: each product is rounded before it is added (the explicit
// conversions), which keeps compilers from fusing the two, and sums have one order. Integer backends need it: what they round
// of a map must not differ.

// dot is the inner product.
func dot(a, b []float64) float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += float64(a[i] * b[i])
		s1 += float64(a[i+1] * b[i+1])
		s2 += float64(a[i+2] * b[i+2])
		s3 += float64(a[i+3] * b[i+3])
	}
	for ; i < len(a); i++ {
		s0 += float64(a[i] * b[i])
	}
	return s0 + s1 + (s2 + s3)
}

// axpy is y ← y + c x.
func axpy(y []float64, c float64, x []float64) {
	x = x[:len(y)]
	for i := range y {
		y[i] += float64(c * x[i])
	}
}

// leftTimes sets dst to xᵀ A, A being (len(x), len(dst)).
func leftTimes(dst, x, a []float64) {
	clear(dst)
	n := len(dst)
	for i, v := range x {
		if v != 0 {
			axpy(dst, v, a[i*n:(i+1)*n])
		}
	}
}

// lines returns the one input line that each of the patterns activates; ok is false when any activates more or none.
func lines(x []float64, m int) (line []int, ok bool) {
	for r := range len(x) / m {
		at := -1
		for j, v := range x[r*m : (r+1)*m] {
			if v == 0 {
				continue
			}
			if at >= 0 {
				return nil, false
			}
			at = j
		}
		if at < 0 {
			return nil, false
		}
		line = append(line, at)
	}
	return line, true
}

// isFinite tells whether v is a number that is not infinite.
func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// nonNegative tells whether v is finite and at least 0.
func nonNegative(v float64) bool { return v >= 0 && isFinite(v) }
