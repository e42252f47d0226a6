package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"log/slog"
	stdnet "net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"hypnos/backends/fixed"
	"hypnos/board/device"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/edge/edgetest"
	"hypnos/core/net"
	"hypnos/server"
	"hypnos/server/brain"
	"hypnos/server/client"
	"hypnos/server/governor"
)

// The benchmarks run ResNet20-LC, 41 million weights, as a board would, on this machine.

// resnet20 is a package of the network, with random weights: speed does not depend on what they are. It is written once.
var resnet20 = struct {
	sync.Once
	path string
	net  *net.Network
}{}

func packaged(b *testing.B) (string, *net.Network) {
	b.Helper()
	resnet20.Do(func() {
		n, err := net.ByName("resnet20-lc", net.Options{})
		if err != nil {
			b.Fatal(err)
		}
		initial, err := n.Init(net.InitOptions{Seed: 1, Tied: true})
		if err != nil {
			b.Fatal(err)
		}
		folded, _, err := edge.Fold(n, initial)
		if err != nil {
			b.Fatal(err)
		}
		p := edgetest.Params(b, folded, 8)
		f, err := edge.FormatsOf(p)
		if err != nil {
			b.Fatal(err)
		}
		on, err := fixed.Open(fixed.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer on.Close()
		e, err := on.Compile(folded, edge.Golden{}.Options())
		if err != nil {
			b.Fatal(err)
		}
		defer e.Close()
		if err := e.Load(p); err != nil {
			b.Fatal(err)
		}
		x := core.Batch{N: 1, Pixels: make([]float32, folded.Input().Len())}
		record, golden, err := edge.MakeGolden(context.Background(), folded, f, e, edge.Golden{}, x, core.Labels{0})
		if err != nil {
			b.Fatal(err)
		}
		classes := make([]string, 10)
		for i := range classes {
			classes[i] = fmt.Sprint("class ", i)
		}
		dir, err := os.MkdirTemp("", "hypnos-bench")
		if err != nil {
			b.Fatal(err)
		}
		resnet20.path, resnet20.net = filepath.Join(dir, "resnet20.hyp"), folded
		m := edge.Manifest{Version: 1, Network: folded, Classes: classes, Golden: &record, Stats: data.Stats{Mean: [3]float64{.5, .5, .5}, Std: [3]float64{.25, .25, .25}}}
		if err := edge.WritePackage(resnet20.path, m, p, edge.PackOptions{Golden: golden}); err != nil {
			b.Fatal(err)
		}
	})
	return resnet20.path, resnet20.net
}

func TestMain(m *testing.M) {
	code := m.Run()
	if resnet20.path != "" {
		os.RemoveAll(filepath.Dir(resnet20.path))
	}
	os.Exit(code)
}

// living is a daemon on loopback, at the address, with the network in use.
func living(b *testing.B, change func(*brain.Config)) (board *client.Client, address string, a *brain.Brain) {
	b.Helper()
	path, _ := packaged(b)
	c := brain.DefaultConfig()
	c.Data, c.Package, c.Unsigned = filepath.Join(b.TempDir(), "data"), path, true
	if change != nil {
		change(&c)
	}
	limits := governor.Default()
	limits.Night, limits.WakeHold, limits.MinInterval, limits.StayAwake = nil, time.Millisecond, 0, 0
	none := device.None("a benchmark has none")
	set := &device.Set{Temperature: none, Power: none, Wake: none, Sleep: none, LED: none, Clock: device.NewSystem()}
	log := slog.New(slog.DiscardHandler)
	a, err := brain.New(c, limits, brain.Board{Name: "generic-linux", Devices: set}, log)
	if err != nil {
		b.Fatal(err)
	}
	settings := server.Defaults()
	settings.Rate = 0
	s, err := server.New(a, settings, log)
	if err != nil {
		b.Fatal(err)
	}
	web := httptest.NewServer(s)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	b.Cleanup(func() {
		s.Close()
		web.Close()
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	board, err = client.New(client.Config{URL: web.URL})
	if err != nil {
		b.Fatal(err)
	}
	for a.Status().Model.Slot == "" {
		time.Sleep(time.Millisecond)
	}
	return board, web.Listener.Addr().String(), a
}

func photo(b *testing.B) brain.Image {
	m := image.NewRGBA(image.Rect(0, 0, 32, 32))
	for i := range 32 * 32 {
		m.Set(i%32, i/32, color.RGBA{uint8(7 * i), uint8(3 * i), uint8(i), 255})
	}
	var w bytes.Buffer
	if err := png.Encode(&w, m); err != nil {
		b.Fatal(err)
	}
	return brain.Image{Type: brain.PNG, Data: w.Bytes()}
}

// quantiles reports the median and the 99th percentile in ms.
func quantiles(b *testing.B, d []time.Duration) {
	slices.Sort(d)
	ms := func(q float64) float64 { return float64(d[int(q*float64(len(d)-1))]) / 1e6 }
	b.ReportMetric(ms(.5), "p50-ms")
	b.ReportMetric(ms(.99), "p99-ms")
	b.ReportMetric(ms(1), "max-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFirstLogits is the time from a request to its answer, PNG, HTTP, loopback and JSON included, against the engine's own: by
// turns, so that both meet the same machine. The requests come over a plain connection; net/http's client would add goroutines of
// its own, whose time is not the daemon's.
func BenchmarkFirstLogits(b *testing.B) {
	_, address, _ := living(b, nil)
	_, n := packaged(b)
	p, err := edge.OpenPackage(resnet20.path)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	on, err := fixed.Open(fixed.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer on.Close()
	e, err := on.Compile(n, core.Options{MaxBatch: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	params, err := p.Params()
	if err != nil {
		b.Fatal(err)
	}
	if err := e.Load(params); err != nil {
		b.Fatal(err)
	}
	ask := asker(b, address, photo(b))
	x := core.Batch{N: 1, Pixels: make([]float32, n.Input().Len())}
	var engine, request []time.Duration
	var ratios, within []float64
	for b.Loop() {
		begin := time.Now()
		if _, err := e.Infer(context.Background(), x); err != nil {
			b.Fatal(err)
		}
		alone := time.Since(begin)
		answered, took := ask()
		engine, request = append(engine, alone), append(request, answered)
		within = append(within, float64(answered)/float64(took))
		ratios = append(ratios, float64(answered)/float64(alone))
	}
	slices.Sort(ratios)
	slices.Sort(within)
	b.ReportMetric(within[len(within)/2], "request/took")
	b.ReportMetric(ratios[len(ratios)/2], "request/engine")
	slices.Sort(engine)
	b.ReportMetric(float64(engine[len(engine)/2])/1e6, "engine-ms")
	quantiles(b, request)
}

// asker sends the image over a connection that stays open. It returns the time until the whole answer is there and the engine's own
// time, which the answer says.
func asker(b *testing.B, address string, image brain.Image) func() (answered, took time.Duration) {
	c, err := stdnet.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	r := bufio.NewReader(c)
	request := fmt.Appendf(nil, "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%s", len(image.Data), image.Data)
	return func() (answered, took time.Duration) {
		begin := time.Now()
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			b.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answered = time.Since(begin)
		if err != nil || answer.StatusCode != http.StatusOK {
			b.Fatalf("%s, %v: %s", answer.Status, err, body)
		}
		var result brain.Result
		if err := json.Unmarshal(body, &result); err != nil {
			b.Fatal(err)
		}
		return answered, result.Took
	}
}

// BenchmarkClassifyAsleep is the time from a request to its answer when the network sleeps, and is asked to sleep again behind it.
// Two more clients have it classify all the while in the loaded form.
func BenchmarkClassifyAsleep(b *testing.B) {
	for _, rule := range []string{"instant", "hebbian"} {
		for _, clients := range []int{0, 2} {
			b.Run(fmt.Sprintf("%s/clients=%d", rule, clients), func(b *testing.B) {
				board, _, a := living(b, func(c *brain.Config) { c.Sleep.Rule, c.Sleep.Measure = rule, false })
				ctx, stop := context.WithCancel(context.Background())
				var others sync.WaitGroup
				image := photo(b)
				for range clients {
					others.Go(func() {
						for ctx.Err() == nil {
							board.Classify(ctx, image)
							time.Sleep(20 * time.Millisecond)
						}
					})
				}
				var all []time.Duration
				asleep := 0
				for b.Loop() {
					if _, err := a.Sleep(ctx, brain.SleepRequest{Source: "benchmark"}); err != nil {
						b.Fatal(err)
					}
					time.Sleep(time.Duration(len(all)%37) * time.Millisecond) // anywhere in the sleep
					if a.Status().State == "asleep" {
						asleep++
					}
					begin := time.Now()
					if _, err := board.Classify(ctx, image); err != nil {
						b.Fatal(err)
					}
					all = append(all, time.Since(begin))
				}
				stop()
				others.Wait()
				b.ReportMetric(float64(asleep)/float64(len(all)), "asleep")
				quantiles(b, all)
			})
		}
	}
}
