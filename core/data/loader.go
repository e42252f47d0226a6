package data

import (
	"context"
	"fmt"
	"iter"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// Augment chooses the random changes of training images.
type Augment struct {
	Pad  int  // pixels of the training mean added on every side before a random crop; the paper has 0, 4 and 8
	Flip bool // mirror half of the images; the paper does so for ImageNet only
	// Resized shows random parts of 8 to 100 % of an image, scaled to the size (random-resized-crop), in place of random crops.
	// The paper's text has the latter for ImageNet, its program this.
	Resized bool
}

// Loader serves images in batches, normalised: (value/255 - mean)/std, so that padding with the mean is padding with 0.
//
// Every number it draws is a function of seed, epoch and place in the epoch, so that the batches are the same for any
// number of workers and an epoch can be entered at any batch.
type Loader struct {
	Images *Images
	Size   int // rows and columns of the batch's images; at most the images' own plus twice the padding
	Batch  int // images a batch; the last batch of an epoch may have fewer
	// Reps shows every image that many times, next to each other in a batch and each time differently augmented, so
	// that a batch has Batch/Reps different images. 0 means 1.
	Reps    int
	Augment Augment
	Stats   Stats
	Seed    uint64
	Workers int // goroutines that fill batches; 0 means 1
	Ahead   int // batches filled ahead of the one in use; 0 means 2
}

// Check returns an error that names the first setting out of range.
func (l *Loader) Check() error {
	s := l.Images.Shape
	switch reps := l.reps(); {
	case l.Images.Len() == 0:
		return fmt.Errorf("data: no images")
	case l.Batch < 1:
		return fmt.Errorf("data: batch size %d is below 1", l.Batch)
	case l.Reps < 0 || l.Batch%reps != 0:
		return fmt.Errorf("data: %d repetitions do not divide a batch of %d", l.Reps, l.Batch)
	case l.Augment.Pad < 0:
		return fmt.Errorf("data: padding %d is below 0", l.Augment.Pad)
	case l.Augment.Resized && l.Augment.Pad > 0:
		return fmt.Errorf("data: resized crops do not reach into a padding of %d", l.Augment.Pad)
	case l.Size < 1 || l.Size > s.H+2*l.Augment.Pad || l.Size > s.W+2*l.Augment.Pad:
		return fmt.Errorf("data: cannot crop %dx%d from images of %dx%d padded by %d", l.Size, l.Size, s.H, s.W, l.Augment.Pad)
	}
	return l.Stats.Check()
}

func (l *Loader) reps() int { return max(1, l.Reps) }

// ahead is how many batches are filled ahead.
func (l *Loader) ahead() int {
	if l.Ahead == 0 {
		return 2
	}
	return l.Ahead
}

// BufferBytes is the memory of the batches under way: the one in use and those ahead.
func (l *Loader) BufferBytes() int64 {
	const size = 4 // of a float32 and of a label
	return int64(l.ahead()+1) * int64(l.Batch) * int64(l.shape().Len()+1) * size
}

// Batches is the number of batches an epoch.
func (l *Loader) Batches() int {
	return (l.Images.Len()*l.reps() + l.Batch - 1) / l.Batch
}

// Minibatch is one batch. It is valid until the next one is asked for.
type Minibatch struct {
	Index  int   // in the epoch, from 0
	Err    error // why images of a cache cannot be read: then X has none, which engines refuse, and the batch is the last one
	X      core.Batch
	Labels core.Labels
}

// Epoch yields the batches of an epoch from the given index on, shuffled and augmented. It ends early with ctx.
func (l *Loader) Epoch(ctx context.Context, epoch, from int) iter.Seq[Minibatch] {
	order := rng.New(l.Seed, rng.Shuffle, uint64(epoch)).Perm(l.Images.Len())
	v := &view{Loader: l, order: order, pad: l.Augment.Pad, random: true, value: l.Stats.table(),
		crop: rng.New(l.Seed, rng.Crop, uint64(epoch)), flip: rng.New(l.Seed, rng.Flip, uint64(epoch))}
	return v.batches(ctx, from, l.Batches())
}

// InOrder yields all images once, in their order, cut from the centre (or padded, where they are smaller) and without
// augmentation: for evaluation. Reps and Augment do not count.
func (l *Loader) InOrder(ctx context.Context) iter.Seq[Minibatch] {
	order := make([]int, l.Images.Len())
	for i := range order {
		order[i] = i
	}
	plain := *l
	plain.Reps = 1
	v := &view{Loader: &plain, order: order, value: l.Stats.table()}
	return v.batches(ctx, 0, plain.Batches())
}

// view is one passage through the images.
type view struct {
	*Loader
	order      []int
	pad        int
	random     bool
	value      [3][256]float32 // normalised, by channel and byte
	crop, flip rng.Stream
}

// batches fills batches ahead of the consumer and yields them in order. Buffers go round: as many exist as batches
// can be under way.
func (v *view) batches(ctx context.Context, from, to int) iter.Seq[Minibatch] {
	return func(yield func(Minibatch) bool) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		workers, ahead := max(1, v.Workers), v.ahead()
		type job struct {
			index int
			buf   Minibatch
			done  chan Minibatch
		}
		jobs := make(chan job)
		queue := make(chan chan Minibatch, ahead)
		buffers := make(chan Minibatch, ahead+1)
		for range ahead + 1 {
			buffers <- Minibatch{
				X:      core.Batch{Pixels: make([]float32, v.Batch*v.shape().Len())},
				Labels: make(core.Labels, v.Batch),
			}
		}
		for range workers {
			go func() {
				for j := range jobs {
					j.done <- v.fill(j.buf, j.index)
				}
			}()
		}
		go func() {
			defer close(jobs)
			defer close(queue)
			for i := from; i < to; i++ {
				select {
				case <-ctx.Done():
					return
				case buf := <-buffers:
					done := make(chan Minibatch, 1)
					jobs <- job{i, buf, done}
					queue <- done
				}
			}
		}()
		for done := range queue {
			m := <-done
			if ctx.Err() != nil || !yield(m) || m.Err != nil {
				return
			}
			buffers <- Minibatch{X: core.Batch{Pixels: m.X.Pixels[:cap(m.X.Pixels)]}, Labels: m.Labels[:cap(m.Labels)]}
		}
	}
}

// shape is the shape of a batch's images.
func (l *Loader) shape() net.Shape { return net.Shape{H: l.Size, W: l.Size, C: 3} }

// fill makes batch index in the buffer.
func (v *view) fill(m Minibatch, index int) Minibatch {
	first := index * v.Batch
	n := min(v.Batch, len(v.order)*v.reps()-first)
	m.Index = index
	m.X.N = n
	m.X.Pixels = m.X.Pixels[:n*v.shape().Len()]
	m.Labels = m.Labels[:n]
	var buf []uint8
	for i := range n {
		draw := first + i // counts the images shown in the epoch
		image := v.order[draw/v.reps()]
		m.Labels[i] = v.Images.Labels[image]
		pixels, shape, err := v.Images.read(image, buf)
		if err != nil {
			return Minibatch{Index: index, Err: err}
		}
		if v.Images.cache != nil {
			buf = pixels
		}
		dst := m.X.Pixels[i*v.shape().Len() : (i+1)*v.shape().Len()]
		mirror := v.random && v.Augment.Flip && v.flip.Intn(uint64(draw), 2) == 1
		if v.random && v.Augment.Resized {
			v.resized(dst, pixels, shape, v.part(uint64(draw), shape), mirror)
			continue
		}
		row, col := v.place(uint64(draw), shape)
		v.crops(dst, pixels, shape, row, col, mirror)
	}
	return m
}

// place is where in the padded image the crop begins.
func (v *view) place(draw uint64, s net.Shape) (row, col int) {
	rows, cols := s.H+2*v.pad-v.Size, s.W+2*v.pad-v.Size
	if !v.random {
		return rows / 2, cols / 2
	}
	return v.crop.Intn(2*draw, rows+1), v.crop.Intn(2*draw+1, cols+1)
}

// crops writes the crop that begins at (row, col) of the padded image, normalised; the padding is 0.
func (v *view) crops(dst []float32, src []uint8, s net.Shape, row, col int, mirror bool) {
	for i := range v.Size {
		for j := range v.Size {
			at := (i*v.Size + j) * 3
			if mirror {
				at = (i*v.Size + v.Size - 1 - j) * 3
			}
			y, x := row+i-v.pad, col+j-v.pad
			if y < 0 || y >= s.H || x < 0 || x >= s.W {
				dst[at], dst[at+1], dst[at+2] = 0, 0, 0
				continue
			}
			from := (y*s.W + x) * 3
			for c := range 3 {
				dst[at+c] = v.value[c][src[from+c]]
			}
		}
	}
}
