package brain

import (
	"errors"
	"fmt"
	"time"

	"hypnos/core/sleep"
)

// Media types of images.
const (
	JPEG   = "image/jpeg"
	PNG    = "image/png"
	Tensor = "application/octet-stream"
)

// Image is an image as it was sent.
//
// JPEG and PNG: the shorter side is scaled to the network's input (bilinear, anti-aliased), then the centre is cut out, as
// in training (data.FitResize); pixels are normalised with the package's statistics.
//
// Tensor: (H, W, 3) in the network's own size, R, G, B: as many bytes of 0 to 255, normalised likewise; or four times as
// many, float32 in little-endian order, normalised already and finite.
type Image struct {
	Type string // a media type of the above
	Data []byte
}

// Result is what the network says of an image.
type Result struct {
	Label  int     `json:"label"`  // of the largest output; of equal ones the first
	Class  string  `json:"class"`  // its name
	Scores []Score `json:"scores"` // the five largest, in order
	// Logits are the outputs, by label, exact values of the network's integers.
	Logits []float64 `json:"logits"`
	// Version is that of the model's package, Step how many images it had learned from.
	Version uint64 `json:"version"`
	Step    int64  `json:"step"`
	// Waited is the time until the engine was free, Took the network's own.
	Waited time.Duration `json:"waited_ns"`
	Took   time.Duration `json:"took_ns"`
}

// Score is a class with its probability, softmax(logits).
type Score struct {
	Label       int     `json:"label"`
	Class       string  `json:"class"`
	Probability float64 `json:"probability"`
}

// Ack acknowledges a wake step: the network has learned from the image.
type Ack struct {
	Step    int64   `json:"step"`    // its number, from 1, of this model
	Correct bool    `json:"correct"` // whether the network gave the label before it learned
	Loss    float64 `json:"loss"`    // cross-entropy before it learned, nats
	// Durable tells that the step outlives a loss of power from now on. Otherwise Reason says why not; the step is
	// durable with the next snapshot that succeeds.
	Durable bool   `json:"durable"`
	Reason  string `json:"reason,omitempty"`
}

// SleepRequest asks for a sleep.
type SleepRequest struct {
	Source string `json:"source"` // who asks, for the record: "api", "pin"
}

// Mood is the state of the governor.
type Mood struct {
	State  string    `json:"state"` // "awake", "drowsy" (a sleep is due but put off) or "asleep"
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	// Next is when the governor expects to change it; zero when it waits for something else than time.
	Next time.Time `json:"next,omitzero"`
}

// Status is all that there is to know, at one moment.
type Status struct {
	Mood
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"` // of the daemon
	// Step counts the images that the model learned from, StepsSinceSleep those after its last whole sleep.
	Step            int64 `json:"step"`
	StepsSinceSleep int64 `json:"steps_since_sleep"`
	Queued          int   `json:"queued"` // learn requests that wait
	QueueLimit      int   `json:"queue_limit"`

	Model  Model   `json:"model"`  // in use
	Models []Model `json:"models"` // of the two slots, as far as they are filled

	Layers     []sleep.LayerReport `json:"layers"` // as last measured; After is set when that was in a sleep
	Measured   time.Time           `json:"measured,omitzero"`
	Sleeps     []Sleep             `json:"sleeps"` // the last ones, the latest at the end
	Readings   []Reading           `json:"readings"`
	Feedback   Feedback            `json:"feedback"`
	Durability Durability          `json:"durability"`
	Counters   Counters            `json:"counters"`
}

// Model is a package in a slot.
type Model struct {
	Slot    string   `json:"slot"` // "a" or "b"
	State   string   `json:"state"`
	Reason  string   `json:"reason,omitempty"` // of the state, where there is one: why it was returned from
	Version uint64   `json:"version"`
	Network string   `json:"network"`
	Classes []string `json:"classes,omitempty"`
	Input   [3]int   `json:"input"`         // H, W, C
	Digest  string   `json:"digest"`        // SHA-256 of the package's parameters
	Key     string   `json:"key,omitempty"` // id of the key that signed it
}

// States of a Model.
const (
	Active   = "active"   // in use
	Trial    = "trial"    // in use, until its health window has passed
	Uploaded = "uploaded" // verified, to be activated
	Previous = "previous" // was in use; rollback returns to it
	Returned = "returned" // was tried and returned from
)

// Sleep is one sleep, with its interruptions.
type Sleep struct {
	Began    time.Time           `json:"began"`
	Ended    time.Time           `json:"ended,omitzero"`    // zero as long as it is not over
	Reason   string              `json:"reason"`            // why it began
	Stopped  string              `json:"stopped,omitempty"` // why it was last interrupted; empty when it came to its end
	Rule     string              `json:"rule"`
	Asleep   time.Duration       `json:"asleep_ns"` // without interruptions
	Parts    int                 `json:"parts"`     // 1 and the number of times that it went on
	Layers   []sleep.LayerReport `json:"layers"`
	Complete bool                `json:"complete"`
}

// Reading is what a sensor gives.
type Reading struct {
	Name   string    `json:"name"` // "temperature", "voltage", "current"
	Unit   string    `json:"unit"` // "°C", "V", "A"
	Value  *float64  `json:"value"`
	At     time.Time `json:"at,omitzero"`
	Absent string    `json:"absent,omitempty"` // why there is no such sensor
	Error  string    `json:"error,omitempty"`  // why it could not be read last
}

// Feedback tells how often the network gave the label of a learn request before it learned from it.
type Feedback struct {
	Count   int64   `json:"count"`   // since the daemon started
	Correct int64   `json:"correct"` // of Count
	Recent  int     `json:"recent"`  // of the last ones, at most 100
	Share   float64 `json:"share"`   // of Recent that were correct; 0 without any
}

// Durability tells whether what is learned outlives a loss of power.
type Durability struct {
	Durable  bool      `json:"durable"`
	Reason   string    `json:"reason,omitempty"` // why not
	Snapshot int64     `json:"snapshot"`         // step of the last snapshot
	At       time.Time `json:"at,omitzero"`      // of the last snapshot
	Journal  int64     `json:"journal"`          // records since
	Free     *float64  `json:"free_bytes"`       // of the data directory
}

// Counters count since the daemon started.
type Counters struct {
	Classified   int64            `json:"classified"`
	Learned      int64            `json:"learned"`
	Refused      map[string]int64 `json:"refused"` // by Code
	Sleeps       int64            `json:"sleeps"`  // that came to their end
	Interrupted  int64            `json:"sleeps_interrupted"`
	Snapshots    int64            `json:"snapshots"`
	StoreErrors  int64            `json:"store_errors"`
	EventsMissed int64            `json:"events_missed"` // by subscribers that were too slow
}

// Event is something that happened. Which fields are set depends on Kind.
type Event struct {
	ID   uint64    `json:"id"` // counts from 1 since the daemon started
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	// Text is for people: one line.
	Text  string `json:"text"`
	Mood  *Mood  `json:"mood,omitempty"`
	Sleep *Sleep `json:"sleep,omitempty"`
	Model *Model `json:"model,omitempty"`
	Learn *Ack   `json:"learn,omitempty"`
}

// Kinds of Event.
const (
	EventMood   = "mood"   // the governor changed its mind: Mood
	EventSleep  = "sleep"  // a sleep began, was interrupted, went on or ended: Sleep
	EventLearn  = "learn"  // a wake step: Learn
	EventModel  = "model"  // a slot changed: Model
	EventStore  = "store"  // learning became durable, or is no longer
	EventSensor = "sensor" // a sensor failed, or is back
)

// Code is the machine-readable kind of an Error.
type Code string

// Codes.
const (
	CodeImageType    Code = "image_type"      // a media type that is none of Image's
	CodeImageTooLong Code = "image_too_large" // more bytes than Config allows
	CodeImagePixels  Code = "image_pixels"    // more pixels than Config allows, by the image's header
	CodeImageBroken  Code = "image_unreadable"
	CodeTensor       Code = "tensor_shape" // of another length, or not finite
	CodeLabel        Code = "label_unknown"
	CodeBusy         Code = "busy"              // the queue of learn requests is full, or another export or upload runs
	CodeNotDurable   Code = "not_durable"       // learning is refused because it would not be durable (Config)
	CodeNoModel      Code = "no_model"          // there is no model in use, nor one to activate or to return to
	CodeStopping     Code = "stopping"          // the daemon ends
	CodePackage      Code = "package_invalid"   // not a package, or damaged
	CodeSignature    Code = "package_signature" // unsigned, or its signature is wrong
	CodeKey          Code = "package_key"       // signed by a key that is not trusted
	CodeDowngrade    Code = "package_downgrade" // its version was seen before, or is below one that was
	CodeBoard        Code = "package_board"     // for another board, runtime or arithmetic
	CodeTrial        Code = "package_trial"     // it failed its trial: the model before is in use again
	CodeStorage      Code = "storage"           // the data directory is full, read-only or broken
	CodeInternal     Code = "internal"
)

// Error is why a request was refused. Nothing has changed.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// CodeOf is the code of an error: CodeInternal when it has none, "" for nil. (A context's end has none either: nobody
// waits for the answer any more.)
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return CodeInternal
}

func refuse(c Code, format string, args ...any) *Error {
	return &Error{c, fmt.Errorf("brain: "+format, args...)}
}

// ErrBusy is returned by Learn when its queue is full.
var ErrBusy error = refuse(CodeBusy, "the queue of learn requests is full: try again later")
