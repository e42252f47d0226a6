package fixed

import "math/bits"

// SoftmaxFrac is the number of fraction bits of SoftmaxGradient.
const SoftmaxFrac = 24

// SoftmaxGradient sets dst to the derivative of the cross-entropy by the logits, softmax(logits) - onehot(label), with
// SoftmaxFrac fraction bits. Each element is within 2^-24 + N·2^-31 of the exact value for the given N logits: half a unit, 2^-25,
// from rounding; 0.35·2^-24 from Exp's error up, since an exponential below the largest is at most half of the sum;
// (N-1)·2^-31 from what each of the others may lose.
func SoftmaxGradient(dst []int64, logits []int16, f Format, label int32) {
	largest := logits[0]
	for _, v := range logits {
		largest = max(largest, v)
	}
	sum := int64(0)
	for i, v := range logits {
		dst[i] = int64(Exp(int64(largest)-int64(v), f.Frac))
		sum += dst[i]
	}
	for i := range dst {
		dst[i] = DivideRound(dst[i]<<SoftmaxFrac, sum)
	}
	dst[label] -= 1 << SoftmaxFrac
}

// Exp is exp(-d·2^-frac) for d ≥ 0 with 31 fraction bits, |frac| ≤ 30: 2^-t with t = d·log2(e), whose whole part is a
// shift and whose fraction a product of the roots 2^(-1/2), 2^(-1/4), … . It is too large by less than 0.7·2^-24 of its value, for
// the bits of t behind the last root (2^-24·ln 2), and too small by less than 2^-31 + 2^-57, for what is cut at the end and
// after each product.
func Exp(d int64, frac int) uint32 {
	// t with 32 fraction bits: d·log2(e)·2^(32-frac), cut.
	hi, lo := bits.Mul64(uint64(d), log2E)
	t := shiftRight(hi, lo, 63-32+frac)
	whole, part := t>>32, uint32(t)
	if whole > 31 {
		return 0
	}
	y := uint64(1) << 63
	for i := range roots {
		if part&(1<<(31-i)) != 0 {
			y, _ = bits.Mul64(y, roots[i])
		}
	}
	return uint32(y >> (32 + whole))
}

// shiftRight is (hi, lo) >> s for 0 < s < 128, at most 2^64-1.
func shiftRight(hi, lo uint64, s int) uint64 {
	switch {
	case s >= 64:
		return hi >> (s - 64)
	case s <= 0 || hi>>s != 0:
		return 1<<64 - 1
	}
	return hi<<(64-s) | lo>>s
}

// log2E is log2(e) with 63 fraction bits, cut.
const log2E = 0xb8aa3b295c17f0bb

// roots are 2^(-2^-i) for i = 1…24, with 64 fraction bits, to the nearest.
var roots = [...]uint64{
	0xb504f333f9de6484, 0xd744fccad69d6af4, 0xeac0c6e7dd24392f, 0xf5257d152486cc2c, 0xfa83b2db722a033a, 0xfd3e0c0cf486c175,
	0xfe9e115c7b8f884c, 0xff4ecb59511ec8a5, 0xffa756521c8daed2, 0xffd3a751c0f7e10c, 0xffe9d2b2f7db2756, 0xfff4e91bff1b8c3e,
	0xfffa747ea0040664, 0xfffd3a3b7814eb54, 0xfffe9d1cc60ddab1, 0xffff4e8e25879bfa, 0xffffa7470363f451, 0xffffd3a37dda0313,
	0xffffe9d1bdf703af, 0xfffff4e8debe025e, 0xfffffa746f4fa150, 0xfffffd3a37a3f8b0, 0xfffffe9d1bd1065a, 0xffffff4e8de845ae,
}
