package rng

import "math"

// Normal returns the i-th draw of the standard normal distribution: the quantile of a uniform draw at the centre of
// one of 2^52 equal cells. It lies in [-8.3, 8.3]. The result is the same on every processor: each product is
// rounded before it is added, which keeps compilers from fusing the two.
func (s Stream) Normal(i uint64) float64 {
	return normal(s.Uint64(i))
}

// Normals sets dst to the draws from the first-th on; two draws share a block, so that it costs less than they would.
func (s Stream) Normals(dst []float64, first uint64) {
	if len(dst) > 0 && first%2 == 1 {
		dst[0] = s.Normal(first)
		dst, first = dst[1:], first+1
	}
	for ; len(dst) > 1; dst, first = dst[2:], first+2 {
		b := s.Block(first / 2)
		dst[0], dst[1] = normal(uint64(b[0])|uint64(b[1])<<32), normal(uint64(b[2])|uint64(b[3])<<32)
	}
	if len(dst) > 0 {
		dst[0] = s.Normal(first)
	}
}

func normal(word uint64) float64 { return quantile((float64(word>>12) + 0.5) * 0x1p-52) }

// quantile is the inverse of the standard normal distribution function for 0 < p < 1, relative error about 1e-16.
// Source: Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37
// (1988), routine PPND16.
func quantile(p float64) float64 {
	q := p - 0.5
	if math.Abs(q) <= 0.425 {
		r := 0.180625 - float64(q*q)
		return q * (horner(&centreNum, r) / horner(&centreDen, r))
	}
	r := p
	if q > 0 {
		r = 1 - p
	}
	r = math.Sqrt(-logarithm(r))
	var z float64
	if r <= 5 {
		z = horner(&middleNum, r-1.6) / horner(&middleDen, r-1.6)
	} else {
		z = horner(&tailNum, r-5) / horner(&tailDen, r-5)
	}
	if q < 0 {
		return -z
	}
	return z
}

// horner evaluates c[0] + c[1] x + … + c[7] x^7 with every product rounded.
func horner(c *[8]float64, x float64) float64 {
	s := c[7]
	for i := 6; i >= 0; i-- {
		s = float64(s*x) + c[i]
	}
	return s
}

// logarithm is ln(x) for normal x > 0 to about 2e-16 relative to max(1, |ln x|). math.Log is not used because its
// last bit differs between processors. With x = m 2^e, m in [1/√2, √2), ln m = 2 atanh(t), t = (m-1)/(m+1),
// |t| < 0.172: eleven terms of the series leave 2 t^23/23 < 3e-19.
func logarithm(x float64) float64 {
	m, e := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m *= 2
		e--
	}
	t := (m - 1) / (m + 1)
	t2 := float64(t * t)
	s := 0.0
	for k := 21; k >= 1; k -= 2 {
		s = float64(s*t2) + 1/float64(k)
	}
	return float64(float64(e)*math.Ln2) + float64(2*t*s)
}

// Coefficients of AS 241, PPND16, in ascending powers.
var (
	centreNum = [8]float64{3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3}
	centreDen = [8]float64{1, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3}
	middleNum = [8]float64{1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4}
	middleDen = [8]float64{1, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}
	tailNum   = [8]float64{6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7}
	tailDen   = [8]float64{1, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}
)
