package core

import "math"

// CrossEntropy is -ln softmax(logits)[label], computed relative to the largest logit. It is NaN when a logit is NaN
// or two of them are the same infinity.
func CrossEntropy(logits []float64, label int32) float64 {
	largest := math.Inf(-1)
	for _, v := range logits {
		largest = math.Max(largest, v) // NaN wins
	}
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(v - largest)
	}
	return math.Log(sum) - (logits[label] - largest)
}

// SoftmaxGradient writes the derivative of CrossEntropy, softmax(logits) - onehot(label), times scale into dst.
func SoftmaxGradient(dst, logits []float64, label int32, scale float64) {
	largest := math.Inf(-1)
	for _, v := range logits {
		largest = math.Max(largest, v)
	}
	sum := 0.0
	for j, v := range logits {
		dst[j] = math.Exp(v - largest)
		sum += dst[j]
	}
	for j := range dst {
		dst[j] *= scale / sum
	}
	dst[label] -= scale
}

// Rank is how many classes come before label: those with a larger logit, and those with an equal one and a smaller
// number. A NaN comes before everything.
func Rank(logits []float64, label int32) int {
	own, rank := logits[label], 0
	for j, v := range logits {
		if j != int(label) && !(v < own || v == own && j > int(label)) {
			rank++
		}
	}
	return rank
}

// Score sums the cross-entropies of a batch and counts its hits.
func Score(l Logits, y Labels) (sum float64, top1, top5 int) {
	for i, label := range y {
		row := l.Row(i)
		sum += CrossEntropy(row, label)
		switch r := Rank(row, label); {
		case r < 1:
			top1++
			top5++
		case r < 5:
			top5++
		}
	}
	return sum, top1, top5
}
