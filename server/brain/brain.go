// Package brain is the one owner of a board's network: it classifies, learns from labelled feedback, sleeps when the
// governor says so, keeps what it learned, and changes models.
//
// One goroutine, Run, holds the engine and goes from one piece of work to the next: requests to classify first, then what
// was learned, then sleep. A request that arrives in a sleep ends it between two groups of neurons (core.Engine.Sleep);
// the governor has it go on later from where it stopped.
//
// All other methods may be called from any goroutine. Images are decoded on the caller's. An error is an *Error with a
// Code, or the context's.
//
//	Classify(context.Context, Image) (Result, error)
//	Learn(ctx context.Context, x Image, label int) (Ack, error)    waits until the step is durable, or is known not to be
//	Sleep(context.Context, SleepRequest) (Mood, error)             what the governor makes of it
//	Wake(ctx context.Context, reason string) (Mood, error)
//	Status() Status
//	Subscribe(buffer int) (events <-chan Event, cancel func())     what a full buffer cannot hold is missed
//	Upload(context.Context, io.Reader) (Model, error)              verified, and durable in the slot that is not in use
//	Activate(context.Context) (Model, error)                       on trial: golden vectors, then the health window
//	Rollback(ctx context.Context, reason string) (Model, error)
//	Export(context.Context, io.Writer) error                       the model with what it learned, as a package
package brain
