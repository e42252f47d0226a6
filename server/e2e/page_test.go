// Package e2e drives the edge daemon's page in a real browser, and reads its metrics with Prometheus' own parser. It is a
// module of its own, so that what it needs is not needed by the product.
package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"hypnos/core/sleep"
	"hypnos/server"
	"hypnos/server/brain"
	"hypnos/server/servertest"
)

const token = "a-token-for-the-browser"

// chromium finds the browser, or skips.
func chromium(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("SKIPPED: no Chromium; make e2e-tools installs it")
	}
	return path
}

// board is a server on loopback with a brain that has something to show.
type board struct {
	*servertest.Brain
	url  string
	stop context.CancelFunc
	done chan error
}

func newBoard(t *testing.T, tell func(*brain.Status), set func(*server.Config)) *board {
	t.Helper()
	c := server.Defaults()
	c.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(c.TokenFile, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(&c)
	}
	b := &board{Brain: servertest.New(), done: make(chan error, 1)}
	b.Set(tell)
	s, err := server.New(b, c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.url = "http://" + l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	go func() { b.done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-b.done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// hour gives a status a past of an hour: three sleeps of a network of nine layers, sensors and feedback.
func hour(s *brain.Status) {
	now := time.Now()
	s.Started, s.Since, s.Measured = now.Add(-26*time.Hour), now.Add(-7*time.Minute), now.Add(-7*time.Minute)
	s.Reason = "slept to the end"
	s.Step, s.StepsSinceSleep = 12345, 87
	s.Feedback = brain.Feedback{Count: 2411, Correct: 1900, Recent: 100, Share: 0.83}
	names := []string{"stem.conv"}
	for stage := 1; stage <= 3; stage++ {
		for conv := 1; conv <= 2; conv++ {
			names = append(names, fmt.Sprintf("stage%d.block1.conv%d", stage, conv))
		}
	}
	names = append(names, "stage2.block1.shortcut", "stage3.block1.shortcut")
	s.Sleeps = nil
	for i, ago := range []time.Duration{52 * time.Minute, 31 * time.Minute, 7*time.Minute + 9*time.Second} {
		began := now.Add(-ago)
		sl := brain.Sleep{Began: began, Ended: began.Add(8200 * time.Millisecond), Reason: "512 steps since the last sleep", Rule: "hebbian",
			Asleep: 8100 * time.Millisecond, Parts: 1 + i%2, Complete: true}
		if i == 1 {
			sl.Reason, sl.Stopped = "asked for by api: from the page", "a request came in"
		}
		for j, name := range names {
			before := &sleep.Stats{Groups: 16, Weights: 144, SNR: 0.05 * float64(j+1) * float64(i+1), InverseRatio: 3, AbsRatio: 1}
			after := &sleep.Stats{Groups: 16, Weights: 144, SNR: 40 * before.SNR, InverseRatio: 1, AbsRatio: 2}
			sl.Layers = append(sl.Layers, sleep.LayerReport{Layer: name, Before: before, After: after, Mean: sleep.Preservation{Ratio: 1 - 0.001*float64(j), Error: 0.01}})
		}
		s.Sleeps = append(s.Sleeps, sl)
	}
	s.Layers = s.Sleeps[2].Layers
	celsius, volts, amperes, free := 51.4, 5.07, 0.612, 12.5e9
	s.Readings = []brain.Reading{
		{Name: "temperature", Unit: "°C", Value: &celsius, At: now}, {Name: "voltage", Unit: "V", Value: &volts, At: now},
		{Name: "current", Unit: "A", Value: &amperes, At: now},
	}
	s.Durability = brain.Durability{Durable: true, Snapshot: 12288, At: now.Add(-2 * time.Minute), Journal: 57, Free: &free}
}

// open asks for no token.
func open(c *server.Config) { c.TokenFile = "" }

// browser is a tab; console are the messages and errors that it had.
type browser struct {
	context.Context
	t       *testing.T
	mu      sync.Mutex
	console []string
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(chromium(t)), chromedp.NoSandbox)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{Context: ctx, t: t}
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			b.say(string(e.Type), fmt.Sprint(len(e.Args), " arguments"))
		case *runtime.EventExceptionThrown:
			b.say("exception", (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
		case *log.EventEntryAdded:
			b.say(string(e.Entry.Level), e.Entry.Text)
		}
	}); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, log.Enable, cdp.Empty{})
		return err
	}))
	return b
}

func (b *browser) say(kind, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.console = append(b.console, kind+": "+text)
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b, actions...); err != nil {
		b.t.Fatalf("%v; console: %q", err, b.console)
	}
}

// until waits for an expression to be true, also while the page is loaded anew.
func (b *browser) until(expression string) {
	b.t.Helper()
	var is bool
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if is, err = chromedp.Run(b, chromedp.Evaluate[bool](expression)); is {
			return
		}
	}
	text, _ := chromedp.Run(b, chromedp.Evaluate[string]("document.body.innerText")) // for the message
	b.t.Fatalf("%s never came true: %v; console: %q; page:\n%s", expression, err, b.console, text)
}

// shoot keeps a screenshot of the whole page.
func (b *browser) shoot(name string) {
	b.t.Helper()
	image, err := chromedp.Run(b, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll("screenshots", 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("screenshots", name+".png"), image, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// scheme is light or dark, without motion.
func scheme(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	})
}

// quiet fails when the console has something but the one refusal of a page that has no token yet.
func (b *browser) quiet(refusals int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, line := range b.console {
		if strings.Contains(line, "status of 401") {
			n++
			continue
		}
		b.t.Errorf("console: %s", line)
	}
	if n != refusals {
		b.t.Errorf("%d refusals for want of a token, want %d: %q", n, refusals, b.console)
	}
}

// contrasts are the visible texts whose contrast with what is behind them is below that of WCAG 2.1, AA.
const contrasts = `(() => {
  const parse = (text) => { const m = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0]; return m.length < 4 ? [...m, 1] : m; };
  const luminance = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255]; };
  const low = [];
  let n = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    const e = node.parentElement;
    if (!node.textContent.trim() || !e.checkVisibility() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = parse(e instanceof SVGElement ? style.fill : style.color);
    const a = luminance(ink.slice(0, 3)), b = luminance(behind(e).slice(0, 3));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700;
    n++;
    if (!(ratio >= (large ? 3 : 4.5))) low.push(node.textContent.trim() + ": " + ratio.toFixed(2));
  }
  if (n < 40) low.push("only " + n + " texts");
  return low;
})()`

func (b *browser) legible(name string) {
	b.t.Helper()
	low, err := chromedp.Run(b, chromedp.Evaluate[[]string](contrasts))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, x := range low {
		b.t.Errorf("%s: contrast of %s", name, x)
	}
}

// The page asks for the token, shows the state, follows a sleep, and its buttons do what they say.
func TestPage(t *testing.T) {
	b := newBrowser(t)
	board := newBoard(t, hour, nil)
	b.do(chromedp.EmulateViewport(1180, 900), scheme("light"), chromedp.Navigate(board.url))
	b.until(`!document.getElementById("door").hidden`)
	b.shoot("token")
	enter := func(text string) {
		b.do(chromedp.SendKeys(chromedp.CSS("#token"), text+"\r"))
	}
	enter("not-the-token-at-all")
	b.until(`document.getElementById("door-error").textContent.includes("does not know")`)
	enter(token)
	b.until(`document.getElementById("state").textContent === "awake" && document.getElementById("link").dataset.live === "yes"`)
	b.until(`document.querySelectorAll("#plot-snr path").length === 9 && document.querySelectorAll("#plot-mean path").length === 9`)
	b.until(`document.querySelectorAll("#plot-accuracy circle, #plot-temperature circle, #plot-power circle").length === 3`)
	b.until(`document.querySelectorAll("#sleeps tbody tr").length === 3 && document.querySelectorAll("#models tbody tr").length === 2`)
	b.shoot("awake-light")
	b.legible("light")

	b.do(chromedp.Click(chromedp.CSS("#sleep")))
	b.until(`document.getElementById("state").textContent === "asleep"`)
	b.until(`document.getElementById("said").textContent.includes("asked for by api: from the page")`)
	b.until(`document.getElementById("sleep").disabled && !document.getElementById("wake").disabled`)
	began := time.Now()
	board.Set(func(s *brain.Status) {
		s.Sleeps = append(s.Sleeps, brain.Sleep{Began: began, Reason: "asked for by api: from the page", Rule: "hebbian", Parts: 1, Asleep: time.Second})
	})
	board.Emit(brain.Event{Kind: brain.EventSleep, Text: "asleep: asked for by api"})
	b.until(`document.querySelector("#sleeps tbody tr").innerText.includes("running")`)
	celsius := 55.5
	board.Set(func(s *brain.Status) {
		s.Sleeps[3].Asleep = 4500 * time.Millisecond
		s.Readings[0].Value = &celsius
	})
	b.until(`document.querySelector("#sleeps tbody tr").innerText.includes("4.5 s") && document.getElementById("tiles").innerText.includes("55.5 °C")`)
	b.do(scheme("dark"))
	b.shoot("asleep-dark")
	b.legible("dark")
	board.Set(func(s *brain.Status) {
		sl := &s.Sleeps[3]
		sl.Ended, sl.Complete, sl.Layers = time.Now(), true, s.Sleeps[2].Layers
	})
	board.Emit(brain.Event{Kind: brain.EventSleep, Text: "slept to the end"})
	b.until(`document.querySelector("#sleeps tbody tr").innerText.includes("to the end")`)

	b.do(chromedp.Focus(chromedp.CSS("#wake")), chromedp.KeyEvent("\r")) // by keyboard
	b.until(`document.getElementById("state").textContent === "awake"`)
	b.do(chromedp.Click(chromedp.CSS("#rollback")), chromedp.WaitVisible(chromedp.CSS("#confirm")))
	b.shoot("confirm-dark")
	b.do(chromedp.Click(chromedp.CSS(`#confirm button[value="no"]`)))
	if v := board.Status().Model.Version; v != 3 {
		t.Errorf("version %d is in use, though nobody confirmed", v)
	}
	b.do(chromedp.Click(chromedp.CSS("#rollback")), chromedp.Click(chromedp.CSS(`#confirm button[value="yes"]`)))
	b.until(`document.getElementById("network").textContent.includes("version 2") && document.getElementById("rollback").disabled`)

	b.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile), scheme("light"))
	b.until(`document.documentElement.scrollWidth <= 390`) // nothing sticks out
	b.shoot("phone-light")
	b.do(chromedp.Click(chromedp.CSS("#forget")))
	b.until(`document.readyState === "complete" && !document.getElementById("door").hidden && sessionStorage.length === 0`)
	b.quiet(3) // before any token, with a wrong one, and after it was forgotten
}

// A board without a model, sensors, feedback and sleep says what is missing; and one without a token lets the page in.
func TestEmptyPage(t *testing.T) {
	b := newBrowser(t)
	board := newBoard(t, func(s *brain.Status) {
		*s = brain.Status{Mood: brain.Mood{State: "awake", Reason: "started", Since: time.Now()}, Started: time.Now(), QueueLimit: 64,
			Readings:   []brain.Reading{{Name: "temperature", Unit: "°C", Absent: "no thermometer is wired"}, {Name: "voltage", Unit: "V", Error: "input/output error"}},
			Durability: brain.Durability{Reason: "the disk is full"}}
	}, open)
	b.do(chromedp.EmulateViewport(1180, 900), scheme("dark"), chromedp.Navigate(board.url))
	b.until(`document.getElementById("link").dataset.live === "yes"`)
	for _, text := range []string{"no model", "No sleep yet", "No model yet", "No labels yet", "no thermometer is wired", "input/output error", "the disk is full", "Nothing measured yet"} {
		b.until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
	}
	b.shoot("empty-dark")
	b.legible("empty")
	b.quiet(0)
}

// A page whose board goes away says so.
func TestLostBoard(t *testing.T) {
	b := newBrowser(t)
	board := newBoard(t, hour, open)
	b.do(chromedp.Navigate(board.url))
	b.until(`document.getElementById("link").dataset.live === "yes"`)
	board.stop()
	b.until(`document.getElementById("link").dataset.live === "no"`)
}
