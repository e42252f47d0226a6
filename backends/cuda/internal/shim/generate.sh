#!/bin/sh
# generate.sh [DIR]: makes, in DIR or beside itself, symbols.txt, what gorgonia.org/cu and this package call of libcuda,
# as their objects say, and of it symbols.h and trampolines_amd64.S: a slot for each name, and a jump to where it
# points. Both packages are compiled, which needs the headers of CUDA in CGO_CFLAGS, as make cuda has them.
set -eu
out=$(cd "${1:-$(dirname "$0")}" && pwd)
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=1
GO=${GO:-go}
# objects PACKAGE: the symbols of its C objects; a package has Go's own objects, too, which nm does not know.
objects() { nm "$($GO list -tags cuda -export -f '{{.Export}}' "$1")" 2>/dev/null || true; }
# symbols KIND FILE: the driver's names in it, U for those it calls, T for those it defines.
symbols() { sed -n "s/^[0-9a-f ]* $1 \(cu[A-Z][A-Za-z0-9_]*\)$/\1/p" "$2"; }

objects gorgonia.org/cu >"$work/cu"
objects . >"$work/shim"
{ echo cuInit; symbols T "$work/cu"; } >"$work/not" # cu has functions of its own that are named so
cat "$work/cu" "$work/shim" >"$work/all"
symbols U "$work/all" | LC_ALL=C sort -u | grep -vxFf "$work/not" >"$work/symbols"
[ "$(wc -l <"$work/symbols")" -gt 100 ] || { echo "generate.sh: too few symbols in cu's objects" >&2; exit 1; }
cp "$work/symbols" "$out/symbols.txt"

{
	echo '/* Made by generate.sh. DO NOT EDIT. */'
	echo 'static const char* const hypnos_shim_names[] = {'
	sed 's/.*/    "&",/' "$out/symbols.txt"
	echo '};'
} >"$out/symbols.h"

{
	echo '//go:build cuda && cgo && linux && amd64'
	echo
	echo '// Made by generate.sh. DO NOT EDIT.'
	echo
	echo '.text'
	slot=0
	while read -r name; do
		printf '.globl %s\n.hidden %s\n.type %s, @function\n%s:\n\tjmp *hypnos_shim_slots+%d(%%rip)\n' "$name" "$name" "$name" "$name" $slot
		slot=$((slot + 8))
	done <"$out/symbols.txt"
	echo '.section .note.GNU-stack, "", @progbits'
} >"$out/trampolines_amd64.S"
