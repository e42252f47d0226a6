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
	Crops  []core.Crop // of Crops, whose X has a number of images and no pixels
}

// Epoch yields the batches of an epoch from the given index on, shuffled and augmented. It ends early with ctx.
func (l *Loader) Epoch(ctx context.Context, epoch, from int) iter.Seq[Minibatch] {
	return l.epoch(epoch).batches(ctx, from, l.Batches())
}

// Kept returns the images as a core.Keeper takes them; false for those of which no crops make batches: images in a cache, and where
// crops are resized.
func (l *Loader) Kept() (core.Images, bool) {
	table := l.Stats.table()
	return core.Images{Shape: l.Images.Shape, Pixels: l.Images.Pixels, Values: table[:]}, l.Images.cache == nil && !l.Augment.Resized
}

// Crops yields the batches of Epoch as crops of the images that Kept returns: Cut makes the same numbers of them.
func (l *Loader) Crops(ctx context.Context, epoch, from int) iter.Seq[Minibatch] {
	return func(yield func(Minibatch) bool) {
		v := l.epoch(epoch)
		labels, crops := make(core.Labels, l.Batch), make([]core.Crop, l.Batch)
		for index := from; index < l.Batches() && ctx.Err() == nil; index++ {
			n := v.count(index)
			for i := range n {
				draw, image := v.shown(index, i)
				labels[i], crops[i] = l.Images.Labels[image], v.place(image, draw, l.Images.Shape)
			}
			if !yield(Minibatch{Index: index, X: core.Batch{N: n}, Labels: labels[:n], Crops: crops[:n]}) {
				return
			}
		}
	}
}

// epoch is the passage of an epoch.
func (l *Loader) epoch(epoch int) *view {
	order := rng.New(l.Seed, rng.Shuffle, uint64(epoch)).Perm(l.Images.Len())
	return &view{Loader: l, order: order, pad: l.Augment.Pad, random: true, value: l.Stats.table(),
		crop: rng.New(l.Seed, rng.Crop, uint64(epoch)), flip: rng.New(l.Seed, rng.Flip, uint64(epoch))}
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
	m.Index = index
	m.X.N = v.count(index)
	m.X.Pixels = m.X.Pixels[:m.X.N*v.shape().Len()]
	m.Labels = m.Labels[:m.X.N]
	var buf []uint8
	for i := range m.X.N {
		draw, image := v.shown(index, i)
		m.Labels[i] = v.Images.Labels[image]
		pixels, shape, err := v.Images.read(image, buf)
		if err != nil {
			return Minibatch{Index: index, Err: err}
		}
		if v.Images.cache != nil {
			buf = pixels
		}
		dst := m.X.Pixels[i*v.shape().Len() : (i+1)*v.shape().Len()]
		if v.random && v.Augment.Resized {
			v.resized(dst, pixels, shape, v.part(draw, shape), v.mirror(draw))
			continue
		}
		core.Images{Shape: shape, Pixels: pixels, Values: v.value[:]}.Cut(dst, v.shape(), v.place(0, draw, shape))
	}
	return m
}

// count is the number of images in a batch.
func (v *view) count(index int) int { return min(v.Batch, len(v.order)*v.reps()-index*v.Batch) }

// shown is the i-th image of a batch, and its place among all that the epoch shows, which keys what is drawn for it.
func (v *view) shown(index, i int) (draw uint64, image int) {
	at := index*v.Batch + i
	return uint64(at), v.order[at/v.reps()]
}

// mirror draws whether an image is turned left to right.
func (v *view) mirror(draw uint64) bool {
	return v.random && v.Augment.Flip && v.flip.Intn(draw, 2) == 1
}

// place draws what is shown of an image of a shape, padded.
func (v *view) place(image int, draw uint64, s net.Shape) core.Crop {
	rows, cols := s.H+2*v.pad-v.Size, s.W+2*v.pad-v.Size
	if !v.random {
		return core.Crop{Image: image, Row: rows/2 - v.pad, Col: cols/2 - v.pad}
	}
	return core.Crop{
		Image: image, Row: v.crop.Intn(2*draw, rows+1) - v.pad, Col: v.crop.Intn(2*draw+1, cols+1) - v.pad, Mirror: v.mirror(draw),
	}
}
