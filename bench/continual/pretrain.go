package continual

import (
	"context"
	"errors"

	"hypnos/bench/experiment"
	"hypnos/core/data"
	"hypnos/core/optim"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

// PretrainConfig is the network of the default: a locally connected ResNet8 of width 8 that sleeps every 10 steps, trained as
// the demonstration's.
func PretrainConfig(seed uint64, epochs int) experiment.Config {
	c := experiment.Default()
	c.Name, c.Seed = "continual", seed
	c.Data.Pad = 1
	c.Network.Name, c.Network.Width = "resnet8-lc", 8
	c.Train.Batch, c.Train.Epochs, c.Train.Drops = 64, epochs, []int{}
	if epochs >= 4 {
		c.Train.Drops = []int{epochs / 2, epochs * 3 / 4}
	}
	c.Train.Optimizer, c.Train.LR, c.Train.WeightDecay = optim.SGD, 0.3, 5e-4
	c.Train.EvalEvery, c.Train.SaveEvery = epochs, 0
	c.Sleep.Every = 10
	return c
}

// Pretrain trains a network on the images of all classes but the last so many of a data set, lets it sleep, and makes a
// subject of it. It has outputs for all classes.
func Pretrain(ctx context.Context, c experiment.Config, d *data.Dataset, unknown int) (Subject, error) {
	known := len(d.Classes) - unknown
	if known < 2 {
		return Subject{}, errors.New("continual: fewer than two classes to train on beforehand")
	}
	part := *d
	stats := data.ComputeStats(d.Train)
	original := Task{Kind: Original}
	part.Train = original.images(d.Train, known, len(d.Classes), stats, 0, 0)
	part.Test = original.images(d.Test, known, len(d.Classes), stats, 0, 0)
	x, err := experiment.Open(c, &part)
	if err != nil {
		return Subject{}, err
	}
	defer x.Close()
	x.Loop.Observe = func(any) error { return nil }
	x.Loop.Save = func(train.State) error { return nil }
	if _, err := x.Loop.Run(ctx, train.State{}); err != nil {
		return Subject{}, err
	}
	if _, err := x.Engine.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}); err != nil {
		return Subject{}, err
	}
	p, err := x.Engine.Save()
	if err != nil {
		return Subject{}, err
	}
	return NewSubject(ctx, x.Net, p, d, x.Stats, known)
}
