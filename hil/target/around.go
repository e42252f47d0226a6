package target

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"
)

// Around is what sets and sees the world of a real board: programs of the rig's, with {value} in their arguments.
type Around struct {
	Temperature []string `toml:"temperature"` // {value} is °C
	Wake        []string `toml:"wake"`        // {value} is 0 or 1
	Sleep       []string `toml:"sleep"`       // {value} is 0 or 1
	LED         []string `toml:"led"`         // prints 0 or 1
}

type around struct{ *Real }

func (a around) SetTemperature(celsius float64) error {
	return a.set(a.Around.Temperature, strconv.FormatFloat(celsius, 'f', -1, 64))
}

func (a around) SetLine(name string, high bool) error {
	program, ok := map[string][]string{"wake": a.Around.Wake, "sleep": a.Around.Sleep}[name]
	if !ok {
		return fmt.Errorf("target: no line %q", name)
	}
	level := "0"
	if high {
		level = "1"
	}
	return a.set(program, level)
}

func (a around) set(program []string, value string) error {
	if a.client.Load() == nil {
		return errOff
	}
	_, err := runProgram(context.Background(), program, value)
	return err
}

func (a around) LED() (bool, int) { return a.watch.level() }

// watcher looks at a light, and counts how often it changes.
type watcher struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	on      bool
	changes int
}

// lookTime is how long it is between two looks at a light. The daemon's blinks are longer.
const lookTime = 20 * time.Millisecond

// watch begins to look. That it cannot is told on the console, once.
func watch(program []string, console io.Writer) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for known, told := false, false; ctx.Err() == nil; {
			out, err := runProgram(ctx, program, "")
			if err == nil && out != "0" && out != "1" {
				err = fmt.Errorf("%s printed %q, neither 0 nor 1", program[0], out)
			}
			switch {
			case err == nil:
				w.see(out == "1", known)
				known = true
			case !told && ctx.Err() == nil:
				fmt.Fprintln(console, "hil: light:", err)
				told = true
			}
			select {
			case <-time.After(lookTime):
			case <-ctx.Done():
			}
		}
	}()
	return w
}

func (w *watcher) see(on, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known && on != w.on {
		w.changes++
	}
	w.on = on
}

func (w *watcher) level() (bool, int) {
	if w == nil {
		return false, 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.on, w.changes
}

func (w *watcher) stop() {
	if w != nil {
		w.cancel()
		<-w.ended
	}
}
