package hil

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"hypnos/hil/message"
	"hypnos/hil/target"
	"hypnos/server/brain"
)

// What happens to a device.

func (a *session) ramp(ctx context.Context, r Ramp) error {
	steps := int(math.Ceil(math.Abs(r.To - r.From)))
	if steps == 0 {
		return errors.New("from and to are equal")
	}
	for i := range steps + 1 {
		if err := a.target.World().SetTemperature(r.From + (r.To-r.From)*float64(i)/float64(steps)); err != nil {
			return err
		}
		if err := pause(ctx, r.Over.Duration/time.Duration(steps+1)); err != nil {
			return err
		}
		if _, err := a.status(ctx); err != nil { // for the report
			return err
		}
	}
	return nil
}

// sensor takes the thermometer's bus away from its driver, or gives it back; or has the thermometer not answer, or answer again.
func (a *session) sensor(ctx context.Context, how string) error {
	b, ok := a.target.(*target.Board)
	switch how {
	case "away", "back":
	case "silent", "answers":
		if !ok {
			return errors.New("the rig cannot silence its thermometer")
		}
		return b.Silence(how == "silent")
	default:
		return fmt.Errorf("%q is none of away, back, silent, answers", how)
	}
	if !ok || b.Thermometer() == nil {
		return errors.New("its driver is not known")
	}
	d := b.Thermometer()
	return a.target.Call(ctx, message.Driver, message.Binding{Bus: d.Bus, Driver: d.Driver, Device: d.Device, Bound: how == "back"}, nil)
}

// wakeEdge measures, in the device's own time, how long it is from an edge on the wake line, while the network sleeps, to its next
// answer. When the edge comes is known as well as the clocks of device and host can be compared, which the note says.
func (a *session) wakeEdge(ctx context.Context, times int) error {
	var took []float64
	var doubt time.Duration
	world := a.target.World()
	for range times {
		if err := a.ask(ctx, "sleep"); err != nil {
			return err
		}
		if err := a.until(ctx, 20*time.Second, func(s brain.Status) error {
			if s.State != "asleep" {
				return fmt.Errorf("%s (%s), want asleep", s.State, s.Reason)
			}
			return nil
		}); err != nil {
			return err
		}
		offset, wrong, err := a.compareClocks(ctx)
		if err != nil {
			return err
		}
		doubt = max(doubt, wrong)
		answered := make(chan message.Awaited, 1)
		failed := make(chan error, 1)
		i := 1<<20 + len(took)
		go func() {
			var w message.Awaited
			if err := a.target.Call(ctx, message.Await, message.Waiting{While: "asleep", Then: a.picture(i)}, &w); err != nil {
				failed <- err
				return
			}
			answered <- w
		}()
		if err := pause(ctx, time.Duration(50+a.random.IntN(100))*time.Millisecond); err != nil { // it waits by then
			return err
		}
		edge := time.Since(a.begin) + offset
		if err := world.SetLine("wake", true); err != nil {
			return err
		}
		select {
		case w := <-answered:
			var r brain.Result
			if err := read(w.Response, &r); err != nil {
				return err
			}
			if len(r.Logits) == 0 {
				return errors.New("no logits")
			}
			a.compared++
			took = append(took, float64(w.Response.Answered-edge)/1e6)
		case err := <-failed:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("the edge does not wake it")
		}
		if err := world.SetLine("wake", false); err != nil {
			return err
		}
	}
	slices.Sort(took)
	a.note("from an edge in a Hebbian sleep to the first logits: median %.1f, least %.1f, most %.1f ms of emulated time in %d edges, each ± %.1f ms",
		took[len(took)/2], took[0], took[len(took)-1], len(took), float64(doubt)/1e6)
	if most := took[len(took)-1]; most > wakeLimit {
		return fmt.Errorf("%.1f ms to the first logits, more than %v", most, wakeLimit)
	}
	// What the network is now depends on when it was woken: it finishes its sleep.
	return a.until(ctx, time.Minute, func(s brain.Status) error {
		if s.State == "asleep" {
			return errors.New("asleep")
		}
		return nil
	})
}

// wakeLimit is how many ms of emulated time an edge may take to the first logits: the second within which the governor acts on a reason
// to wake (governor.latency).
const wakeLimit = 1000.0

// compareClocks gives what is to be added to the time since begin to have the device's, and how wrong that may be.
func (a *session) compareClocks(ctx context.Context) (offset, wrong time.Duration, err error) {
	wrong = time.Hour
	for range 8 {
		before := time.Since(a.begin)
		id, err := target.Identify(ctx, a.target)
		if err != nil {
			return 0, 0, err
		}
		after := time.Since(a.begin)
		if half := (after - before) / 2; half < wrong {
			wrong, offset = half, id.Monotonic-before-half
		}
	}
	return offset, wrong, nil
}

// cuts takes the power away at random moments. What was acknowledged must be there afterwards, and no more than the one thing that was
// under way.
func (a *session) cuts(ctx context.Context, c Cuts) error {
	if c.Count < 1 || c.Within.Duration <= 0 || len(c.During) == 0 {
		return errors.New("count, within and during: how many, how soon, while what?")
	}
	acknowledged, lost, writes := 0, 0, 0
	for i := range c.Count {
		before := len(a.deeds)
		may, err := a.cutDuring(ctx, c.During[i%len(c.During)], time.Duration(1+a.random.Int64N(int64(c.Within.Duration))))
		if err != nil {
			return fmt.Errorf("cut %d, %s: %w", i+1, c.During[i%len(c.During)], err)
		}
		acknowledged += len(a.deeds) - before
		if c.Forget {
			l, w, err := a.target.(target.Storage).Forget()
			if err != nil {
				return err
			}
			lost, writes = lost+l, writes+w
		}
		if err := a.again(ctx); err != nil {
			return fmt.Errorf("cut %d: %w", i+1, err)
		}
		if err := a.oneOf(ctx, may); err != nil {
			return fmt.Errorf("cut %d, %s: %w", i+1, c.During[i%len(c.During)], err)
		}
	}
	text := fmt.Sprintf("seed %d: %d cuts, %d steps and sleeps acknowledged, none lost", a.seed, c.Count, acknowledged)
	if c.Forget {
		text += fmt.Sprintf("; of %d writes to the disk %d came after the last flush and were taken away", writes, lost)
	}
	a.note("%s", text)
	if acknowledged < c.Count {
		return fmt.Errorf("%d steps acknowledged in %d cuts: too few to show anything", acknowledged, c.Count)
	}
	return nil
}

// cutDuring has the device do something, and takes its power away after a time. It returns what may have been done beside what was
// acknowledged.
func (a *session) cutDuring(ctx context.Context, what string, after time.Duration) (may []deed, err error) {
	var work func(context.Context) error
	switch what {
	case "learning":
		may = []deed{learned}
		work = func(ctx context.Context) error { return a.learn(ctx, 1<<30) }
	case "sleeping":
		may = []deed{slept}
		if err := a.learn(ctx, 2); err != nil {
			return nil, err
		}
		work = func(ctx context.Context) error { return a.ask(ctx, "sleep") }
	case "updating":
		if err := a.learn(ctx, 1); err != nil {
			return nil, err
		}
		work = func(ctx context.Context) error {
			if err := a.upload(ctx, "v2.hyp"); err != nil {
				return err
			}
			return a.activate(ctx)
		}
	default:
		return nil, fmt.Errorf("during: %q is none of learning, sleeping, updating", what)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- work(ctx) }()
	select {
	case <-time.After(after):
	case <-ctx.Done():
	}
	err = a.target.Cut()
	cancel()
	var r *refusal
	if stopped := <-ended; err == nil && errors.As(stopped, &r) {
		err = stopped
	}
	return may, err
}

// oneOf compares a device that was cut off with what it must be, or with that and one more deed.
func (a *session) oneOf(ctx context.Context, may []deed) error {
	s, err := a.status(ctx)
	if err != nil {
		return err
	}
	if s.Model.Version != 1 {
		return fmt.Errorf("version %d is in use, want 1: the other was on trial", s.Model.Version)
	}
	steps := int64(count(a.deeds, learned))
	if s.Step < steps {
		return fmt.Errorf("%d steps, %d were acknowledged", s.Step, steps)
	}
	plain := a.same(ctx)
	if plain == nil {
		return nil
	}
	for _, d := range may {
		was := a.deeds
		a.deeds = append(slices.Clone(was), d)
		if err := a.same(ctx); err == nil {
			return nil
		}
		a.deeds = was
	}
	return plain
}

func (a *session) upload(ctx context.Context, file string) error {
	return a.request(ctx, message.Request{Method: http.MethodPost, Path: "/v1/model", Type: "application/octet-stream", File: file}, nil)
}

func (a *session) activate(ctx context.Context) error {
	return a.request(ctx, message.Request{Method: http.MethodPost, Path: "/v1/model/activate"}, nil)
}

// refused asks for something that must be refused.
func (a *session) refused(ctx context.Context, r Refused) error {
	var err error
	file, upload := strings.CutPrefix(r.What, "upload ")
	damaged, isDamaged := strings.CutPrefix(file, "damaged ")
	switch {
	case r.What == "learn":
		err = a.learnUntilRefused(ctx)
	case upload && isDamaged:
		if err := a.target.Call(ctx, message.Copy, message.Copying{From: damaged, To: "damaged"}, nil); err != nil {
			return err
		}
		if err := a.target.Call(ctx, message.Flip, message.Bit{Path: "damaged", Where: 0.7, Bit: 3}, nil); err != nil {
			return err
		}
		err = a.upload(ctx, "damaged")
	case upload:
		err = a.upload(ctx, file)
	default:
		return fmt.Errorf("what: %q is neither learn nor upload FILE", r.What)
	}
	return a.mustRefuse(err, r.Code)
}

// learnUntilRefused has the device learn until it does not want to: from what the last block of a full disk takes, and from the image
// by which it notices, of which it must say that it is not durable.
func (a *session) learnUntilRefused(ctx context.Context) error {
	for range 20 {
		var ack brain.Ack
		if err := a.request(ctx, a.lesson(count(a.deeds, learned)), &ack); err != nil {
			return err
		}
		a.deeds = append(a.deeds, learned)
		if !ack.Durable {
			a.note("step %d is not durable: %s", ack.Step, ack.Reason)
		}
	}
	return nil
}

func (a *session) mustRefuse(err error, code string) error {
	var r *refusal
	if !errors.As(err, &r) {
		return fmt.Errorf("%v, want it refused with %s", err, code)
	}
	if r.Code != code {
		return fmt.Errorf("refused with %w, want %s", r, code)
	}
	a.compared++
	return nil
}

func (a *session) update(ctx context.Context, u Update) error {
	err := a.upload(ctx, u.Package)
	if err == nil {
		err = a.activate(ctx)
	}
	if u.Code != "" {
		return a.mustRefuse(err, u.Code)
	}
	if err != nil || u.Commit.Duration == 0 {
		return err
	}
	return a.until(ctx, u.Commit.Duration, func(s brain.Status) error {
		if s.Model.State != brain.Active {
			return fmt.Errorf("version %d is %s", s.Model.Version, s.Model.State)
		}
		return nil
	})
}

func (a *session) rollback(ctx context.Context) error {
	text, err := json.Marshal(map[string]string{"reason": "a test of the rig"})
	if err != nil {
		return err
	}
	return a.request(ctx, message.Request{Method: http.MethodPost, Path: "/v1/model/rollback", Type: "application/json", Body: text}, nil)
}

func (a *session) soak(ctx context.Context, s Soak) error {
	if s.Rounds < 4 || s.Learn < 1 || !(s.Growth >= 0) {
		return errors.New("rounds, learn, growth: at least 4 rounds of 1 image")
	}
	var memory, files []int64
	for range s.Rounds {
		if err := a.learn(ctx, s.Learn); err != nil {
			return err
		}
		if err := a.sleep(ctx); err != nil {
			return err
		}
		var u message.Used
		if err := a.target.Call(ctx, message.Usage, nil, &u); err != nil {
			return err
		}
		memory, files = append(memory, u.Resident), append(files, u.Bytes)
	}
	for what, all := range map[string][]int64{"memory": memory, "files": files} {
		first, last := slices.Max(all[:len(all)/2]), slices.Max(all[len(all)/2:])
		a.note("%s: at most %.1f MB in the first half of %d rounds, %.1f MB in the second", what, float64(first)/1e6, s.Rounds, float64(last)/1e6)
		a.compared++
		if grown := float64(last)/float64(first) - 1; !(grown <= s.Growth) {
			return fmt.Errorf("%s grew by %.0f %%, more than %.0f", what, 100*grown, 100*s.Growth)
		}
	}
	return nil
}
