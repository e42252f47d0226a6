package brain

import (
	"time"

	"hypnos/server/store"
)

// journal makes entries durable in a goroutine of its own, all that wait together.
type journal struct {
	store   *store.Store
	queue   chan entry
	changed func(err error) // called when appending begins to fail or to work
}

// entry is an entry with who waits for it. Without an entry, it only waits for those before.
type entry struct {
	store.Entry
	done func(err error)
}

// retryEvery is how long what failed waits for the disk, unless something is learned.
const retryEvery = time.Second

// maxGroup is how many entries are made durable together.
const maxGroup = 64

func newJournal(s *store.Store, changed func(error)) *journal {
	return &journal{store: s, queue: make(chan entry, maxGroup), changed: changed}
}

func (j *journal) close() { close(j.queue) }

// run appends until close.
func (j *journal) run() {
	var failed error
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		var group []entry
		select {
		case e, more := <-j.queue:
			if !more {
				return
			}
			group = append(group, e)
			for len(group) < maxGroup && len(j.queue) > 0 {
				group = append(group, <-j.queue)
			}
		case <-retry.C:
			if failed == nil {
				continue
			}
		}
		var entries []store.Entry
		for _, e := range group {
			if e.Entry != nil {
				entries = append(entries, e.Entry)
			}
		}
		var err error
		if len(entries) > 0 || failed != nil {
			_, err = j.store.Append(entries...)
			if (err == nil) != (failed == nil) {
				j.changed(err)
			}
			failed = err
		}
		for _, e := range group {
			if e.done != nil {
				e.done(err)
			}
		}
	}
}

// flush waits for everything before.
func (j *journal) flush() {
	done := make(chan struct{})
	j.queue <- entry{done: func(error) { close(done) }}
	<-done
}
