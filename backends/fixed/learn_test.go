package fixed

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"hypnos/backends/backendtest"
	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// floatParams are integer parameters as numbers, exact.
func floatParams(t *testing.T, n *net.Network, p *model.Params) *model.Params {
	t.Helper()
	f, err := edge.FormatsOf(p)
	if err != nil {
		t.Fatal(err)
	}
	all := &model.Params{}
	for _, v := range n.Nodes {
		for _, q := range v.Params {
			frac := f.Weights[v.Params[0].Name].Frac
			var x []float64
			if q.Role == net.Weight {
				x = floats(ints16(t, p, q.Name), frac)
			} else {
				for _, b := range ints32(t, p, q.Name) {
					x = append(x, math.Ldexp(float64(b), -frac-f.Activations[n.Nodes[v.Inputs[0]].Name].Frac))
				}
			}
			all.Add(model.NewTensor(q.Name, q.Shape, x))
		}
	}
	return all
}

// wakes makes learning steps and returns the state's digest.
func wakes(t *testing.T, e *engine, steps, batch int) {
	t.Helper()
	for i := range steps {
		x, y := images(e.net, uint64(100+i), batch), make(core.Labels, batch)
		for j := range y {
			y[j] = int32((i + j) % e.net.Output().C)
		}
		if _, err := e.Wake(context.Background(), x, y, 0.05); err != nil {
			t.Fatal(err)
		}
	}
}

// digest is the SHA-256 of everything that the engine saves, expanded.
func digest(t *testing.T, e *engine) string {
	t.Helper()
	h := sha256.New()
	for _, w := range e.weights {
		if w == nil {
			continue
		}
		for p := range w.blocks() {
			block := w.block(p)
			for n := range w.Out {
				row := block*w.Out + n
				binary.Write(h, binary.LittleEndian, w.value[row*w.padded:row*w.padded+w.k])
				if w.biases != nil {
					binary.Write(h, binary.LittleEndian, w.biases[row])
				}
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestGradientsAgainstReference compares gradients with those of the reference backend on the same numbers, for images at
// which no rectifier decides otherwise than the reference's, so that what is left is rounding. An activation of 9 fraction
// bits and a size of 1 is off by 2^-10; so are then the logits, at whose softmax errors begin, and each of at most five layers
// adds as much, and 2^-13 of the largest error. 1 % of a gradient's norm is 10·2^-10.
func TestGradientsAgainstReference(t *testing.T) {
	compared := 0
	for _, n := range testNets(t) {
		for _, rule := range core.WakeRules() {
			t.Run(fmt.Sprintf("%s, %s", n.Name, rule), func(t *testing.T) {
				p := randomParams(t, n, 3, 0.3)
				c := training(4)
				c.Rule = rule
				e := openEngine(t, Options{}, n, c, p)
				r, err := ref.Open().Compile(n, c)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Load(floatParams(t, n, p)); err != nil {
					t.Fatal(err)
				}
				probe := core.Probe{Train: true, Labels: core.Labels{0, 1, 2, 3}}
				var got, want map[string][]float64
				for seed := uint64(4); seed == 4 || flips(n, got, want); seed++ {
					if seed > 100 {
						t.Fatal("no images without a flip")
					}
					x := images(n, seed, 4)
					got, want = backendtest.Trace(t, e, x, probe), backendtest.Trace(t, r, x, probe)
				}
				for name, g := range got {
					if name[:5] != "grad/" {
						continue
					}
					var diff, norm float64
					for i, v := range want[name] {
						diff += (g[i] - v) * (g[i] - v)
						norm += v * v
					}
					if relative := math.Sqrt(diff / norm); !(relative <= 0.01) {
						t.Errorf("%s: relative error %.3g", name, relative)
					}
					compared++
				}
			})
		}
	}
	if compared < 30 {
		t.Errorf("only %d gradients compared", compared)
	}
}

// flips tells whether a rectifier is on in one trace and off in the other, or a pool has another winner.
func flips(n *net.Network, a, b map[string][]float64) bool {
	for _, v := range n.Nodes {
		name := "out/" + v.Name
		switch op := v.Op.(type) {
		case net.ReLU:
			for i, x := range a[name] {
				if (x > 0) != (b[name][i] > 0) {
					return true
				}
			}
		case net.MaxPool:
			in := "out/" + n.Nodes[v.Inputs[0]].Name
			images, same := len(a[name])/v.Out.Len(), true
			var first []int
			eachWinner(op, v, a[in], images, func(_, at int) { first = append(first, at) })
			eachWinner(op, v, b[in], images, func(to, at int) { same = same && first[to] == at })
			if !same {
				return true
			}
		}
	}
	return false
}

// TestLearningIsRightOnAverage: with changes far below the last place, the mean change over many seeds is that of the
// gradient. With e the expected changes, in last places, and a variance of at most 1/4 for each change, the mean over S seeds
// of Σ Δ·e / Σ e² has a standard deviation of at most 1/√(4 S Σ e²) around 1; five of them are allowed, and the 1 % by which
// the gradient is known (see above).
func TestLearningIsRightOnAverage(t *testing.T) {
	const seeds, lr = 200, 0.02
	checked := 0
	for _, n := range testNets(t) {
		p := randomParams(t, n, 3, 0.3)
		x, y := images(n, 5, 2), core.Labels{1, 3}
		e := openEngine(t, Options{}, n, training(2), p)
		grads := backendtest.Trace(t, e, x, core.Probe{Train: true, Labels: y})
		change := map[string][]float64{}
		for seed := range uint64(seeds) {
			c := training(2)
			c.Seed = seed
			e := openEngine(t, Options{}, n, c, p)
			if _, err := e.Wake(context.Background(), x, y, lr); err != nil {
				t.Fatal(err)
			}
			after, err := e.Save()
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range e.weights {
				if w == nil {
					continue
				}
				before, now := ints16(t, p, w.weight.Name), ints16(t, after, w.weight.Name)
				d := change[w.weight.Name]
				if d == nil {
					d = make([]float64, len(before))
					change[w.weight.Name] = d
				}
				for i, v := range now {
					d[i] += float64(v-before[i]) / seeds
				}
			}
		}
		for _, w := range e.weights {
			if w == nil {
				continue
			}
			var along, square float64
			for i, g := range grads["grad/"+w.weight.Name] {
				want := -lr * g / w.format.Unit()
				along += want * change[w.weight.Name][i]
				square += want * want
			}
			if ratio, bound := along/square, 5/math.Sqrt(4*seeds*square)+0.01; !(math.Abs(ratio-1) <= bound) {
				t.Errorf("%s, %s: mean change is %.3f of the gradient's, want 1 ± %.3f", n.Name, w.weight.Name, ratio, bound)
			} else {
				t.Logf("%s, %s: %.3f, 1 ± %.3f", n.Name, w.weight.Name, ratio, bound)
			}
			checked++
		}
	}
	if checked < 10 {
		t.Errorf("only %d layers checked", checked)
	}
}

// TestSameBytes: logits, weights after learning and weights after sleep are the same with any kernels and threads.
func TestSameBytes(t *testing.T) {
	phases := map[string]sleep.Stream{
		"instant":   {Rule: sleep.Instant{}},
		"rests":     {Rule: sleep.Instant{}, Border: sleep.BorderRests},
		"one-hot":   {Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Source: sleep.OneHot{}, Events: 300, Seed: 5},
		"gaussian":  {Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1, Momentum: 0.5}, Events: 50, Seed: 5, Phase: 2},
		"circuit":   {Rule: circuit(true), Events: 20, Seed: 5},
		"inhibited": {Rule: circuit(false), Events: 20, Seed: 5},
	}
	compared := 0
	for _, n := range testNets(t) {
		for phase, s := range phases {
			for _, batch := range []int{1, 3} {
				t.Run(fmt.Sprintf("%s, %s, batch %d", n.Name, phase, batch), func(t *testing.T) {
					first := map[string]string{}
					for name, o := range ways() {
						e := openEngine(t, o, n, training(batch), randomParams(t, n, 1, 0.5))
						got := map[string]string{}
						wakes(t, e, 3, batch)
						got["awake"] = digest(t, e)
						if _, err := e.Sleep(context.Background(), s); err != nil {
							t.Fatal(err)
						}
						got["asleep"] = digest(t, e)
						wakes(t, e, 2, batch)
						got["awake again"] = digest(t, e)
						logits, err := e.Infer(context.Background(), images(n, 8, batch))
						if err != nil {
							t.Fatal(err)
						}
						got["logits"] = fmt.Sprint(logits.Values)
						if len(first) == 0 {
							first = got
						}
						for what, d := range got {
							if d != first[what] {
								t.Errorf("%s: %s: %s, others have %s", name, what, d, first[what])
							}
							compared++
						}
						if got["awake"] == got["asleep"] && n.Name != "conv" {
							t.Error("sleep changed nothing")
						}
					}
				})
			}
		}
	}
	if compared < 100 {
		t.Errorf("only %d digests compared", compared)
	}
}

func circuit(preserving bool) sleep.Circuit {
	c := sleep.DefaultCircuit()
	c.Gamma, c.MeanPreserving = 0.01, preserving
	return c
}
