#!/usr/bin/env python3
"""The same work in PyTorch on the same GPU, for ./check --peer: a line of JSON for each row and form, with the name of the
row, the form and the milliseconds.

Forms: plain is how one would write it first, strong as well as PyTorch allows. AdamW: one operation after the other, and
fused in one kernel. Instant sleep: indices of each grid, and strided views of weights that have their locations outermost.
"""
import argparse
import json
import statistics
import time

import torch

LAYERS = {  # name: positions of a side, output channels · 9 · input channels
    'cifar 16x32x32': (32, 16 * 9 * 16), 'cifar 32x16x16': (16, 32 * 9 * 32), 'cifar 64x8x8': (8, 64 * 9 * 64),
    'imagenet 32x56x56': (56, 32 * 9 * 32), 'imagenet 64x28x28': (28, 64 * 9 * 64),
    'imagenet 128x14x14': (14, 128 * 9 * 128), 'imagenet 256x7x7': (7, 256 * 9 * 256),
}
SMALL = {'small': (4, 36), 'odd': (5, 27)}


def milliseconds(work, device, samples):
    """Median of so many runs of a few calls each, after one that warms up; on a GPU between two events."""
    calls, times = 10, []
    for _ in range(samples + 1):
        if device == 'cuda':
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(calls):
                work()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / calls)
        else:
            start = time.perf_counter()
            for _ in range(calls):
                work()
            times.append((time.perf_counter() - start) * 1e3 / calls)
    return statistics.median(times[1:])


def adam(form, positions, elements, device):
    w = torch.nn.Parameter(torch.rand(positions ** 2 * elements, device=device))
    w.grad = torch.rand_like(w)
    if form == 'strong':
        options = {'fused': True} if device == 'cuda' and torch.__version__ >= '2' else {'foreach': True}
    else:
        options = {'foreach': False}
    return torch.optim.AdamW([w], lr=1e-3, **options).step


def sleep(form, side, elements, device):
    w = torch.rand(side * side, elements, device=device)
    place = torch.arange(side * side, device=device).view(side, side)
    grids = [place[i::3, j::3].reshape(-1) for i in range(3) for j in range(3)]

    def plain():
        for g in grids:
            w[g] = w[g].mean(0, keepdim=True).expand(len(g), -1)

    def strong():
        v = w.view(side, side, elements)
        for i in range(3):
            for j in range(3):
                grid = v[i::3, j::3]
                grid.copy_(grid.mean((0, 1), keepdim=True).expand_as(grid))

    return plain if form == 'plain' else strong


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--device', default='cuda')
    arguments.add_argument('--small', action='store_true')
    a = arguments.parse_args()
    torch.manual_seed(1)
    for layer, (side, elements) in (SMALL if a.small else LAYERS).items():
        for kernel, make in (('adam', adam), ('instant_sleep', sleep)):
            for form in ('plain', 'strong'):
                with torch.no_grad():
                    ms = milliseconds(make(form, side, elements, a.device), a.device, 3 if a.small else 15)
                print(json.dumps({'name': f'{kernel}/{layer}', 'form': form, 'ms': ms, 'torch': torch.__version__}), flush=True)


if __name__ == '__main__':
    main()
