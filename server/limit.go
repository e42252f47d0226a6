package server

import (
	"sync"
	"time"
)

// buckets count the requests of each client: a token bucket a client, filled with rate tokens a second up to burst.
type buckets struct {
	rate, burst float64

	mu  sync.Mutex
	all map[string]bucket
}

// bucket is how many tokens there were, and when.
type bucket struct {
	tokens float64
	at     time.Time
}

// maxClients bounds how many clients are remembered.
const maxClients = 4096

func newBuckets(rate float64, burst int) *buckets {
	return &buckets{rate: rate, burst: float64(burst), all: map[string]bucket{}}
}

// take takes a token of a client, and tells whether there was one.
func (b *buckets) take(client string, now time.Time) bool {
	if b.rate == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	tokens := b.burst
	if old, known := b.all[client]; known {
		tokens = b.filled(old, now)
	} else if len(b.all) >= maxClients {
		b.forget(now)
	}
	enough := tokens >= 1
	if enough {
		tokens--
	}
	b.all[client] = bucket{tokens, now}
	return enough
}

func (b *buckets) filled(old bucket, now time.Time) float64 {
	return min(b.burst, old.tokens+b.rate*max(0, now.Sub(old.at).Seconds()))
}

// forget drops the clients whose buckets are full again, which changes nothing; when there are none, any one.
func (b *buckets) forget(now time.Time) {
	for client, old := range b.all {
		if b.filled(old, now) >= b.burst {
			delete(b.all, client)
		}
	}
	for client := range b.all {
		if len(b.all) < maxClients {
			return
		}
		delete(b.all, client)
	}
}
