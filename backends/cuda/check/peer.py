#!/usr/bin/env python3
"""The same work in PyTorch on the same GPU, for ./check --peer: a line of JSON for each row and form, with the name of the
row, the form and the milliseconds.

Forms: plain is how one would write it first, strong as well as PyTorch allows. AdamW: one operation after the other, and
fused in one kernel. Locally connected layers, forward and backward: unfold, then a product a location, (B, C, H, W); and
with activations (H, W, B, C), so that patches are runs of channels, and an own backward. Instant sleep: indices of each grid, and strided views of weights that have their locations outermost.
"""
import argparse
import json
import statistics
import time

import torch
from torch.nn import functional

LAYERS = {  # name: positions of a side, output channels · 9 · input channels
    'cifar 16x32x32': (32, 16 * 9 * 16), 'cifar 32x16x16': (16, 32 * 9 * 32), 'cifar 64x8x8': (8, 64 * 9 * 64),
    'imagenet 32x56x56': (56, 32 * 9 * 32), 'imagenet 64x28x28': (28, 64 * 9 * 64),
    'imagenet 128x14x14': (14, 128 * 9 * 128), 'imagenet 256x7x7': (7, 256 * 9 * 256),
}
SMALL = {'small': (4, 36), 'odd': (5, 27)}

# Locally connected 3x3 layers: channels, positions of a side, batch.
PRODUCTS = ([(512 // side, side, batch) for batch in (512, 256) for side in (32, 16, 8)] +
            [(1792 // side, side, 256) for side in (56, 28, 14, 7)])
SMALL_PRODUCTS = [(5, 3, 3), (16, 4, 16)]


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


class Strong(torch.autograd.Function):
    """x (H + 2, W + 2, B, C), zero at its borders; w (H·W, 9·C, C); y (H·W, B, C)."""

    @staticmethod
    def patches(x, side):
        v = x.unfold(0, 3, 1).unfold(1, 3, 1)  # (H, W, B, C, 3, 3)
        return v.permute(0, 1, 2, 4, 5, 3).reshape(side * side, x.shape[2], -1)

    @staticmethod
    def forward(ctx, x, w, side):
        patches = Strong.patches(x, side)
        ctx.save_for_backward(patches, w)
        ctx.side, ctx.shape = side, x.shape
        return torch.bmm(patches, w)

    @staticmethod
    def backward(ctx, dy):
        patches, w = ctx.saved_tensors
        side = ctx.side
        dw = torch.bmm(patches.transpose(1, 2), dy)
        d = torch.bmm(dy, w.transpose(1, 2)).view(side, side, ctx.shape[2], 3, 3, ctx.shape[3])
        dx = dy.new_zeros(ctx.shape)
        for i in range(3):
            for j in range(3):
                dx[i:i + side, j:j + side].add_(d[:, :, :, i, j])
        return dx, dw, None


def products(form, channels, side, batch, precision, device):
    torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
    kind = {'device': device, 'dtype': torch.bfloat16 if precision == 'bf16' else torch.float32}
    w = torch.randn(side * side, 9 * channels, channels, **kind).mul_(0.1).requires_grad_()
    if form == 'plain':
        x = torch.randn(batch, channels, side, side, **kind).requires_grad_()
        dy = torch.randn(side * side, batch, channels, **kind)

        def work():
            x.grad = w.grad = None
            patches = functional.unfold(x, 3, padding=1).permute(2, 0, 1)
            torch.bmm(patches, w).backward(dy)
    else:
        x = torch.randn(side, side, batch, channels, **kind).requires_grad_()
        dy = torch.randn(side * side, batch, channels, **kind)

        def work():
            x.grad = w.grad = None
            Strong.apply(functional.pad(x, (0, 0, 0, 0, 1, 1, 1, 1)), w, side).backward(dy)
    return work


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
    for channels, side, batch in SMALL_PRODUCTS if a.small else PRODUCTS:
        for precision in ('f32', 'tf32', 'bf16'):
            for form in ('plain', 'strong'):
                ms = milliseconds(products(form, channels, side, batch, precision, a.device), a.device, 3 if a.small else 15)
                name = f'window_{precision}/{channels}x{side}x{side}/{batch}'
                print(json.dumps({'name': name, 'form': form, 'ms': ms, 'torch': torch.__version__}), flush=True)


if __name__ == '__main__':
    main()
