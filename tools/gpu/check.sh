#!/bin/bash
# What there is to know about this program on a GPU, in at most 8 minutes:
#
#   tools/gpu/check.sh pack FILE.tar.xz      here: binaries, tests and sources of the C++ parts, at most 50 MB
#   bash check.sh run FILE.tar.xz [DEVICE]   there: needs bash, xz, g++ and a Python with torch; no Go, no network
#
# DEVICE is cuda:0; cpu tries the script where there is no GPU. It compiles libtch.so and the kernels
# against that torch, with nvcc where there is one, runs doctor, the comparisons with PyTorch and of the
# GPU's kernels with the CPU's, `plugin validate` on the device, one training there and its first steps
# on the CPU, and times the encoder beside PyTorch's op by op. It writes check.json into the current
# folder: how each part ended, what was compiled, how far losses differ, samples a second, what
# transport takes of a step, how busy the GPU was, its memory. It fails when a part does. Each part has
# a limit of time (times SLOW), and all together SECONDS_MOST. A set LIBTORCH is taken instead of
# Python's torch; empty is the system's.
set -euo pipefail
plugins="a3d classifier itfusion"
most=50000000 # bytes of the package
all=${SECONDS_MOST:-450}

pack() {
	cd "$(dirname "$0")/../.."
	local tree
	tree=$(mktemp -d)
	trap 'rm -rf "$tree"' RETURN
	mkdir -p "$tree/bin/plugins" "$tree/build/shim" "$tree/sdk/torchstage"
	cp bin/alignedfusion "$tree/bin"
	cp build/fitgotch "$tree/build"
	cp -r build/shim/src "$tree/build/shim"
	cp -r sdk/torchstage/native "$tree/sdk/torchstage"
	for p in $plugins; do
		cp "bin/plugins/alignedfusion-plugin-$p" "$tree/bin/plugins"
		mkdir -p "$tree/plugins/$p"
		[ ! -d "plugins/$p/native" ] || cp -r "plugins/$p/native" "$tree/plugins/$p"
		cp -r "plugins/$p/testdata" "$tree/plugins/$p"
		go test -c -vet=off -ldflags '-s -w' -o "$tree/plugins/$p/parity.test" "./plugins/$p"
	done
	bin/alignedfusion data synth --layout deeplesion --patients 24 --size 128 --seed 1 --out "$tree/data" > /dev/null
	mkdir -p "$tree/plugins/internal/fixture"
	cp plugins/internal/fixture/fixture.py "$tree/plugins/internal/fixture"
	cp tools/gpu/check.sh "$tree"
	tar -C "$tree" -c . | xz -T0 -3 > "$1"
	local size
	size=$(stat -c %s "$1")
	[ "$size" -le $most ] || { echo "$1 has $size bytes, at most $most are carried" >&2; return 1; }
	echo "$1: $size bytes"
}

# part NAME SECONDS COMMAND… runs one part, notes how it ended and goes on.
part() {
	local name=$1 limit=$(($2 * ${SLOW:-1})) began=$SECONDS code=0
	shift 2
	[ $limit -lt $((all - SECONDS)) ] || limit=$((all > SECONDS ? all - SECONDS : 1))
	timeout "$limit" "$@" > "$logs/$name.log" 2>&1 || code=$?
	echo "$name $code $((SECONDS - began))" | tee -a "$logs/parts"
	[ $code = 0 ] || tail -n 5 "$logs/$name.log" | sed 's/^/    /'
}

run() {
	local package device=${2:-cuda:0} out=$PWD torch
	package=$(realpath "$1")
	torch=${LIBTORCH-$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')}
	cd "$(mktemp -d)"
	tar -xJf "$package"
	mkdir logs
	logs=$PWD/logs
	export OMP_WAIT_POLICY=passive
	part compile 180 build/fitgotch -shim-only -kernels plugins/a3d/native -optional sdk/torchstage/native -optional sdk/torchstage/native/nccl/native ${torch:+-libtorch "$torch"}
	part doctor 30 bin/alignedfusion doctor
	for p in $plugins; do
		part "parity-$p" 60 sh -c "cd plugins/$p && ./parity.test -test.run Agree -test.skip Darknet"
	done
	for p in $plugins; do
		part "validate-$p" 60 bin/alignedfusion plugin validate "$p" --device "$device" --iterations 4 --quiet
	done
	local training=(bin/alignedfusion train --task detect --data deeplesion:data --fusion itfusion --seed 1
		--set train.optimizer=sgd --set train.lr=0.0002 --set train.batch_size=4)
	part train-cpu 90 "${training[@]}" --set train.max_steps=3 --out cpu
	local watch=""
	if [ "${device#cuda}" != "$device" ]; then
		nvidia-smi --query-gpu=name,utilization.gpu,memory.used --format=csv,noheader,nounits -l 1 > gpu.csv &
		watch=$!
	fi
	part train-device 90 "${training[@]}" --device "$device" --set train.max_steps="${STEPS:-40}" --out device
	part train-amp 60 "${training[@]}" --device "$device" --set train.amp=true --set train.max_steps="${STEPS:-40}" --out amp
	[ -z "$watch" ] || kill "$watch"
	local side=512 times=5x
	[ "$device" != cpu ] || { side=128 times=1x; }
	cd plugins/a3d
	for half in 0 1; do
		part "reference-$half" 60 env MODE=train BF16=$half DEVICE="$device" python3 testdata/reference.py bench 7 $side
	done
	part encoder 60 env BENCH_DEVICE="$device" ./parity.test -test.run xxx -test.bench "DenseNet121/.*/.*/slices=7" -test.benchtime $times
	cd ../..
	python3 - "$device" "$out/check.json" <<'END'
import csv, json, os, re, statistics, sys
import torch

def steps(run):
    path = os.path.join(run, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    return [r for r in map(json.loads, open(path)) if r["kind"] == "step"]

def log(name):
    path = os.path.join("logs", name + ".log")
    return open(path).read() if os.path.exists(path) else ""

parts = [line.split() for line in open("logs/parts")]
result = {"schema_version": 1, "place": sys.argv[1], "torch": torch.__version__, "cuda": torch.version.cuda, "cpus": os.cpu_count(),
          "parts": {name: {"exit": int(code), "seconds": int(seconds)} for name, code, seconds in parts}}
cpu = steps("cpu")
for run in ("device", "amp"):
    made = steps(run)
    if made:
        seconds = [r["step_sec"] for r in made[len(made) // 4:]]  # the first ones choose algorithms
        result[run] = {"steps": len(made), "losses": [r["loss"] for r in made[:3]], "samples_per_second": 4 / statistics.median(seconds),
                       "transport_milliseconds": 1e3 * statistics.median(r["wall_sec"] - r["compute_sec"] for r in made),
                       "largest_difference_from_cpu": max((abs(a["loss"] - b["loss"]) for a, b in zip(cpu, made)), default=None)}
result["compiled"] = [line for line in log("compile").splitlines() if "built" in line or "left out" in line]
encoder = {name: float(ns) / 1e9 for name, ns in re.findall(r"DenseNet121/(\S+?)/slices=7\S*\s+\d+\s+(\S+) ns/op", log("encoder"))}
result["encoder_seconds"] = {"slices": 7, "side": 512, **encoder}
for half, name in enumerate(("train/fp32", "train/bf16")):
    for line in log(f"reference-{half}").splitlines():
        if line.startswith("{"):
            r = json.loads(line)
            result["encoder_seconds"]["pytorch " + name] = {"side": r["side"], "seconds": r["train"]["median_seconds"]}
if os.path.exists("gpu.csv"):
    rows = [r for r in csv.reader(open("gpu.csv")) if len(r) == 3]
    busy = [float(r[1]) for r in rows]
    result["gpu"] = {"name": rows[0][0], "busy_percent": statistics.mean(busy), "memory_mib": max(float(r[2]) for r in rows)} if rows else None
json.dump(result, open(sys.argv[2], "w"), indent=1)
print(json.dumps(result, indent=1))
sys.exit(any(int(code) for _, code, _ in parts))
END
}

case "${1:-}:$#" in
pack:2) pack "$(realpath -m "$2")" ;;
run:2 | run:3) run "$2" "${3:-cuda:0}" ;;
*) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
