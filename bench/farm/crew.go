package farm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// Crew keeps a number of worker processes on this machine. One that dies is begun again.
type Crew struct {
	start  func(i int) *exec.Cmd
	say    func(i int, line string)
	giveUp func(error)

	stopping chan struct{}
	wait     sync.WaitGroup
	mu       sync.Mutex
	stdin    []io.Closer
	process  []*exec.Cmd
}

// A process that ends by itself sooner than briefLife after its start, briefLives times in a row, is not begun again. One that is killed
// always is: of runs that kill workers, MaxTries takes care.
const (
	briefLife  = 3 * time.Second
	briefLives = 5
)

// StartCrew starts n processes. Each must end when its standard input does. say gets the lines of their standard errors; giveUp is called
// when one fails at once, again and again, with what it said last.
func StartCrew(n int, start func(i int) *exec.Cmd, say func(i int, line string), giveUp func(error)) *Crew {
	c := &Crew{start: start, say: say, giveUp: giveUp, stopping: make(chan struct{}), stdin: make([]io.Closer, n), process: make([]*exec.Cmd, n)}
	for i := range n {
		c.wait.Go(func() { c.keep(i) })
	}
	return c
}

// keep runs one process after the other until one ends well, or the crew is stopped.
func (c *Crew) keep(i int) {
	for brief := 0; ; {
		begin := time.Now()
		last, err := c.once(i)
		if err == nil || c.stopped() {
			return
		}
		if last == "" {
			last = err.Error()
		}
		exit, _ := errors.AsType[*exec.ExitError](err)
		switch {
		case exit != nil && !exit.Exited():
			brief = 0
		case time.Since(begin) >= briefLife:
			brief = 1
		default:
			brief++
		}
		if brief >= briefLives {
			c.giveUp(fmt.Errorf("farm: worker %d ended %d times at once, at last with: %s", i+1, brief, last))
			return
		}
		c.say(i, fmt.Sprintf("ended (%v): begun again", err))
		select {
		case <-c.stopping:
			return
		case <-time.After(time.Duration(brief) * 100 * time.Millisecond):
		}
	}
}

func (c *Crew) stopped() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

// once runs a process to its end and returns the last line that it said.
func (c *Crew) once(i int) (last string, err error) {
	p := c.start(i)
	in, err := p.StdinPipe()
	if err != nil {
		return "", err
	}
	out, err := p.StderrPipe()
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	if c.stopped() {
		c.mu.Unlock()
		return "", errors.New("stopped")
	}
	err = p.Start()
	if err == nil {
		c.stdin[i], c.process[i] = in, p
	}
	c.mu.Unlock()
	if err != nil {
		return "", err
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		last = s.Text()
		if !c.stopped() { // then they say that they were interrupted
			c.say(i, last)
		}
	}
	_, _ = io.Copy(io.Discard, out) // behind a line that was too long
	return last, p.Wait()
}

// Kill kills a process as a crash would; false when it does not run.
func (c *Crew) Kill(i int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process[i] != nil && c.process[i].Process.Kill() == nil
}

// Stop lets the processes save and end, and kills those that have not after a time.
func (c *Crew) Stop(patience time.Duration) {
	c.mu.Lock()
	close(c.stopping)
	for _, in := range c.stdin {
		if in != nil {
			in.Close()
		}
	}
	c.mu.Unlock()
	late := time.AfterFunc(patience, func() {
		for i := range c.process {
			c.Kill(i)
		}
	})
	defer late.Stop()
	c.wait.Wait()
}
