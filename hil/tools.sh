#!/bin/sh
# tools.sh DIR: puts what emulated boards need under DIR: QEMU 10 (Debian 12, backports), Debian's own arm64 kernel with its modules
# and device trees, fdtput and mkfs.ext4. Packages are fetched by apt, which checks Debian's signature and their checksums, and
# unpacked, not installed: no root, nothing of the machine's apt configuration changes.
set -eu

fail() { echo "hil tools: $*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: tools.sh DIR"
case $(dpkg --print-architecture 2>/dev/null) in amd64 | arm64) ;; *) fail "only for Debian on amd64 or arm64" ;; esac
mkdir -p "$1"
dir=$(cd "$1" && pwd)
version=1 # of this script's result
if [ "$(cat "$dir/version" 2>/dev/null)" = $version ]; then
	echo "hil tools: in place: $("$dir/bin/qemu-system-aarch64" --version | head -1), kernel $(cat "$dir/kernel/release")"
	exit 0
fi

# The mirror is the one that this machine uses already.
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
[ -n "$mirror" ] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .* main.*/\2/p' /etc/apt/sources.list 2>/dev/null | head -1)
[ -n "$mirror" ] || fail "no Debian mirror in apt's sources"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keys ] || fail "no $keys (package debian-archive-keyring)"

# debian STATE STATUS ARCH COMMAND...: apt with lists and cache of its own.
debian() {
	state=$dir/apt/$1 status=$2 arch=$3
	shift 3
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/parts"
	{
		echo "deb [signed-by=$keys] $mirror bookworm main"
		echo "deb [signed-by=$keys] $mirror bookworm-backports main"
	} >"$state/sources.list"
	apt-get -o APT::Architecture="$arch" -o APT::Architectures::="$arch" -o Dir::State="$state" -o Dir::State::lists="$state/lists" \
		-o Dir::State::status="$status" -o Dir::Cache="$state/cache" -o Dir::Etc::sourcelist="$state/sources.list" \
		-o Dir::Etc::sourceparts="$state/parts" -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}

# Programs, with those of their libraries that this machine lacks.
host() { debian host /var/lib/dpkg/status "$(dpkg --print-architecture)" "$@"; }
host -qq update || fail "no package lists from $mirror"
host -y -qq --no-install-recommends --download-only -o Debug::NoLocking=1 -t bookworm-backports install --reinstall \
	qemu-system-arm qemu-utils device-tree-compiler e2fsprogs || fail "$mirror lacks a package"
rm -rf "$dir/root" "$dir/bin" "$dir/kernel" && mkdir -p "$dir/root" "$dir/bin" "$dir/kernel"
for deb in "$dir"/apt/host/cache/archives/*.deb; do dpkg -x "$deb" "$dir/root"; done
libraries=$(find "$dir/root" -name '*.so*' -path '*-linux-gnu*' -printf '%h\n' | grep -v '/qemu$' | sort -u | paste -sd:)
for program in usr/bin/qemu-system-aarch64 usr/bin/qemu-system-arm usr/bin/qemu-img usr/bin/fdtput usr/bin/fdtget sbin/mkfs.ext4 usr/sbin/mkfs.ext4; do
	[ -x "$dir/root/$program" ] || continue
	case $program in *qemu-system*) data="-L $dir/root/usr/share/qemu" ;; *) data= ;; esac
	cat >"$dir/bin/${program##*/}" <<EOS
#!/bin/sh
export LD_LIBRARY_PATH=$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} QEMU_MODULE_DIR=$(dirname "$(find "$dir/root" -name 'block-*.so' -o -name 'accel-*.so' | head -1)")
exec $dir/root/$program $data "\$@"
EOS
	chmod +x "$dir/bin/${program##*/}"
done
"$dir/bin/qemu-system-aarch64" -M help | grep -q imx8mp-evk || fail "this QEMU has no imx8mp-evk: $("$dir/bin/qemu-system-aarch64" --version | head -1)"

# The boards' kernel.
: >"$dir/apt/none"
board() { debian board "$dir/apt/none" arm64 "$@"; }
board -qq update || fail "no package lists of arm64 from $mirror"
package=$(board -s -qq -t bookworm install linux-image-arm64 2>/dev/null | sed -n 's/^Inst \(linux-image-[0-9][^ ]*\) .*/\1/p' | head -1)
[ -n "$package" ] || fail "$mirror has no kernel for arm64"
(cd "$dir/apt/board" && rm -f ./*.deb && board -qq -t bookworm download "$package") || fail "$mirror has no $package"
dpkg -x "$dir"/apt/board/"$package"_*.deb "$dir/kernel/root"
release=${package#linux-image-}
ln -s "root/boot/vmlinuz-$release" "$dir/kernel/image"
ln -s "root/lib/modules/$release" "$dir/kernel/modules"
ln -s "root/usr/lib/linux-image-$release" "$dir/kernel/dtb"
echo "$release" >"$dir/kernel/release"
rm -rf "$dir/apt"
echo $version >"$dir/version"
echo "hil tools: $("$dir/bin/qemu-system-aarch64" --version | head -1), kernel $release"
