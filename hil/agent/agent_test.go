package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// faulty is a line on which bytes are lost, doubled, damaged and late.
type faulty struct {
	io.ReadWriteCloser
	mu   sync.Mutex
	r    *rand.Rand
	rate float64 // of writes that go wrong
	hits *atomic.Int64
}

func (f *faulty) Write(p []byte) (int, error) {
	f.mu.Lock()
	q, i := bytes.Clone(p), 0
	if f.r.Float64() < f.rate {
		f.hits.Add(1)
		i = f.r.IntN(len(q))
		switch f.r.IntN(5) {
		case 0:
			q = append(q[:i], q[i+1:]...)
		case 1:
			q[i] ^= 1 << f.r.IntN(8)
		case 2:
			q = append(q, q...)
		case 3:
			q = nil
		case 4:
			time.Sleep(time.Duration(f.r.IntN(20)) * time.Millisecond)
			q = append([]byte("kernel: noise without an end"), q...)
		}
	}
	f.mu.Unlock()
	if _, err := f.ReadWriteCloser.Write(q); err != nil {
		return 0, err
	}
	return len(p), nil
}

// pipe is a connection.
type pipe struct {
	*io.PipeReader
	*io.PipeWriter
}

func (p pipe) Close() error { return errors.Join(p.PipeReader.Close(), p.PipeWriter.Close()) }

func pair() (a, b pipe) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return pipe{r1, w2}, pipe{r2, w1}
}

func TestEachRequestIsCarriedOutOnce(t *testing.T) {
	const seed, calls, rate = 5, 200, 0.3
	a, b := pair()
	var hits atomic.Int64
	host := &faulty{ReadWriteCloser: a, r: rand.New(rand.NewPCG(seed, 0)), rate: rate, hits: &hits}
	device := &faulty{ReadWriteCloser: b, r: rand.New(rand.NewPCG(seed, 1)), rate: rate, hits: &hits}
	var mu sync.Mutex
	times := map[int]int{}
	served := make(chan error, 1)
	go func() {
		served <- Serve(t.Context(), device, map[string]Handler{
			"double": Handle(func(_ context.Context, n int) (any, error) {
				mu.Lock()
				defer mu.Unlock()
				times[n]++
				return 2 * n, nil
			}),
		}, nil)
	}()
	c := NewClient(host, Options{Session: 7, Resend: 10 * time.Millisecond})
	var wait sync.WaitGroup
	for w := range 4 {
		wait.Go(func() {
			for n := w; n < calls; n += 4 {
				var got int
				if err := c.Call(t.Context(), "double", n, &got); err != nil || got != 2*n {
					t.Errorf("%d: %d, %v", n, got, err)
				}
			}
		})
	}
	wait.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	for n := range calls {
		if times[n] != 1 {
			t.Errorf("request %d was carried out %d times", n, times[n])
		}
	}
	t.Logf("seed %d: %d calls, %d faults", seed, calls, hits.Load())
	if hits.Load() < calls/10 {
		t.Errorf("%d faults: too few to show anything", hits.Load())
	}
}

func TestErrors(t *testing.T) {
	a, b := pair()
	var noise []string
	go Serve(t.Context(), b, map[string]Handler{
		"fail": func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("it is broken") },
		"slow": func(ctx context.Context, _ json.RawMessage) (any, error) { <-ctx.Done(); return nil, ctx.Err() },
		"int":  Handle(func(_ context.Context, n struct{ N int }) (any, error) { return n.N, nil }),
		"void": func(context.Context, json.RawMessage) (any, error) { return nil, nil },
	}, []byte("\n\n"))
	c := NewClient(a, Options{Noise: func(l []byte) { noise = append(noise, string(l)) }})
	if err := c.Call(t.Context(), "void", nil, nil); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(b, "[ 1.0] a kernel's message")
	for _, x := range []struct {
		method string
		params any
		want   string
	}{
		{"fail", nil, "fail: it is broken"}, {"none", nil, `unknown method "none"`}, {"int", map[string]int{"M": 1}, `unknown field "M"`}, {"int", "x", "parameters"},
	} {
		var remote *RemoteError
		if err := c.Call(t.Context(), x.method, x.params, nil); !errors.As(err, &remote) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", x.method, err, x.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v", err)
	}
	b.Close()
	if err := c.Call(t.Context(), "void", nil, nil); !errors.Is(err, ErrEnded) {
		t.Errorf("after the end: %v", err)
	}
	if len(noise) != 1 || !strings.Contains(noise[0], "a kernel's message") {
		t.Errorf("noise: %q", noise)
	}
}

// A device that reads nothing does not hold up who gives up waiting.
func TestDeviceThatDoesNotRead(t *testing.T) {
	a, b := pair()
	c := NewClient(a, Options{Resend: time.Millisecond})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := c.Call(ctx, "void", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	b.Close()
	c.Close()
}

func FuzzParse(f *testing.F) {
	f.Add(frame{question, id{1, 2}, []byte(`{"method":"x"}`)}.line())
	f.Add([]byte("~hil q 1 1 0 "))
	f.Fuzz(func(t *testing.T, line []byte) {
		if got, ok := parse(line); ok {
			if again, ok := parse(got.line()); !ok || again.id != got.id || !bytes.Equal(again.payload, got.payload) {
				t.Errorf("%q is read as %+v, which is written otherwise", line, got)
			}
		}
	})
}
