// Package agent is how a host talks to a device under test: requests and answers as lines of text over anything that carries
// bytes, a serial line that drops, delays, doubles and damages them included.
//
// A frame is a line
//
//	~hil KIND SESSION NUMBER CRC PAYLOAD
//
// KIND is q, a request, or a, its answer; SESSION and NUMBER (hexadecimal) are of the request; CRC is the CRC-32 (IEEE, hexadecimal) of
// all before and behind it; PAYLOAD is JSON, compressed (DEFLATE, RFC 1951), in base64. Everything else on the line is passed over: a console's noise, a frame
// that was damaged. A request is sent again until its answer comes, and carried out once however often it arrives.
package agent

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

const (
	mark       = "~hil"
	maxLine    = 1 << 20
	maxPayload = 16 << 20
)

type kind string

const (
	question kind = "q"
	answer   kind = "a"
)

// id names a request.
type id struct{ session, number uint64 }

type frame struct {
	kind kind
	id
	payload []byte
}

// request and reply are what frames carry.
type request struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

type reply struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func (f frame) line() []byte {
	head := fmt.Sprintf("%s %s %016x %x", mark, f.kind, f.session, f.number)
	body := base64.StdEncoding.EncodeToString(deflated(f.payload))
	return fmt.Appendf(nil, "%s %08x %s\n", head, checksum(head, body), body)
}

func deflated(b []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.DefaultCompression)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // a level that there is, into memory
	}
	return out.Bytes()
}

// inflated undoes deflated. More than maxPayload is nobody's.
func inflated(b []byte) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxPayload+1))
	if err == nil && len(out) > maxPayload {
		err = fmt.Errorf("more than %d bytes", maxPayload)
	}
	return out, err
}

func checksum(head, body string) uint32 { return crc32.ChecksumIEEE([]byte(head + " " + body)) }

// parse reads a frame; a line that is none, or not as it was sent, is not one.
func parse(line []byte) (f frame, ok bool) {
	i := bytes.LastIndex(line, []byte(mark+" ")) // something may stand before it
	if i < 0 {
		return f, false
	}
	parts := bytes.Split(bytes.TrimRight(line[i:], "\r\n"), []byte(" "))
	if len(parts) != 6 {
		return f, false
	}
	f.kind = kind(parts[1])
	var sum uint32
	for _, x := range []struct {
		text []byte
		into any
	}{{parts[2], &f.session}, {parts[3], &f.number}, {parts[4], &sum}} {
		if _, err := fmt.Sscanf(string(x.text), "%x", x.into); err != nil {
			return f, false
		}
	}
	body := string(parts[5])
	if sum != checksum(string(bytes.Join(parts[:4], []byte(" "))), body) {
		return f, false
	}
	packed, err := base64.StdEncoding.DecodeString(body)
	if err == nil {
		f.payload, err = inflated(packed)
	}
	return f, err == nil && (f.kind == question || f.kind == answer)
}

// frames hands over the frames of one kind until r ends, and what else there was, line by line, to noise if that is not nil.
func frames(r io.Reader, k kind, each func(frame), noise func(line []byte)) error {
	b := bufio.NewReaderSize(r, 1<<16)
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		if len(line)+len(part) <= maxLine { // longer ones are damaged: they lose their end, and their checksum with it
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if f, ok := parse(line); ok && f.kind == k {
			each(f)
		} else if noise != nil && len(bytes.TrimSpace(line)) > 0 {
			noise(line)
		}
		line = line[:0]
		if err != nil {
			return err
		}
	}
}

// write writes a frame and what is to come behind it.
func (f frame) write(w io.Writer, pad []byte) error {
	_, err := w.Write(append(f.line(), pad...))
	return err
}

// writer writes frames of many goroutines, each whole.
type writer struct {
	mu  sync.Mutex
	w   io.Writer
	pad []byte
}

func (w *writer) write(f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return f.write(w.w, w.pad)
}

// Handler carries out one method. Its result is sent as JSON.
type Handler func(ctx context.Context, params json.RawMessage) (result any, err error)

// Handle is a handler with parameters of a type. Unknown parameters are refused.
func Handle[P any](f func(context.Context, P) (any, error)) Handler {
	return func(ctx context.Context, params json.RawMessage) (any, error) {
		var p P
		if len(params) > 0 {
			d := json.NewDecoder(bytes.NewReader(params))
			d.DisallowUnknownFields()
			if err := d.Decode(&p); err != nil {
				return nil, fmt.Errorf("parameters: %w", err)
			}
		}
		return f(ctx, p)
	}
}

// remembered is how many answers a server keeps for requests that come again.
const remembered = 64

// server is the device's side of a connection.
type server struct {
	handlers map[string]Handler
	out      writer

	mu    sync.Mutex
	known map[id]*frame // the answer; nil while it is worked on
	order []id
	wait  sync.WaitGroup
}

// Serve carries out requests, side by side, until the connection ends or ctx does, which must end the connection. pad is sent
// behind every frame.
func Serve(ctx context.Context, conn io.ReadWriter, handlers map[string]Handler, pad []byte) error {
	s := &server{handlers: handlers, out: writer{w: conn, pad: pad}, known: map[id]*frame{}}
	ctx, cancel := context.WithCancel(ctx)
	defer s.wait.Wait()
	defer cancel()
	err := frames(conn, question, func(f frame) { s.take(ctx, f) }, nil)
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("agent: connection: %w", err)
}

// take carries out a request that is new, and answers one that is done again.
func (s *server) take(ctx context.Context, f frame) {
	s.mu.Lock()
	done, known := s.known[f.id]
	if !known {
		s.known[f.id] = nil
		s.order = append(s.order, f.id)
		if len(s.order) > remembered {
			delete(s.known, s.order[0])
			s.order = s.order[1:]
		}
	}
	s.mu.Unlock()
	if known {
		if done != nil {
			s.out.write(*done)
		}
		return
	}
	s.wait.Go(func() {
		a := frame{answer, f.id, s.carryOut(ctx, f.payload)}
		s.mu.Lock()
		if _, still := s.known[f.id]; still {
			s.known[f.id] = &a
		}
		s.mu.Unlock()
		s.out.write(a) // if it is lost, it is asked for again
	})
}

func (s *server) carryOut(ctx context.Context, payload []byte) []byte {
	var q request
	var r reply
	err := json.Unmarshal(payload, &q)
	if err == nil {
		var result any
		if h, ok := s.handlers[q.Method]; !ok {
			err = fmt.Errorf("unknown method %q", q.Method)
		} else if result, err = h(ctx, q.Params); err == nil {
			r.Result, err = json.Marshal(result)
		}
	}
	if err != nil {
		r = reply{Error: err.Error()}
		if r.Error == "" {
			r.Error = "unknown error"
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // raw JSON and a string
	}
	return text
}
