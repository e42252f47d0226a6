package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"hypnos/core"
	"hypnos/core/sleep"
)

// Entry is what a record of the journal says: a Wake or a Sleep.
type Entry interface {
	kind() kind
	append(b []byte) ([]byte, error)
}

// Settings are what a wake step depends on beside its input: those of core.Options by which an engine is compiled.
type Settings struct {
	Seed      uint64        // of stochastic rounding and of what the rule draws
	Rule      core.WakeRule // "" is Backprop
	LearnFrom string        // the first layer that learns, "" is all
}

// Wake is one wake step.
type Wake struct {
	Settings
	Step   int64       // its number, from 1: how many the engine has made after it
	Rate   float64     // learning rate
	Labels core.Labels // (B)
	// Input is the batch as the engine takes it, integers in the format of the network's input, (B, H, W, C): what an image
	// is does not depend on how another version of the program reads image files.
	Input []int16
}

// Sleep is a stretch of a sleep phase that has been slept: from From, or the phase's beginning, up to Next, or its end. It is
// appended when it is over, so that of a stretch that a loss of power ends nothing has happened, whatever groups it had done.
type Sleep struct {
	Spec   sleep.Spec   `json:"spec"`
	Border sleep.Border `json:"border"`
	Layers []string     `json:"layers,omitempty"` // nil is all
	Seed   uint64       `json:"seed"`
	Phase  uint64       `json:"phase"`
	From   *sleep.Token `json:"from,omitempty"`
	Next   *sleep.Token `json:"next,omitempty"` // of the report: where it was interrupted; nil is the end
}

// Stream is the stretch, to be slept again.
func (s Sleep) Stream() (sleep.Stream, error) {
	stream, err := s.Spec.Stream()
	stream.Border, stream.Layers, stream.Seed, stream.Phase = s.Border, s.Layers, s.Seed, s.Phase
	stream.From, stream.To = s.From, s.Next
	return stream, err
}

// kind is the kind of a record, a byte of the file.
type kind uint8

const (
	kindWake  kind = 1
	kindSleep kind = 2
)

func (Wake) kind() kind  { return kindWake }
func (Sleep) kind() kind { return kindSleep }

// little is the byte order of the journal.
var little = binary.LittleEndian

// append writes step, seed, rate, the two names, labels and input; each list with its length before it.
func (w Wake) append(b []byte) ([]byte, error) {
	b = little.AppendUint64(b, uint64(w.Step))
	b = little.AppendUint64(b, w.Seed)
	b = little.AppendUint64(b, math.Float64bits(w.Rate))
	for _, s := range []string{string(w.Rule), w.LearnFrom} {
		b = append(little.AppendUint32(b, uint32(len(s))), s...)
	}
	b = little.AppendUint32(b, uint32(len(w.Labels)))
	for _, l := range w.Labels {
		b = little.AppendUint32(b, uint32(l))
	}
	b = little.AppendUint32(b, uint32(len(w.Input)))
	for _, v := range w.Input {
		b = little.AppendUint16(b, uint16(v))
	}
	return b, nil
}

func (s Sleep) append(b []byte) ([]byte, error) {
	text, err := json.Marshal(s)
	return append(b, text...), err
}

// errShort says that a record is shorter than what it says of itself.
var errShort = errors.New("a record is too short")

func decode(k kind, b []byte) (Entry, error) {
	switch k {
	case kindWake:
		return decodeWake(b)
	case kindSleep:
		var s Sleep
		err := json.Unmarshal(b, &s)
		return s, err
	}
	return nil, fmt.Errorf("a record of the unknown kind %d", k)
}

func decodeWake(b []byte) (w Wake, err error) {
	defer func() {
		if len(b) > 0 && err == nil {
			err = errors.New("a record is too long")
		}
	}()
	take := func(n int) []byte {
		if n < 0 || n > len(b) {
			err = errShort
			return make([]byte, 8)
		}
		part := b[:n]
		b = b[n:]
		return part
	}
	length := func(size int) int {
		n := int64(little.Uint32(take(4)))
		if n*int64(size) > int64(len(b)) {
			err = errShort
			return 0
		}
		return int(n)
	}
	w.Step, w.Seed = int64(little.Uint64(take(8))), little.Uint64(take(8))
	w.Rate = math.Float64frombits(little.Uint64(take(8)))
	w.Rule = core.WakeRule(take(length(1)))
	w.LearnFrom = string(take(length(1)))
	for range length(4) {
		w.Labels = append(w.Labels, int32(little.Uint32(take(4))))
	}
	for range length(2) {
		w.Input = append(w.Input, int16(little.Uint16(take(2))))
	}
	return w, err
}
