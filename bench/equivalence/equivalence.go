// Package equivalence runs one network on several backends, the same numbers, images, wake steps and sleeps, and compares them
// layer by layer, each difference with a bound that follows from the number formats.
//
// Every backend starts from the parameters of an edge package: float backends from edge.Float of the integers, which is exact.
// The reference backend computes the exact network beside each of them (the shadow). A difference between two backends is at
// most the sum of what bounds each one's difference from the exact network; with backends of the same integers it is 0.
//
// Let x be what a layer really got, y what it gave, e bounds on |x - exact x|, and u the unit roundoff: 2^-53, 2^-24. A bound
// is a worst case unless it is said to be statistical. γ(n) = nu/(1-nu) bounds the relative error of a sum of n products in any
// order (Higham, "Accuracy and stability of numerical algorithms", 2nd ed., Section 3.1); nothing underflows.
//
//	activations  |y - exact| ≤ Σ|w| e + ℓ, with ℓ what the layer itself adds (its local error):
//	             float   γ(K+2) (Σ|w||x| + |b|) for K weights a neuron; γ(P+2) of a mean of P; γ(2)(|a|+|b|) of a sum
//	             int16   half a unit of the output, as everything before it is exact; a saturated element's own excess
//	             ReLU, max pools and transposes add nothing and enlarge no bound.
//	             tf32, bf16: a product of factors rounded by f = 2^-11 or 2^-8 is off by 2f+f² of its size, and what is added in
//	             float32 by γ(K+2) of (1+f)² as much; bf16 stores activations, errors and images, each by s = 2^-8 of its size
//	local        the sharp form: y against the exact formula of the x that the backend had, bounded by ℓ alone. Integers are
//	             compared with == to the exact sum, rounded and saturated once.
//	gradients    |∂/∂z (softmax - onehot)| summed over z is at most 1/2, so that errors start with half the largest error of a
//	             logit, 2^-23 (fixed.SoftmaxGradient) and roundings. Through a layer goes |W|ᵀ e; a weight's gradient is off by
//	             Σ|x| e_g + e_x|g|. Where a rectifier or pool decides otherwise than the exact one, the whole error is at
//	             stake, and counted. Integer errors are rounded at every node to a unit of at most 1/4095 of the largest.
//	local        of gradients, for locally connected layers at batch 1, whose biases' gradients are the errors themselves: each
//	             layer's from those of the layers behind it, as the backend had them.
//	steps        Δw = -lr·g of the weights that the backend had, k times, with the exact g. Float: γ(4)(|w| + lr|g|) a step and
//	             lr times the bound of the gradient. Integers: the same, and a stochastic rounding, less than one unit of the
//	             weight, lr·Σ|x| times a unit of the errors (they are rounded once more, with the rate), and 2^-15 of the
//	             change. A weight at an end of its range is counted and bounded by nothing.
//	local        of steps, the sharp form: with the g that the backend had, so that its bound falls away (but of weights that
//	             positions share, whose sum may have had another order).
//	drift        (statistical) the mean over n weights of what k local steps are off by. Stochastic roundings have mean 0 given what
//	             came before and lie within a unit, so that their mean is above 3 units·√(k/n) with a probability of at most
//	             2·e^-18 = 3·10^-8 (inequality of Hoeffding and Azuma); the steps' other errors are added as worst cases.
//	paths        w_A - w_B after k steps is the difference of what the exact gradients along each path add up to, which is
//	             computed, and of both steps' errors.
//	sleep        of the weights that the backend had. Instant: half a unit; float γ(N+3)·3L for groups of N and the largest
//	             weight L. Rules with events: one stochastic rounding, less than a unit, and the rounding of the map of M inputs,
//	             M·2^-20·2L, its numbers being below 2^8; float as backendtest derives it. The mean ratio Σw̄w̄₀/Σw̄₀² is off by at
//	             most that bound times Σ|w̄₀|/Σw̄₀²; ln SNR by what follows when every mean and deviation is off by the bound.
//	logits       at the end: those of the last weights that the backend had, as activations.
//	accuracy     (statistical) two networks equally good that disagree on d of n images differ by √d/n at one standard
//	             deviation. Four, for a false alarm in 16,000 (normal), or one point, whichever is more.
package equivalence

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// Subject is one backend under comparison. The first of several is what the others are compared with.
type Subject struct {
	Name    string
	Backend core.Backend
}

// Options say what is run.
type Options struct {
	Net    *net.Network     // folded: without batch norm
	Params *model.Params    // integers, as package edge converts them
	Train  *data.Loader     // its images are learned from one by one; not needed with a Feed
	Feed   []data.Minibatch // the steps' images, one a step; nil takes them from Train
	Test   *data.Loader
	Steps  int          // learning steps
	Every  int          // steps from one sleep to the next
	Check  int          // steps that are compared with their bounds; they end before the first sleep
	Phase  sleep.Stream // its number is that of the step
	Rate   float64      // learning rate
	Seed   uint64       // of stochastic rounding and the order of images
}

// Result is what was found.
type Result struct {
	Program  string    `json:"program"`
	Date     time.Time `json:"date"`
	Network  string    `json:"network"`
	Origin   string    `json:"origin"` // of the parameters
	Data     string    `json:"data"`
	Seed     uint64    `json:"seed"`
	Steps    int       `json:"steps"`
	Every    int       `json:"sleep_every"`
	Checked  int       `json:"checked_steps"`
	Rule     string    `json:"rule"`
	Rate     float64   `json:"rate"`
	Images   int       `json:"test_images"`
	Backends []Backend `json:"backends"`
	Rows     []Row     `json:"rows"`
	Violated []string  `json:"violated"` // one line each
	Seconds  float64   `json:"seconds"`
}

// Backend is one subject's run.
type Backend struct {
	Name   string  `json:"name"`
	Format string  `json:"format"`
	Before float64 `json:"top1_before"` // before the first step, as a fraction
	Top1   float64 `json:"top1"`        // after the last
	Loss   float64 `json:"loss"`        // on test images, after the last
	Digest string  `json:"digest"`      // SHA-256 of the last weights
	logits []core.Logits
	hits   []bool
}

// Row is one comparison of one tensor.
type Row struct {
	Backend   string   `json:"backend"`
	Against   string   `json:"against"` // a backend, or "exact": the exact formula of what the backend had
	Check     string   `json:"check"`
	Layer     string   `json:"layer"`
	Tensor    string   `json:"tensor"`
	Elements  int      `json:"elements"`
	Largest   *float64 `json:"largest"`  // error; null is not finite
	RMS       *float64 `json:"rms"`      // of the error
	Relative  *float64 `json:"relative"` // to the tensor's root mean square
	Index     int      `json:"index"`    // of the largest error
	Bound     *float64 `json:"bound"`    // there; null is unbounded
	Ratio     *float64 `json:"ratio"`    // the largest |error|/bound of any element; null is not finite
	Kind      string   `json:"kind"`     // of the bound: "worst case", "statistical" or "identical"
	Saturated int      `json:"saturated,omitempty"`
	Otherwise int      `json:"decided_otherwise,omitempty"` // rectifiers and pools, so far
	Why       string   `json:"why"`
	Violated  bool     `json:"violated,omitempty"`
}

// ErrViolated is wrapped by Check's error.
var ErrViolated = errors.New("bound violated")

// Err is nil, or names the first violated bound.
func (r *Result) Err() error {
	if len(r.Violated) == 0 {
		return nil
	}
	more := ""
	if n := len(r.Violated) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Errorf("%w: %s%s", ErrViolated, r.Violated[0], more)
}

// Kinds of bounds.
const (
	worstCase   = "worst case"
	statistical = "statistical"
	identical   = "identical"
)

// add measures got against want, element by element, and keeps the row.
func (r *Result) add(row Row, got, want []float64, bound func(i int) float64) {
	row.Elements = len(got)
	var largest, worst, squares, signal float64
	offender := -1
	if len(got) != len(want) || len(got) == 0 {
		offender, largest = 0, math.NaN()
	}
	for i := range min(len(got), len(want)) {
		e, b := math.Abs(got[i]-want[i]), bound(i)
		squares, signal = squares+e*e, signal+want[i]*want[i]
		if e > largest || math.IsNaN(e) && !math.IsNaN(largest) {
			largest, row.Index = e, i
		}
		ratio := e / b
		if e == 0 && b >= 0 {
			ratio = 0
		}
		if ratio > worst || math.IsNaN(ratio) {
			worst = ratio
		}
		if !(e <= b) && offender < 0 {
			offender = i
		}
	}
	n := float64(max(1, len(got)))
	row.Largest, row.RMS = sleep.Finite(largest), sleep.Finite(math.Sqrt(squares/n))
	row.Relative = sleep.Finite(math.Sqrt(squares / signal))
	if squares == 0 {
		row.Relative = sleep.Finite(0)
	}
	row.Ratio = sleep.Finite(worst)
	if len(got) > 0 && row.Index < len(want) {
		row.Bound = sleep.Finite(bound(row.Index))
	}
	if largest == 0 {
		row.Why = "equal"
	}
	if row.Kind == "" {
		row.Kind = worstCase
	}
	if row.Violated = offender >= 0; row.Violated {
		line := fmt.Sprintf("%s against %s: %s of layer %q (%s): ", row.Backend, row.Against, row.Check, row.Layer, row.Tensor)
		if len(got) != len(want) || len(got) == 0 {
			line += fmt.Sprintf("%d elements, want %d", len(got), len(want))
		} else {
			line += fmt.Sprintf("element %d is %.9g, want %.9g ± %.3g", offender, got[offender], want[offender], bound(offender))
		}
		r.Violated = append(r.Violated, line)
	}
	r.Rows = append(r.Rows, row)
}

// Check returns an error that names the first option out of range.
func (o Options) check(subjects []Subject) error {
	switch {
	case len(subjects) < 2:
		return fmt.Errorf("equivalence: %d backends: at least two are compared", len(subjects))
	case o.Steps < 1 || o.Every < 1:
		return fmt.Errorf("equivalence: %d steps with a sleep every %d: both are at least 1", o.Steps, o.Every)
	case o.Check < 1 || o.Check > min(o.Steps, o.Every):
		return fmt.Errorf("equivalence: %d steps to check are outside 1…%d, the first sleep", o.Check, min(o.Steps, o.Every))
	case !(o.Rate > 0) || math.IsInf(o.Rate, 0):
		return fmt.Errorf("equivalence: learning rate %g is not a finite number above 0", o.Rate)
	case o.Feed != nil && len(o.Feed) != o.Steps:
		return fmt.Errorf("equivalence: %d images for %d steps", len(o.Feed), o.Steps)
	case o.Feed == nil && o.Train.Batch != 1:
		return errors.New("equivalence: the training images come one by one")
	}
	labels := o.Test.Images.Labels
	if o.Feed == nil {
		if err := o.Train.Check(); err != nil {
			return err
		}
		labels = slices.Concat(labels, o.Train.Images.Labels)
	}
	for _, m := range o.Feed {
		if m.X.N != 1 {
			return errors.New("equivalence: the training images come one by one")
		}
		labels = slices.Concat(labels, m.Labels)
	}
	if err := o.Test.Check(); err != nil {
		return err
	}
	classes, err := o.Net.Classes()
	if err != nil {
		return err
	}
	for i, label := range labels {
		if label < 0 || int(label) >= classes {
			return fmt.Errorf("equivalence: label %d of image %d is outside 0…%d", label, i, classes-1)
		}
	}
	return nil
}

// Run compares subjects. A violated bound is no error of Run: see Result.Err.
func Run(ctx context.Context, subjects []Subject, o Options, progress func(string)) (*Result, error) {
	if err := o.check(subjects); err != nil {
		return nil, err
	}
	r := &Result{
		Network: o.Net.Name, Seed: o.Seed, Steps: o.Steps, Every: o.Every, Checked: o.Check, Rule: o.Phase.Rule.Kind(),
		Rate: o.Rate, Images: o.Test.Images.Len(), Violated: []string{},
	}
	images := o.Images(ctx)
	var runs []*run
	for _, s := range subjects {
		progress(s.Name)
		x, err := newRun(s, o, r)
		if err != nil {
			return nil, fmt.Errorf("equivalence: %s: %w", s.Name, err)
		}
		err = x.all(ctx, images)
		if closing := x.close(); err == nil {
			err = closing
		}
		if err != nil {
			return nil, fmt.Errorf("equivalence: %s: %w", s.Name, err)
		}
		runs = append(runs, x)
	}
	for _, x := range runs {
		r.Backends = append(r.Backends, x.record)
	}
	for _, x := range runs[1:] {
		x.compare(runs[0])
	}
	return r, nil
}

// Images are the steps' images, one a step; fewer when ctx ends.
func (o Options) Images(ctx context.Context) (all []data.Minibatch) {
	if o.Feed != nil {
		return o.Feed
	}
	for epoch := 0; len(all) < o.Steps && ctx.Err() == nil; epoch++ {
		for m := range o.Train.Epoch(ctx, epoch, 0) {
			if len(all) == o.Steps {
				break
			}
			m.X.Pixels, m.Labels = append([]float32(nil), m.X.Pixels...), append(core.Labels(nil), m.Labels...)
			all = append(all, m)
		}
	}
	return all
}
