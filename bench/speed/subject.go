package speed

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"hypnos/backends/cpu"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Kinds of rows.
const (
	LC     = "lc2d"
	Conv   = "conv2d"
	Net    = "net"
	Memory = "memory" // resident memory of a network's training
	Input  = "input"  // the input pipeline of a network's training
	Edge   = "edge"   // a network in integers against the same in float32

	ImageNet = "imagenet" // ImageNet's input pipeline beside a network's training
)

// What a row measures. Peers use the same names.
const (
	Forward   = "fwd"              // of one layer, without conversion of layouts
	Both      = "fwd+bwd"          // the same and the gradients of weights and input, without an optimiser
	TrainStep = "train_step_AdamW" // of a network, everything included
	AdamStep  = "AdamW_step_only"  // of a network, the optimiser alone
	Sleep     = "sleep_instant"    // of a network, all locally connected layers
	Hebbian   = "sleep_hebbian"    // of a network, by Eq. 4, beside a training step of the key's batch
	Inference = "inference"        // of a network, everything included

	WakeSleep = "train_step_AdamW+sleep_instant" // of a network that sleeps after every step
)

// Key names a piece of work.
type Key struct {
	Kind  string `json:"kind"`
	Layer string `json:"layer"`           // a name of Shapes, or of a network
	Batch int    `json:"batch,omitempty"` // 0 where there is none; of Hebbian that of the step beside it
	What  string `json:"what"`
}

func (k Key) String() string {
	if k.Batch == 0 {
		return fmt.Sprintf("%s/%s/%s", k.Kind, k.Layer, k.What)
	}
	return fmt.Sprintf("%s/%s/%d/%s", k.Kind, k.Layer, k.Batch, k.What)
}

// network finds what the networks of rows and peers are called here.
func network(name string) (*net.Network, error) {
	type variant struct {
		name string
		net.Options
	}
	names := map[string]variant{
		"r20": {name: "resnet20"}, "r20lc": {name: "resnet20-lc"}, "r18": {name: "resnet18-half"}, "r18lc": {name: "resnet18-half-lc"},
		"r8w8": {"resnet8", net.Options{Width: 8}}, // the convolution of hypnos demo
	}
	v, ok := names[name]
	if !ok {
		return nil, fmt.Errorf("speed: no network %q", name)
	}
	return net.ByName(v.name, v.Options)
}

// defaultKeys are what is measured when nobody asks for anything else.
func defaultKeys(shapes []Shape, only *regexp.Regexp) []Key {
	var keys []Key
	for _, kind := range []string{LC, Conv} {
		for _, s := range shapes {
			for _, batch := range []int{1, 8, 64} {
				keys = append(keys, Key{kind, s.Name, batch, Forward}, Key{kind, s.Name, batch, Both})
			}
		}
	}
	keys = append(keys,
		Key{Net, "r20lc", 64, TrainStep}, Key{Net, "r20lc", 128, TrainStep}, Key{Net, "r20lc", 0, AdamStep}, Key{Net, "r20lc", 0, Sleep}, Key{Net, "r20lc", 512, Hebbian},
		Key{Net, "r20", 64, TrainStep}, Key{Net, "r20", 128, TrainStep},
		Key{Net, "r20lc", 1, Inference}, Key{Net, "r18lc", 1, Inference},
		Key{Memory, "r20lc", 512, TrainStep}, Key{Input, "r8w8", 512, TrainStep}, Key{Input, "r20", 512, TrainStep},
		Key{Edge, "r20lc", 1, Inference},
		Key{ImageNet, "r18", 64, TrainStep}, Key{ImageNet, "r18lc", 64, WakeSleep})
	return slices.DeleteFunc(keys, func(k Key) bool { return only != nil && !only.MatchString(k.String()) })
}

// subject is a network with what is to be measured of it, so that it is compiled once.
type subject struct {
	kind, layer string
	train       bool // an engine for inference takes a quarter of the memory
	beside      bool // for Hebbian alone: the step beside it has the largest batch
	net         *net.Network
	keys        []Key
}

// subjects sorts keys by the engine that they need. Unknown layers, networks and works are errors by key.
func subjects(keys []Key, shapes []Shape) ([]*subject, map[Key]error) {
	var all []*subject
	unknown := map[Key]error{}
	for _, k := range keys {
		n, err := k.network(shapes)
		if err != nil {
			unknown[k] = err
			continue
		}
		train, beside := k.What != Inference, k.What == Hebbian
		i := slices.IndexFunc(all, func(s *subject) bool {
			return s.kind == k.Kind && s.layer == k.Layer && s.train == train && s.beside == beside
		})
		if i < 0 {
			i = len(all)
			all = append(all, &subject{kind: k.Kind, layer: k.Layer, train: train, beside: beside, net: n})
		}
		if !slices.Contains(all[i].keys, k) {
			all[i].keys = append(all[i].keys, k)
		}
	}
	return all, unknown
}

// network is the network that a key is about, if there is one and the work can be done on it.
func (k Key) network(shapes []Shape) (*net.Network, error) {
	works, batches := []string{Forward, Both}, true
	if k.Kind == Net {
		works = []string{TrainStep, AdamStep, Sleep, Hebbian, Inference, WakeSleep}
		batches = k.What != AdamStep && k.What != Sleep
	}
	if !slices.Contains(works, k.What) {
		return nil, fmt.Errorf("speed: %s: no such work is measured here", k)
	}
	if batches != (k.Batch > 0) {
		return nil, fmt.Errorf("speed: %s: batch size %d", k, k.Batch)
	}
	if k.Kind == Net {
		return network(k.Layer)
	}
	i := slices.IndexFunc(shapes, func(s Shape) bool { return s.Name == k.Layer })
	if i < 0 {
		return nil, fmt.Errorf("speed: no layer %q", k.Layer)
	}
	return shapes[i].network(k.Kind)
}

// works is what has to be done, in order; its bytes without overlap are what it touches.
func (k Key) works(n *net.Network) []Work {
	var works []Work
	switch k.What {
	case Forward, Inference:
		for _, l := range weighted(n) {
			works = append(works, l.forward(k.Batch))
		}
	case Both:
		for _, l := range weighted(n) {
			works = append(works, l.both(k.Batch))
		}
	case TrainStep, WakeSleep:
		for _, l := range weighted(n) {
			works = append(works, l.forward(k.Batch), l.backward(k.Batch, !l.first))
		}
		if works = append(works, adamW(n)); k.What == WakeSleep {
			works = append(works, instantSleep(n))
		}
	case AdamStep:
		works = append(works, adamW(n))
	case Sleep:
		works = append(works, instantSleep(n))
	case Hebbian:
		works = append(works, hebbianSleep(n))
	}
	return works
}

// footprint is the memory that the work touches, in bytes: weights and activations, and their gradients.
func (k Key) footprint(n *net.Network) float64 {
	params, activations := 0.0, 0.0
	for _, l := range weighted(n) {
		params += l.weights
		activations += l.input + l.output
	}
	switch k.What {
	case Both:
		return 2 * float32Bytes * (params + float64(k.Batch)*activations)
	case TrainStep, WakeSleep:
		return float32Bytes * (4*params + 2*float64(k.Batch)*activations)
	case AdamStep:
		return float32Bytes * 4 * params
	}
	return float32Bytes * (params + float64(k.Batch)*activations)
}

// maxBatch is the largest batch of the subject's keys.
func (s *subject) maxBatch() int {
	most := 1
	for _, k := range s.keys {
		most = max(most, k.Batch)
	}
	return most
}

// memory estimates the bytes of an engine: weights, for training with gradients and the optimiser's slots, all
// activations, for training with gradients, and the largest parameter twice while it is loaded.
func (s *subject) memory() float64 {
	params, largest, activations := 0.0, 0.0, 0.0
	for _, v := range s.net.Nodes {
		activations += float64(v.Out.Len())
		for _, p := range v.Params {
			params += float64(p.Len())
			largest = max(largest, float64(p.Len()))
		}
	}
	each, copies := 1.0, 1.0
	if s.train {
		each, copies = float64(2+len(s.optimizer().Slots())), 2
	}
	return float32Bytes * (each*params + 2*largest + copies*activations*float64(s.maxBatch()))
}

// optimizer is AdamW for networks. Layers are measured without an optimiser, so theirs is the one of least memory.
func (s *subject) optimizer() optim.Spec {
	if s.kind == Net {
		return optim.Default(optim.AdamW, 1e-4)
	}
	return optim.Default(optim.SGD, 0)
}

func (s *subject) options() core.Options {
	return core.Options{MaxBatch: s.maxBatch(), Train: s.train, Optimizer: s.optimizer()}
}

// engine is a subject compiled for a number of threads.
type engine struct {
	*subject
	backend core.Backend
	engine  core.Engine
	err     error // of the last call of what prepare returned
}

// open compiles the subject. Initial weights are those of seed 1, the same at every position: drawing others takes longer
// and changes nothing.
func (s *subject) open(o cpu.Options) (*engine, error) {
	b, err := cpu.Open(o)
	if err != nil {
		return nil, err
	}
	e := &engine{subject: s, backend: b}
	if e.engine, err = b.Compile(s.net, s.options()); err != nil {
		b.Close()
		return nil, err
	}
	p, err := s.net.Init(net.InitOptions{Seed: 1, Tied: true})
	if err == nil {
		err = e.engine.Load(p)
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *engine) close() {
	e.engine.Close()
	e.backend.Close()
}

// images are a batch of numbers between -1 and 1.
func images(n *net.Network, batch int) core.Batch {
	x := core.Batch{N: batch, Pixels: make([]float32, batch*n.Input().Len())}
	pattern(x.Pixels)
	return x
}

// pattern fills xs with numbers between -1 and 1 that do not repeat soon.
func pattern(xs []float32) {
	state := uint32(1)
	for i := range xs {
		state = state*1664525 + 1013904223 // Numerical Recipes, "quick and dirty"
		xs[i] = float32(int32(state)) / (1 << 31)
	}
}

// prepare gets everything ready and returns the work itself.
func (e *engine) prepare(ctx context.Context, k Key) (func(), error) {
	batch := max(k.Batch, 1)
	x := images(e.net, batch)
	keep := func(err error) {
		if err != nil {
			e.err = fmt.Errorf("speed: %s: %w", k, err)
		}
	}
	switch k.What {
	case Inference:
		return func() { _, err := e.engine.Infer(ctx, x); keep(err) }, nil
	case TrainStep, WakeSleep:
		y := make(core.Labels, batch)
		for i := range y {
			y[i] = int32(i % e.net.Output().C)
		}
		return func() { keep(e.learn(ctx, k, x, y)) }, nil
	case Sleep:
		return func() { _, err := e.engine.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}); keep(err) }, nil
	case Hebbian:
		s := sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: sleepEvents, Seed: 1}
		return func() { _, err := e.engine.Sleep(ctx, s); keep(err) }, nil
	}
	s, err := cpu.StagesOf(e.engine)
	if err != nil {
		return nil, err
	}
	cotangent := make([]float32, batch*e.net.Output().Len())
	pattern(cotangent)
	if err := s.Put(x, cotangent); err != nil {
		return nil, err
	}
	switch k.What {
	case Forward:
		return s.Forward, nil
	case Both:
		return func() { s.Forward(); s.Backward() }, nil
	default: // AdamStep
		s.Forward()
		s.Backward()
		return func() { s.Update(1e-6) }, nil
	}
}
