package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/server/brain"
	"hypnos/server/client"
)

// boardFlags are the flags by which a command reaches a board.
func boardFlags(f flags, name string) *client.Config {
	c := &client.Config{}
	f.StringVar(&c.URL, name, "", "`URL` of the board's daemon: http://HOST:PORT or https://HOST:PORT")
	f.StringVar(&c.TokenFile, "token-file", "", "`file` with the board's token")
	f.StringVar(&c.CA, "ca", "", "PEM `file` of the authority that signed the board's certificate (default: the system's)")
	f.StringVar(&c.Certificate, "cert", "", "PEM `file` of the certificate to show to the board")
	f.StringVar(&c.Key, "cert-key", "", "PEM `file` of that certificate's key")
	return c
}

// connect makes a client, and warns when it would send a token in the clear.
func connect(c console, name string, config client.Config) (*client.Client, error) {
	if config.URL == "" {
		return nil, usageError{fmt.Errorf("which board? --%s URL", name)}
	}
	b, err := client.New(config)
	if err == nil && b.Exposed() {
		fmt.Fprintln(c.Err, "warning: the token goes over the network unencrypted; https:// with --ca keeps it")
	}
	return b, err
}

func deployCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "deploy", "-m PACKAGE --to URL | --rollback --to URL", `
Sends an edge package to a board, has it taken into use on trial, and follows the trial: the board computes the package's
golden vectors itself and then watches its own health for a while. It commits to the package, or returns to the one before
and says why. With --rollback the board returns to the model before at once.

Examples:
  hypnos deploy -m edge.hyp --to http://localhost:8470
  hypnos deploy -m edge.hyp --key maker.pub --to http://localhost:8470
  hypnos deploy -m edge.hyp --to https://board.local:8470 --ca board-ca.pem --token-file board.token
  hypnos deploy --rollback --reason "confuses cats" --to https://board.local:8470 --ca board-ca.pem --token-file board.token`)
	path := f.String("m", "", "edge package `file`")
	to := boardFlags(f, "to")
	rollback := f.Bool("rollback", false, "return to the model before")
	key := f.String("key", "", "`file` of the public key that must have signed the package, looked at before it is sent")
	reason := f.String("reason", "", "`text` that the board shows with a rollback")
	wait := f.Duration("wait", 30*time.Minute, "how long to follow the trial")
	if _, err := f.parse(args); err != nil {
		return err
	}
	switch {
	case *rollback == (*path != ""):
		return usageError{errors.New("what? -m PACKAGE, or --rollback")}
	case *reason != "" && !*rollback:
		return usageError{errors.New("--reason is for --rollback")}
	case *wait <= 0:
		return usageError{errors.New("--wait must be above 0")}
	}
	board, err := connect(c, "to", *to)
	if err != nil {
		return err
	}
	if *rollback {
		m, err := board.Rollback(ctx, *reason)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "%s is in use again, in slot %s\n", named(m), m.Slot)
		return nil
	}
	d := deployment{c: c, board: board, every: time.Second, wait: *wait}
	if d.key, err = readPublicKey(*key); err != nil {
		return err
	}
	return d.run(ctx, *path)
}

func named(m brain.Model) string { return fmt.Sprintf("%s, version %d", m.Network, m.Version) }

// deployment brings a package to a board.
type deployment struct {
	c     console
	board *client.Client
	every time.Duration     // between looks at the trial
	wait  time.Duration     // for its end
	key   ed25519.PublicKey // that must have signed the package; nil where the board alone decides
}

func (d deployment) run(ctx context.Context, path string) error {
	if err := d.verify(path); err != nil { // what is damaged here is not sent
		return err
	}
	before, err := d.board.Status(ctx) // nor to whoever is no board, or does not know the token
	if err != nil {
		return err
	}
	sent, err := d.send(ctx, path)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.c.Err, "%s: %s is in slot %s and verified\n", path, named(sent), sent.Slot)
	used, err := d.board.Activate(ctx)
	if err != nil {
		return err
	}
	if used, err = d.follow(ctx, used); err != nil {
		return err
	}
	was := "the first model"
	if before.Model.Slot != "" {
		was = "before: " + named(before.Model)
	}
	fmt.Fprintf(d.c.Out, "%s is in use, in slot %s (%s)\n", named(used), used.Slot, was)
	return nil
}

// verify reads the whole package and, with a key, verifies its signature.
func (d deployment) verify(path string) error {
	p, err := edge.OpenPackage(path)
	if err != nil {
		return err
	}
	if d.key != nil {
		if err := (edge.Policy{Keys: []ed25519.PublicKey{d.key}}).Check(p.Head); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", path, err), p.Close())
		}
	}
	return p.Close()
}

func (d deployment) send(ctx context.Context, path string) (brain.Model, error) {
	file, err := os.Open(path)
	if err != nil {
		return brain.Model{}, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return brain.Model{}, err
	}
	body, done := transferred(d.c.Err, "sending", file, st.Size())
	defer done()
	return d.board.Upload(ctx, body, st.Size())
}

// follow waits until a trial has ended, and returns the model that the board has committed to, or why it returned from it.
// A board that does not answer for a while is asked again: it may have been started anew.
func (d deployment) follow(ctx context.Context, m brain.Model) (brain.Model, error) {
	over, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	next, silent := time.NewTicker(d.every), false
	defer next.Stop()
	if m.State == brain.Trial {
		fmt.Fprintf(d.c.Err, "on trial; interrupting this command does not interrupt that\n")
	}
	for m.State == brain.Trial || m.State == brain.Uploaded {
		select {
		case <-over.Done():
			if ctx.Err() != nil {
				return m, fmt.Errorf("the board goes on with the trial of %s: %w", named(m), ctx.Err())
			}
			return m, fmt.Errorf("%s is still on trial after %v: the board goes on with it", named(m), d.wait)
		case <-next.C:
		}
		s, err := d.board.Status(over)
		if _, refused := errors.AsType[*client.Error](err); refused {
			return m, err
		}
		if err != nil {
			if !silent && over.Err() == nil {
				fmt.Fprintf(d.c.Err, "no answer, asking again: %s\n", oneLine(err))
			}
			silent = true
			continue
		}
		silent = false
		i := slices.IndexFunc(s.Models, func(x brain.Model) bool { return x.Slot == m.Slot && x.Version == m.Version && x.Digest == m.Digest })
		if i < 0 {
			return m, fmt.Errorf("%s is no longer in slot %s: somebody else has deployed", named(m), m.Slot)
		}
		m = s.Models[i]
	}
	if m.State != brain.Active {
		return m, fmt.Errorf("the board returned from %s: %s", named(m), cmp.Or(m.Reason, "no reason given"))
	}
	return m, nil
}

// transferred shows how much of a reader's size bytes has been read, on a terminal. done ends that.
func transferred(w io.Writer, what string, r io.Reader, size int64) (io.Reader, func()) {
	file, is := w.(*os.File)
	if !is || !term.IsTerminal(int(file.Fd())) {
		return r, func() {}
	}
	bars := mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	bar := bars.New(size, mpb.BarStyle(), mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.Counters(decor.SizeB1000(0), " % .1f of % .1f")))
	return &counted{r, bar}, func() {
		bar.Abort(false) // nothing when it is complete
		bars.Wait()
	}
}

// counted shows what is read of a reader on a bar.
type counted struct {
	r   io.Reader
	bar *mpb.Bar
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.bar.IncrBy(n)
	return n, err
}

func pullCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "pull", "--from URL -o FILE", `
Brings a board's network with what it has learned to this machine, as an edge package. The file is verified before it
appears: it is whole, or what was there before.

Examples:
  hypnos pull --from http://localhost:8470 -o learned.hyp
  hypnos pull --from https://board.local:8470 --ca board-ca.pem --token-file board.token -o learned.hyp`)
	from := boardFlags(f, "from")
	out := f.String("o", "", "`file` to write")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *out == "" {
		return usageError{errors.New("where to? -o FILE")}
	}
	board, err := connect(c, "from", *from)
	if err != nil {
		return err
	}
	return pull(ctx, c, board, *out)
}

// pull writes a board's model beside its place, verifies it, and puts it there.
func pull(ctx context.Context, c console, board *client.Client, out string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	err = board.Export(ctx, file)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	p, err := edge.OpenPackage(file.Name())
	if err != nil {
		return fmt.Errorf("what %s sent is no whole package: %w", board, cmp.Or(errors.Unwrap(err), err)) // not the name of a file that is gone
	}
	m := p.Manifest
	if err := p.Close(); err != nil {
		return err
	}
	var size int64
	err = model.Replace(out, func(w io.Writer) error {
		r, err := os.Open(file.Name())
		if err != nil {
			return err
		}
		defer r.Close()
		size, err = io.Copy(w, r)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: %s, version %d, step %d; %.2f MB, parameters %s\n", out, m.Network.Name, m.Version, m.Source.Step, float64(size)/1e6, m.Digest)
	return nil
}
