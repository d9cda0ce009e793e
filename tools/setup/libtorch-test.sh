#!/bin/bash
# Serves one build of the plugins by several libtorchs, the system's first:
#
#   tools/setup/libtorch-test.sh [FOLDER ...]
#
# A FOLDER is a libtorch (a Python wheel's torch folder, an unpacked zip), or the root of
# another system that has one (a debootstrap folder with g++ and libtorch-dev), which only
# root can enter. For each, the libraries are compiled, the tests run that compare stages
# with PyTorch, and a detector trains for 20 steps: by SGD at a small rate, for AdamW's
# first steps are of the rate's size however small a gradient, and proposals are chosen by
# rank, so that rounding would show. Prints the table of docs/how-to/install.md; fails when a row
# does, or when losses differ by more than 1e-4.
set -euo pipefail
cd "$(dirname "$0")/../.."
packages="a3d bert classifier fusions itfusion selfattn sum"
tree=$PWD/build/libtorch-test/tree
rm -rf "$(dirname "$tree")"
mkdir -p "$tree/build/shim"
cp -r bin "$tree"
cp build/fitgotch "$tree/build"
cp -r build/shim/src "$tree/build/shim"
mkdir -p "$tree/sdk/torchstage"
cp -r sdk/torchstage/native "$tree/sdk/torchstage"
for p in $packages; do
	mkdir -p "$tree/plugins/$p"
	for part in native testdata; do
		[ ! -d "plugins/$p/$part" ] || cp -r "plugins/$p/$part" "$tree/plugins/$p"
	done
	go test -c -vet=off -o "$tree/plugins/$p/parity.test" "./plugins/$p"
done
bin/alignedfusion data synth --layout deeplesion --patients 24 --size 96 --seed 1 --out "$tree/data" >/dev/null

cat >"$tree/row.sh" <<'ROW'
set -eu
cd "$(dirname "$0")"
build/fitgotch -shim-only -kernels plugins/a3d/native -optional sdk/torchstage/native -optional sdk/torchstage/native/nccl/native ${1:+-libtorch "$1"} >log 2>&1
export OMP_WAIT_POLICY=passive
for test in plugins/*/parity.test; do
	(cd "$(dirname "$test")" && ./parity.test -test.v -test.run Agree >>../../parity 2>&1) || { cat parity >&2; exit 1; }
done
bin/alignedfusion train --task detect --data deeplesion:data --fusion itfusion --seed 1 --threads 1 --set train.max_steps=20 --set train.optimizer=sgd --set train.lr=0.0002 --out run >>log 2>&1
grep '"kind":"step"' run/metrics.jsonl | sed 's/.*"loss":\([^,]*\),.*/\1/' >losses
value() { sed -n "s/^ *\"$1\": \"*\([^\",]*\)\"*,*$/\1/p" build/lib/libtch.json; }
cuda=""
[ "$(value cuda)" = false ] || cuda=", CUDA build"
printf '%s%s | %s, %s | %s passed | ' "$(value version)" "$cuda" "$(. /etc/os-release && echo "$PRETTY_NAME" | sed 's/ (.*//; s/GNU.Linux //')" \
	"$(value compiler | sed 's/ .* / /')" "$(grep -c '^--- PASS' parity)"
ROW

row() { # row NAME FOLDER
	local dir=$2 name=$1 place=build/libtorch-test/$1
	if [ -n "$dir" ] && [ -x "$dir/bin/sh" ]; then
		place=$(mktemp -d "$dir/tmp/alignedfusion.XXXXXX")
		cp -r "$tree/." "$place"
		# shellcheck disable=SC2016 # expanded by the inner shell
		unshare --mount sh -c 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$1" sh "$2/row.sh"' - "$dir" "${place#"$dir"}" || return
	else
		cp -r "$tree" "$place"
		sh "$place/row.sh" "$dir" || { cat "$place/log" >&2; return 1; }
	fi
	cp "$place/losses" "build/libtorch-test/$name.losses"
	[ "$place" = "build/libtorch-test/$name" ] || rm -rf "$place"
}

status=0
echo "| libtorch | system, compiler | parity tests | losses of 20 steps, greatest difference |"
echo "|---|---|---|---|"
n=0
for dir in "" "$@"; do
	text=$(row $n "$dir") || { echo "| ${dir:-system} | failed | | |"; status=1; n=$((n + 1)); continue; }
	difference=$(paste build/libtorch-test/0.losses build/libtorch-test/$n.losses |
		awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > m) m = d } END { if (NR != 20) m = 1; printf "%.1g", m }')
	echo "| $text$difference |"
	awk -v d="$difference" 'BEGIN { exit d > 1e-4 }' || status=1
	n=$((n + 1))
done
exit $status
