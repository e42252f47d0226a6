package experiment

import (
	"fmt"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/net"
)

// Feed tells where the batches of training images are made, of a backend that can keep images where it computes.
type Feed struct {
	Bytes int64  `json:"bytes"`         // of the images
	Kept  bool   `json:"kept"`          // there; otherwise on the host
	Why   string `json:"why,omitempty"` // not there
}

// String is one line for people.
func (f Feed) String() string {
	mb := float64(f.Bytes) / 1e6
	if f.Kept {
		return fmt.Sprintf("training images stay on the device: %.1f MB", mb)
	}
	return "training images come from the host: " + f.Why
}

// PlanFeed plans whether an engine keeps so many bytes of training images, and returns its options with the room for them. Of a
// backend that keeps none, or for inference, there is nothing to tell. Images are kept where the plan with them leaves an eighth of
// the free memory over.
func PlanFeed(b core.Backend, n *net.Network, o core.Options, bytes int64) (core.Options, *Feed, error) {
	with := o
	with.Keep = max(1, bytes)
	m, err := b.Memory(n, with)
	switch {
	case err != nil:
		return o, nil, err
	case m.Images == 0:
		return o, nil, nil
	case m.FitsAmply():
		return with, &Feed{Bytes: bytes, Kept: true}, nil
	}
	why := fmt.Sprintf("their %.1f MB do not fit beside the %.1f MB of the plan with an eighth of the %.1f MB that are free left over",
		float64(m.Images)/1e6, float64(m.Total()-m.Images)/1e6, float64(m.Free)/1e6)
	return o, &Feed{Bytes: bytes, Why: why}, nil
}

// planFeed is PlanFeed for the images of a loader, some of which only the host can make batches of.
func planFeed(b core.Backend, n *net.Network, o core.Options, l *data.Loader) (core.Options, *Feed, error) {
	images, can := l.Kept()
	with, feed, err := PlanFeed(b, n, o, int64(len(images.Pixels)))
	if feed == nil || can {
		return with, feed, err
	}
	why := "they are in a cache"
	if l.Augment.Resized {
		why = "resized crops are made there"
	}
	return o, &Feed{Bytes: feed.Bytes, Why: why}, nil
}
