#!/bin/sh
# tools.sh DIR [headers]: puts what the CUDA backend is built with under DIR: the headers of CUDA 11.8, which gorgonia.org/cu
# is compiled against, and, unless only headers are asked for, nvcc and ptxas 11.8. They come from Debian 12, non-free, as
# packages that are unpacked and not installed: no root, nothing of the machine's apt configuration changes.
#
# Against CUDA 13's headers cu does not compile; a program built with these runs on any newer driver.
set -eu

fail() { echo "cuda tools: $*" >&2; exit 1; }

[ $# -ge 1 ] || fail "usage: tools.sh DIR [headers]"
what=${2:-all}
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || fail "only for Debian on amd64"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
apt=$dir/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts" "$dir/packages"
: >"$apt/status"

# The mirror is the one that this machine uses already.
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
[ -n "$mirror" ] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .* main.*/\2/p' /etc/apt/sources.list 2>/dev/null | head -1)
[ -n "$mirror" ] || fail "no Debian mirror in apt's sources"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keys ] || fail "no $keys (package debian-archive-keyring)"
echo "deb [signed-by=$keys] $mirror bookworm contrib non-free" >"$apt/sources.list"

debian() {
	apt-get -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
		-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/parts" -o APT::Sandbox::User=root \
		-o Acquire::Languages=none "$@"
}

# checked FILE SHA256: whether the file is there and is what it was.
checked() { [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status; }

# The headers are the first 6 MB of a package of 800.
headers=$dir/packages/nvidia-cuda-dev.part
headers_sum=233da8d833cdcf38da1177c67333e86d0788947b48efcd61b35b7401397eed87
toolkit_sum=d1156026e704fe0368b6295db06224ed00a727966fb13454f34e3f3102db0457

uri() { debian download --print-uris "$1" | cut -d"'" -f2; }

if [ ! -f "$dir/usr/include/cuda.h" ] || ! checked "$headers" $headers_sum; then
	debian -qq update || fail "no package lists from $mirror"
	from=$(uri nvidia-cuda-dev)
	[ -n "$from" ] || fail "$mirror has no nvidia-cuda-dev"
	command -v curl >/dev/null || fail "no curl (package curl)"
	curl -sSf -r 0-5999999 "$from" -o "$headers" || fail "no headers from $from"
	checked "$headers" $headers_sum || fail "the headers have another checksum than $headers_sum"
	# The end is missing: dpkg and tar say so after they have unpacked what is there.
	dpkg --fsys-tarfile "$headers" 2>/dev/null | tar x -C "$dir" ./usr/include 2>/dev/null || true
	[ -f "$dir/usr/include/cuda.h" ] && [ -f "$dir/usr/include/mma.h" ] || fail "no cuda.h and mma.h in the package"
fi
[ "$what" != headers ] || exit 0

toolkit=$dir/packages/nvidia-cuda-toolkit.deb
if [ ! -x "$dir/nvcc" ] || ! checked "$toolkit" $toolkit_sum; then
	debian -qq update || fail "no package lists from $mirror"
	(cd "$dir/packages" && rm -f nvidia-cuda-toolkit*.deb && debian -qq download nvidia-cuda-toolkit && mv nvidia-cuda-toolkit_*.deb "$toolkit") ||
		fail "$mirror has no nvidia-cuda-toolkit"
	checked "$toolkit" $toolkit_sum || fail "nvidia-cuda-toolkit has another checksum than $toolkit_sum"
	dpkg -x "$toolkit" "$dir"
	bin=$dir/usr/lib/nvidia-cuda-toolkit/bin
	rm -f "$bin/nvcc.profile"
	sed "s#/usr/lib#$dir/usr/lib#g" "$dir/etc/nvcc.profile" >"$bin/nvcc.profile"
	cat >"$dir/nvcc" <<EOF
#!/bin/sh
PATH=$bin:$dir/usr/bin:/usr/bin:/bin exec $bin/nvcc -ccbin /usr/bin/g++ -allow-unsupported-compiler -I$dir/usr/include "\$@"
EOF
	chmod +x "$dir/nvcc"
	ln -sf "$dir/usr/bin/ptxas" "$dir/ptxas"
fi
"$dir/nvcc" --version | grep -q 'release 11.8' || fail "nvcc is not of CUDA 11.8"
