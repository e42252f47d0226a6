#!/usr/bin/env python3
"""The convolutional ResNet20 in PyTorch on the CPU, as a peer of hypnos bench speed (docs/performance.md).

The network is that of `hypnos summary resnet20`: a 3x3 stem, three stages of three basic blocks with 16, 32 and 64
channels, batch norm behind every convolution, no biases, a 1x1 convolution with batch norm as the shortcut where the
shape changes, average pool, linear layer. One line of JSON for a training step (forward, mean cross-entropy, backward,
AdamW) at each batch size, and one for inference of a single image.

Everything is measured with images and weights in the default layout and in channels_last, in alternation; a line
tells the faster, and both times.
"""
import argparse
import copy
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return functional.relu(y, inplace=True)


class ResNet20(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(3):
                blocks.append(Block(channels, width, stride if i == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)), inplace=True)
        return self.linear(self.blocks(x).mean((2, 3)))


LAYOUTS = {'default': torch.contiguous_format, 'channels_last': torch.channels_last}


def medians(works, budget, least=5):
    """Milliseconds of works, measured in alternation: medians, after two unmeasured calls of each."""
    for work in works:
        work()
        work()
    times = [[] for _ in works]
    end = time.perf_counter() + budget * len(works)
    while len(times[0]) < least or time.perf_counter() < end:
        for work, taken in zip(works, times):
            start = time.perf_counter()
            work()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(t) for t in times], len(times[0])


def line(what, batch, threads, params, make, budget):
    """Prints the faster of the layouts."""
    ms, n = medians([make(layout) for layout in LAYOUTS.values()], budget)
    both = dict(zip(LAYOUTS, ms))
    layout = min(both, key=both.get)
    row = dict(impl='torch conv', net='r20', what=what, batch=batch, threads=threads, ms=both[layout], layout=layout, n=n, params=params,
               images_per_s=1e3 * batch / both[layout], torch=torch.__version__, **{'ms_' + k: v for k, v in both.items()})
    print(json.dumps(row), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--batches', default='64,128', help='of training, with commas between')
    p.add_argument('--budget', type=float, default=2.0, help='seconds to measure each layout of each line')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    net = ResNet20()
    params = sum(q.numel() for q in net.parameters())

    def training(batch):
        def make(layout):
            own = copy.deepcopy(net).to(memory_format=layout).train()
            optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, weight_decay=1e-4)
            images = torch.randn(batch, 3, 32, 32).to(memory_format=layout)
            labels = torch.arange(batch) % 10

            def step():
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(own(images), labels).backward()
                optimizer.step()
            return step
        return make

    def inference(layout):
        own = copy.deepcopy(net).to(memory_format=layout).eval()
        image = torch.randn(1, 3, 32, 32).to(memory_format=layout)

        def infer():
            with torch.inference_mode():
                own(image)
        return infer

    for batch in map(int, a.batches.split(',')):
        line('train_step_AdamW', batch, a.threads, params, training(batch), a.budget)
    line('inference', 1, a.threads, params, inference, a.budget / 2)


if __name__ == '__main__':
    main()
