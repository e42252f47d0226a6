"""Runs a network that `hypnos export --pytorch` wrote. Needs torch and safetensors.

    python3 load_in_pytorch.py FILE.safetensors IMAGES.npy     images: (batch, 3, rows, columns), pixels in 0..1; prints logits
"""
import json
import sys

import numpy
import torch
import torch.nn.functional as F
from safetensors import safe_open


class Network(torch.nn.Module):
    def __init__(self, path):
        super().__init__()
        with safe_open(path, framework="pt") as f:
            meta, self.tensors = f.metadata(), {name: f.get_tensor(name) for name in f.keys()}
        self.nodes = json.loads(meta["hypnos.network"])["nodes"]
        self.stats = {k: torch.tensor(v)[:, None, None] for k, v in json.loads(meta["hypnos.stats"]).items()}
        self.classes = json.loads(meta["hypnos.classes"])

    def forward(self, pixels):
        out = {"input": ((pixels - self.stats["mean"]) / self.stats["std"]).float()}
        for node in self.nodes:
            out[node["name"]] = self.apply_node(node, [out[name] for name in node["in"]])
        return out[self.nodes[-1]["name"]].flatten(1)

    def apply_node(self, node, inputs):
        x, op, a = inputs[0], node["op"], node.get("args", {})
        t = {k: self.tensors.get(node["name"] + "." + k) for k in ("weight", "bias", "running_mean", "running_var")}
        if op in ("conv2d", "lc2d"):
            k, s, g = a["kernel"], a["stride"], a.get("groups", 1)
            pad = 0 if a.get("patches") else (k - 1) // 2
            if op == "conv2d":
                return F.conv2d(x, t["weight"], t["bias"], stride=s, padding=pad, groups=g)
            return locally_connected(x, t["weight"], t["bias"], k, s, pad, g)
        if op == "batchnorm":
            return F.batch_norm(x, t["running_mean"], t["running_var"], t["weight"], t["bias"], eps=a["eps"])
        if op == "relu":
            return F.relu(x)
        if op == "add":
            return x + inputs[1]
        if op == "maxpool":
            return F.max_pool2d(x, a["kernel"], a["stride"], padding=(a["kernel"] - 1) // 2)
        if op == "globalavgpool":
            return x.mean((2, 3), keepdim=True)
        if op == "transpose":  # positions become channels, channels positions
            rows = a.get("rows") or 1
            return x.flatten(2).transpose(1, 2).reshape(x.shape[0], -1, rows, x.shape[1] // rows)
        if op == "linear":
            return F.linear(x.flatten(1), t["weight"], t["bias"])[:, :, None, None]
        raise ValueError("unknown operation " + op)


def locally_connected(x, weight, bias, k, stride, pad, groups):
    """weight (positions, N, Cin/g*k*k), bias (positions, N): kernels of its own at every position."""
    batch, _, h, w = x.shape
    columns = F.unfold(x, k, padding=pad, stride=stride)  # (batch, Cin*k*k, positions)
    columns = columns.reshape(batch, groups, -1, columns.shape[2])
    weight = weight.reshape(weight.shape[0], groups, -1, weight.shape[2])
    y = torch.einsum("bgkl,lgnk->bgnl", columns, weight).reshape(batch, -1, columns.shape[3])
    if bias is not None:
        y = y + bias.T
    return y.reshape(batch, -1, h // stride, w // stride)


if __name__ == "__main__":
    with torch.no_grad():
        logits = Network(sys.argv[1])(torch.from_numpy(numpy.load(sys.argv[2])))
    json.dump(logits.tolist(), sys.stdout)
