package store_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/edge/edgetest"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
	"hypnos/server/store"
	"hypnos/server/store/storetest"
)

// pack is a package of a version, of the smallest network.
func pack(t testing.TB, version uint64, key ed25519.PrivateKey) []byte {
	t.Helper()
	b := net.NewBuilder("tiny")
	b.Linear("linear", b.Input(net.Shape{H: 1, W: 1, C: 3}), 2)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return edgetest.File(t, edge.Manifest{Version: version, Network: n, Classes: []string{"cat", "dog"}, Stats: data.Stats{Std: [3]float64{1, 1, 1}}},
		edgetest.Params(t, n, 4), edge.PackOptions{Key: key})
}

var development = store.Options{Policy: edge.Policy{Unsigned: true}}

// entry is what the record of a number says.
func entry(seq uint64) store.Entry {
	if seq%5 == 4 {
		s := store.Sleep{Spec: sleep.DefaultSpec(), Seed: 1, Phase: seq}
		if seq%2 == 0 {
			s.Next = &sleep.Token{Layer: "x", Grid: int(seq)}
		}
		return s
	}
	w := store.Wake{Step: int64(seq), Settings: store.Settings{Seed: seq, Rule: core.Broadcast, LearnFrom: "x"}, Rate: 1 / float64(seq), Labels: core.Labels{int32(seq)}}
	for i := range int16(300) { // more than a sector
		w.Input = append(w.Input, i*int16(seq))
	}
	return w
}

// learned are parameters that stand for having done records 1 to seq of a model.
func learned(modelNumber, seq uint64) *model.Params {
	p := &model.Params{Meta: map[string]string{"phase": fmt.Sprint(seq)}}
	n := make([]int64, 200)
	for i := range n {
		n[i] = int64(modelNumber<<32 | seq)
	}
	p.Add(model.NewTensor("learned", []int{200}, n))
	return p
}

// recovered does what a daemon does at its start, and checks that every record is what was appended.
func recovered(t *testing.T, s *store.Store, version uint64) (last uint64, problems []store.Problem, err error) {
	t.Helper()
	r, err := s.Recover()
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	if r.Params != nil {
		v, err := r.Params.Get("learned")
		if err != nil {
			t.Fatal(err)
		}
		if want := learned(version, r.Seq); !reflect.DeepEqual(v.Data, tensor(t, want).Data) || r.Params.Meta["phase"] != want.Meta["phase"] {
			t.Fatalf("the snapshot of record %d is another's", r.Seq)
		}
	} else if r.Seq != 0 {
		t.Fatalf("no snapshot, but record %d", r.Seq)
	}
	last = r.Seq
	err = r.Replay(func(seq uint64, e store.Entry) error {
		if last++; seq != last || !reflect.DeepEqual(e, entry(seq)) {
			t.Fatalf("record %d where %d comes: %+v", seq, last, e)
		}
		return nil
	})
	return last, r.Problems, err
}

func tensor(t *testing.T, p *model.Params) model.Tensor {
	v, err := p.Get("learned")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// life is a daemon's: what it did and was acknowledged, up to an error.
type life struct {
	t       *testing.T
	r       *rand.Rand
	s       *store.Store
	version uint64
	model   map[uint64]uint64 // by version: last record that was acknowledged
	active  []uint64          // versions that may be active: the acknowledged one, and what was being changed to
	packs   [][]byte
}

// live installs a package, learns and takes snapshots, changes models; it ends at the first error that is not of its own making.
func (l *life) live(fs store.FS) error {
	var err error
	if l.s, _, err = store.Open(fs, development); err != nil {
		return err
	}
	for version := uint64(1); version <= 3; version++ {
		if _, err := l.s.Install(bytes.NewReader(l.packs[version])); err != nil {
			return err
		}
		before := l.active
		l.active = append(slices.Clone(before), version)
		if err := l.s.StartTrial(); err != nil {
			return err
		}
		if err := l.begin(version); err != nil {
			return err
		}
		if err := l.learn(8); err != nil {
			return err
		}
		if version == 2 {
			if err := l.s.Return("a test"); err != nil {
				return err
			}
			l.active = before
			if err := l.begin(before[0]); err != nil {
				return err
			}
		} else {
			if err := l.s.Commit(); err != nil {
				return err
			}
			l.active = []uint64{version}
		}
		if err := l.learn(12); err != nil {
			return err
		}
	}
	l.active = []uint64{3, 1}
	if err := l.s.Rollback("a test"); err != nil {
		return err
	}
	l.active = []uint64{1}
	if err := l.begin(1); err != nil {
		return err
	}
	return l.learn(6)
}

// begin recovers the active model, which is of a version.
func (l *life) begin(version uint64) error {
	l.version = version
	last, problems, err := recovered(l.t, l.s, version)
	if err == nil && (last != l.model[version] || len(problems) > 0) {
		l.t.Fatalf("version %d: recovered up to %d of %d: %v", version, last, l.model[version], problems)
	}
	return err
}

func (l *life) learn(times int) error {
	for range times {
		seq := l.s.Seq()
		var group []store.Entry
		for range 1 + l.r.IntN(3) {
			group = append(group, entry(seq+uint64(len(group))+1))
		}
		last, err := l.s.Append(group...)
		if err != nil {
			return err
		}
		l.model[l.version] = last
		if l.r.IntN(4) == 0 {
			if err := l.s.Snapshot(learned(l.version, last), last); err != nil {
				return err
			}
		}
	}
	return nil
}

// afterCrash opens what a crash left, and returns what is wrong.
func (l *life) afterCrash(fs *storetest.Mem) error {
	for pass := range 2 { // what recovery writes survives, too
		s, _, err := store.Open(fs, development)
		if err != nil {
			return fmt.Errorf("pass %d: %w", pass, err)
		}
		slot := s.State().Active()
		if slot == store.None {
			if len(l.active) > 0 && l.model[l.active[0]] > 0 && l.committed() {
				return errors.New("no model is active")
			}
			return nil
		}
		p, err := s.Package(slot)
		if err != nil {
			return err
		}
		version := p.Manifest.Version
		if err := p.Close(); err != nil {
			return err
		}
		if l.committed() && !slices.Contains(l.active, version) {
			return fmt.Errorf("version %d is active, not one of %d", version, l.active)
		}
		last, problems, err := recovered(l.t, s, version)
		if err != nil {
			return err
		}
		if last < l.model[version] {
			return fmt.Errorf("version %d: recovered up to %d, %d was acknowledged: %v", version, last, l.model[version], problems)
		}
		for _, p := range problems {
			if p.Lost > 0 {
				return fmt.Errorf("said to be lost: %v", p)
			}
		}
		if _, err := s.Append(entry(last + 1)); err != nil {
			return err
		}
		l.model[version] = last + 1
	}
	return nil
}

// committed tells whether a model was committed before.
func (l *life) committed() bool {
	return len(l.active) > 0 && (len(l.active) > 1 || l.active[0] != 1 || l.model[1] > 24)
}

func newLife(t *testing.T, r *rand.Rand, packs [][]byte) *life {
	return &life{t: t, r: r, model: map[uint64]uint64{}, packs: packs}
}

func packages(t *testing.T) [][]byte {
	var all [][]byte
	for v := range uint64(4) {
		all = append(all, pack(t, v, nil))
	}
	return all
}

// TestCrashes: a loss of power before any operation that writes loses nothing that was acknowledged, and what is recovered is
// exactly what was done; of what was not acknowledged, a part may be there, in order.
func TestCrashes(t *testing.T) {
	const seed, crashes = 1, 1000
	t.Logf("seed %d, %d crashes", seed, crashes)
	packs := packages(t)
	fs := storetest.New()
	fs.CrashAt(math.MaxInt)
	if err := newLife(t, rand.New(rand.NewPCG(seed, 0)), packs).live(fs); err != nil {
		t.Fatal(err)
	}
	ops := fs.Ops()
	met := map[int]bool{}
	for i := range uint64(crashes) {
		r := rand.New(rand.NewPCG(seed, i))
		at := 1 + r.IntN(ops)
		if i < uint64(ops) {
			at = 1 + int(i) // every place once
		}
		met[at] = true
		fs := storetest.New()
		fs.CrashAt(at)
		l := newLife(t, r, packs)
		err := l.live(fs)
		if err != nil && !errors.Is(err, storetest.ErrCrashed) {
			t.Fatalf("crash %d at operation %d: %v", i, at, err)
		}
		if err := l.afterCrash(fs.Crashed(r)); err != nil {
			t.Fatalf("crash %d at operation %d of %d: %v", i, at, ops, err)
		}
	}
	if len(met) < ops || len(met) < 100 {
		t.Errorf("%d places of %d", len(met), ops)
	}
}

// TestCrashesFindMissingSyncs: with any one kind of sync left out, the crashes of TestCrashes find what is lost.
func TestCrashesFindMissingSyncs(t *testing.T) {
	packs := packages(t)
	for _, without := range []struct{ op, name string }{
		{"sync", "journal-"}, {"sync", "snapshot-"}, {"sync", "package"}, {"sync", "state-"}, {"syncdir", "model-"},
	} {
		found := false
		for i := uint64(0); i < 3000 && !found; i++ {
			r := rand.New(rand.NewPCG(2, i))
			fs, at := storetest.New(), 1+r.IntN(200)
			fs.Before(func(n int, op, name string) error {
				if n >= at {
					return storetest.ErrCrashed
				}
				if op == without.op && strings.Contains(name, without.name) {
					return storetest.ErrSkip
				}
				return nil
			})
			l := newLife(t, r, packs)
			if err := l.live(fs); err != nil && !errors.Is(err, storetest.ErrCrashed) {
				t.Fatal(err)
			}
			found = l.afterCrash(fs.Crashed(r)) != nil
		}
		if !found {
			t.Errorf("without %s of %s nothing is lost in 3000 crashes", without.op, without.name)
		}
	}
}

// started is a store with a committed model and some records.
func started(t *testing.T, fs *storetest.Mem) *store.Store {
	t.Helper()
	s, _, err := store.Open(fs, development)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Install(bytes.NewReader(pack(t, 1, nil))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.StartTrial(), s.Commit()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := recovered(t, s, 1); err != nil {
		t.Fatal(err)
	}
	return s
}

func appendAll(t *testing.T, s *store.Store, n int) (errs int) {
	t.Helper()
	for range n {
		if _, err := s.Append(entry(s.Seq() + 1)); err != nil {
			var storage *store.StorageError
			if !errors.As(err, &storage) {
				t.Fatalf("not the disk's error: %v", err)
			}
			errs++
		}
	}
	return errs
}

// TestFullDisk: while a disk is full, or cannot be written, nothing is acknowledged; when it can again, all that was done in
// between becomes durable with the next record, or with a snapshot.
func TestFullDisk(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		for _, op := range []string{"create", "write", "sync", "syncdir"} {
			fs := storetest.New()
			s := started(t, fs)
			if appendAll(t, s, 3) != 0 {
				t.Fatal("not appended")
			}
			fs.Before(func(_ int, o, _ string) error {
				if o == op {
					return cause
				}
				return nil
			})
			failed := appendAll(t, s, 3)
			if op == "write" || op == "sync" {
				if failed != 3 {
					t.Errorf("%v of %s: %d of 3 failed", cause, op, failed)
				}
			}
			err := s.Snapshot(learned(1, s.Seq()), s.Seq())
			if !errors.Is(err, cause) {
				t.Errorf("%v of %s: a snapshot: %v", cause, op, err)
			}
			fs.Before(nil)
			if appendAll(t, s, 1) != 0 {
				t.Errorf("%v of %s: still failing", cause, op)
			}
			after := fs.Crashed(rand.New(rand.NewPCG(1, 1)))
			again, problems, err := store.Open(after, development)
			if err != nil {
				t.Fatal(err, problems)
			}
			last, problems, err := recovered(t, again, 1)
			if err != nil || last != 7 {
				t.Errorf("%v of %s: recovered up to %d of 7: %v, %v", cause, op, last, err, problems)
			}
			for _, p := range problems {
				if p.Lost > 0 {
					t.Errorf("%v of %s: %v", cause, op, p)
				}
			}
		}
	}
}

// TestTooManyPending: a disk that stays full for long costs memory up to a bound, and a snapshot makes up for it.
func TestTooManyPending(t *testing.T) {
	fs := storetest.New()
	s := started(t, fs)
	fs.Before(func(_ int, op, _ string) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	})
	large := store.Wake{Labels: core.Labels{1}, Input: make([]int16, 5<<20)}
	for range 4 {
		if _, err := s.Append(large); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	fs.Before(nil)
	if _, err := s.Append(entry(5)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("records that were given up: %v", err)
	}
	if err := s.Snapshot(learned(1, 5), 5); err != nil {
		t.Fatal(err)
	}
	if appendAll(t, s, 2) != 0 {
		t.Fatal("not appended after a snapshot")
	}
	again, _, err := store.Open(fs.Crashed(rand.New(rand.NewPCG(1, 1))), development)
	if err != nil {
		t.Fatal(err)
	}
	if last, problems, err := recovered(t, again, 1); err != nil || last != 7 || len(problems) > 0 {
		t.Errorf("recovered up to %d of 7: %v, %v", last, err, problems)
	}
}

// TestFlippedBits: a bit that flips anywhere in what a store has is met by its neighbour copy, by an older snapshot with a longer
// replay, or by a report of what is lost; what is recovered is always what was done, up to some record.
func TestFlippedBits(t *testing.T) {
	whole := func() *storetest.Mem {
		fs := storetest.New()
		s := started(t, fs)
		for range 3 {
			appendAll(t, s, 4)
			if err := s.Snapshot(learned(1, s.Seq()), s.Seq()); err != nil {
				t.Fatal(err)
			}
		}
		appendAll(t, s, 4)
		return fs
	}
	const acknowledged = 16
	files := whole().Files()
	tried, lost := 0, 0
	for name, size := range files {
		for bit := 3; bit < 8*size; bit += 8*size/40 + 1 {
			fs := whole()
			if !fs.Flip(name, bit) {
				t.Fatal(name)
			}
			tried++
			s, problems, err := store.Open(fs, development)
			if err != nil {
				t.Fatalf("bit %d of %s: %v", bit, name, err)
			}
			reported := len(problems) > 0
			if p, err := s.Package(s.State().Active()); err != nil {
				reported = true
			} else if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			last, problems, err := recovered(t, s, 1)
			if err != nil {
				t.Fatalf("bit %d of %s: %v", bit, name, err)
			}
			sum := uint64(0)
			for _, p := range problems {
				sum += p.Lost
			}
			switch {
			case last == acknowledged && sum == 0:
			case last < acknowledged && (sum > 0 || last == acknowledged-1): // the last record alone cannot be told from a torn one
				lost++
			default:
				t.Errorf("bit %d of %s: recovered up to %d of %d, %d said to be lost: %v", bit, name, last, acknowledged, sum, problems)
			}
			if reported = reported || len(problems) > 0; !reported && !unused(name) {
				t.Errorf("bit %d of %s: nobody noticed", bit, name)
			}
			// Numbers are given anew behind a loss, and nothing of what was lost comes back.
			appendAll(t, s, 3)
			again, _, err := store.Open(fs, development)
			if err != nil {
				t.Fatal(err)
			}
			if now, _, err := recovered(t, again, 1); err != nil || now != last+3 {
				t.Errorf("bit %d of %s: up to %d after three more than %d: %v", bit, name, now, last, err)
			}
		}
	}
	if tried < 200 || lost == 0 {
		t.Errorf("%d bits, %d losses", tried, lost)
	}
}

// unused tells whether a file is not read as long as the newer one is whole: the older snapshot and what of the journal leads from
// it to the newer one.
func unused(name string) bool {
	return strings.Contains(name, "snapshot-") && strings.HasSuffix(name, "8") || strings.Contains(name, "journal-") && !strings.HasSuffix(name, "d")
}

// TestInstallRefuses: what is refused changes nothing.
func TestInstallRefuses(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	fs := storetest.New()
	o := store.Options{Policy: edge.Policy{Keys: []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}}, MaxPackage: 1 << 16}
	s, _, err := store.Open(fs, o)
	if err != nil {
		t.Fatal(err)
	}
	good := pack(t, 3, key)
	if _, err := s.Install(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.StartTrial(), s.Commit()); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the line is cut")
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	var storage *store.StorageError
	for _, x := range []struct {
		name string
		r    io.Reader
		want error
		text string
	}{
		{"unsigned", bytes.NewReader(pack(t, 4, nil)), edge.ErrUnsigned, ""},
		{"another's", bytes.NewReader(pack(t, 4, other)), edge.ErrKey, ""},
		{"older", bytes.NewReader(pack(t, 2, key)), edge.ErrDowngrade, ""},
		{"damaged", bytes.NewReader(flipped), nil, "is damaged"},
		{"cut", bytes.NewReader(good[:len(good)-1]), nil, "ends after"},
		{"too long", io.MultiReader(bytes.NewReader(good), strings.NewReader("x")), nil, "more than the package's"},
		{"no package", strings.NewReader("hello, world"), nil, "package"},
		{"empty", strings.NewReader(""), nil, "EOF"},
		{"a broken line, early", iotest.ErrReader(broken), store.ErrRead, "the line is cut"},
		{"a broken line, late", io.MultiReader(bytes.NewReader(good[:len(good)-9]), iotest.ErrReader(broken)), store.ErrRead, "the line is cut"},
	} {
		before, files := s.State(), fs.Files()
		_, err := s.Install(x.r)
		if err == nil || x.want != nil && !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.text) || errors.As(err, &storage) {
			t.Errorf("%s: %v", x.name, err)
		}
		if !reflect.DeepEqual(before, s.State()) || !reflect.DeepEqual(files, fs.Files()) {
			t.Errorf("%s: something has changed", x.name)
		}
	}
	next := pack(t, 4, key)
	for _, op := range []string{"mkdir", "create", "write", "sync", "syncdir"} {
		before := s.State()
		fs.Before(func(_ int, o, _ string) error {
			if o == op {
				return syscall.ENOSPC
			}
			return nil
		})
		if _, err := s.Install(bytes.NewReader(next)); !errors.As(err, &storage) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("full at %s: %v", op, err)
		}
		fs.Before(nil)
		if !reflect.DeepEqual(before, s.State()) {
			t.Errorf("full at %s: something has changed", op)
		}
	}
	s.Install(bytes.NewReader(next))
	if err := s.StartTrial(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Install(bytes.NewReader(next)); !errors.Is(err, store.ErrTrial) {
		t.Errorf("during a trial: %v", err)
	}
	small, _, err := store.Open(storetest.New(), store.Options{Policy: o.Policy, MaxPackage: 100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := small.Install(bytes.NewReader(good)); !errors.Is(err, store.ErrTooLong) {
		t.Errorf("too large: %v", err)
	}
	for _, f := range []func() error{small.StartTrial, small.Commit, func() error { return small.Return("x") }, func() error { return small.Rollback("x") },
		func() error { _, err := small.Recover(); return err }, func() error { _, err := small.Package(store.A); return err }} {
		if err := f(); !errors.Is(err, store.ErrNone) {
			t.Errorf("without a model: %v", err)
		}
	}
}

// TestDir: the operating system's folder does what the one in memory does.
func TestDir(t *testing.T) {
	dir := t.TempDir()
	l := newLife(t, rand.New(rand.NewPCG(1, 0)), packages(t))
	if err := l.live(store.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	s, problems, err := store.Open(store.Dir(dir), development)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	last, problems, err := recovered(t, s, 1)
	if err != nil || last != l.model[1] || len(problems) > 0 {
		t.Errorf("recovered up to %d of %d: %v, %v", last, l.model[1], err, problems)
	}
	if got := s.State(); got.Slots[store.A].Role != store.Committed || got.Slots[store.B].Role != store.Returned || got.Slots[store.B].Reason != "a test" || got.Counter.Version != 3 {
		t.Errorf("%+v", got)
	}
}

// FuzzJournal: whatever a journal's file has, recovery gives records that follow each other, or says what is wrong.
func FuzzJournal(f *testing.F) {
	f.Add([]byte("hypnos journal 1\n"))
	f.Add([]byte("hypnos journal 1\n\x00\x00\x00\x00\x00\x00\x00\x00"))
	package1 := pack(f, 1, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := storetest.New()
		s, _, err := store.Open(fs, development)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Install(bytes.NewReader(package1)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.StartTrial(), s.Commit()); err != nil {
			t.Fatal(err)
		}
		w, err := fs.Create("model-1/journal-0000000000000001")
		if err != nil {
			t.Fatal(err)
		}
		w.Write(b)
		r, err := s.Recover()
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		r.Replay(func(seq uint64, e store.Entry) error {
			if last++; seq != last {
				t.Fatalf("record %d where %d comes", seq, last)
			}
			return nil
		})
	})
}
