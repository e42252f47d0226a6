#!/bin/sh
# Checks the CUDA backend on the machine that it runs on, with the programs beside it, which need nothing but a driver:
# its tests, then every kernel at the sizes of the paper's networks, with times. Flags are those of ./check.
set -eu
cd "$(dirname "$0")"

if ./driver.test -test.run '^TestDevices$' -test.v | grep -q 'SKIPPED: no NVIDIA driver'; then
	echo "SKIPPED: no NVIDIA driver here; carry $(pwd) to a machine with one, and start run"
	exit 0
fi
./driver.test -test.v -test.run '^TestDevices$' | sed -n 's/.*: \(device [0-9]*: .*\)/\1/p'
for t in *.test; do
	echo "$t"
	./"$t" -test.timeout 5m
done
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
	./check --peer 'python3 peer.py' "$@"
else
	echo "SKIPPED: comparison with PyTorch: there is none for this GPU"
	./check "$@"
fi
