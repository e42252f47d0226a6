package continual

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"hypnos/core/data"
	"hypnos/core/rng"
)

// Task is one stretch of the stream: labelled images under a condition of their own.
type Task struct {
	Kind string  `json:"kind"` // one of Kinds
	By   float64 `json:"by"`
}

// The kinds of tasks, with what By is.
const (
	Original = "original" // images as they are, of the classes that the network was trained on; first, and not in the stream
	Classes  = "classes"  // images as they are, of the last By classes
	Shift    = "shift"    // moved down and right by By pixels, the mean colour behind them
	Noise    = "noise"    // with Gaussian noise of standard deviation By, of a range of 0 to 1
	Darker   = "darker"   // pixel values times By
)

// Kinds lists the kinds of tasks of a stream.
func Kinds() []string { return []string{Classes, Shift, Noise, Darker} }

func (t Task) String() string {
	if t.Kind == Original {
		return t.Kind
	}
	return fmt.Sprintf("%s=%g", t.Kind, t.By)
}

// DefaultTasks is the stream that ParseTasks reads from "classes=2,shift=4,noise=0.1,darker=0.4".
func DefaultTasks() []Task { return []Task{{Classes, 2}, {Shift, 4}, {Noise, 0.1}, {Darker, 0.4}} }

// ParseTasks reads "kind=number,…".
func ParseTasks(text string) ([]Task, error) {
	var all []Task
	for part := range strings.SplitSeq(text, ",") {
		kind, number, ok := strings.Cut(part, "=")
		by, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("continual: task %q is not of the form kind=number, kind one of %s", part, strings.Join(Kinds(), ", "))
		}
		all = append(all, Task{kind, by})
	}
	return all, nil
}

// check refuses a task that images of a data set cannot have.
func (t Task) check(d *data.Dataset) error {
	whole := t.By == math.Trunc(t.By)
	switch s := d.Train.Shape; t.Kind {
	case Classes:
		if !whole || !(t.By >= 1 && t.By < float64(len(d.Classes))) {
			return fmt.Errorf("continual: task %v: want 1 to %d of the %d classes", t, len(d.Classes)-1, len(d.Classes))
		}
	case Shift:
		if !whole || !(t.By >= 1 && t.By < float64(min(s.H, s.W))) {
			return fmt.Errorf("continual: task %v: want 1 to %d pixels", t, min(s.H, s.W)-1)
		}
	case Noise:
		if !(t.By > 0 && t.By <= 1) {
			return fmt.Errorf("continual: task %v: the standard deviation is outside (0, 1]", t)
		}
	case Darker:
		if !(t.By > 0 && t.By < 1) {
			return fmt.Errorf("continual: task %v: the factor is outside (0, 1)", t)
		}
	default:
		return fmt.Errorf("continual: unknown task %q (known: %s)", t.Kind, strings.Join(Kinds(), ", "))
	}
	return nil
}

// has tells whether images of a class belong to the task. Without new classes, the first known are all.
func (t Task) has(label int32, known, classes int) bool {
	switch t.Kind {
	case Original:
		return int(label) < known
	case Classes:
		return int(label) >= classes-int(t.By)
	}
	return true
}

// images are a task's images, changed; those of stream number n draw their noise from it.
func (t Task) images(all *data.Images, known, classes int, stats data.Stats, seed, n uint64) *data.Images {
	s := &data.Images{Shape: all.Shape}
	random := rng.New(seed, rng.Condition, n)
	for i, label := range all.Labels {
		if t.has(label, known, classes) {
			s.Labels = append(s.Labels, label)
			s.Pixels = t.change(s.Pixels, all.Image(i), all.Shape.W, stats, random)
		}
	}
	return s
}

// change appends an image, (H, W, 3), as the task has it.
func (t Task) change(to, image []uint8, width int, stats data.Stats, random rng.Stream) []uint8 {
	value := func(v float64) uint8 { return uint8(math.Round(min(max(v, 0), 255))) }
	first := uint64(len(to))
	for i, v := range image {
		switch t.Kind {
		case Noise:
			v = value(float64(v) + 255*t.By*random.Normal(first+uint64(i)))
		case Darker:
			v = value(float64(v) * t.By)
		case Shift:
			row, col, by := i/3/width, i/3%width, int(t.By)
			v = value(255 * stats.Mean[i%3])
			if row >= by && col >= by {
				v = image[((row-by)*width+col-by)*3+i%3]
			}
		}
		to = append(to, v)
	}
	return to
}
