#!/bin/sh
# Makes the runs of one release: make.sh PROGRAM TOYS VERSION
# PROGRAM is the built alignedfusion with its plugins beside it, TOYS the folder with the plain-Go plugin of the
# pipeline's tests as "toy", VERSION the new folder. Runs hold absolute paths of their data: they are made in a folder
# that tells nothing about the machine.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
af=$(realpath "$1") toys=$(realpath "$2") version=$3
work=$(mktemp -d -p /var/tmp)
trap 'rm -rf "$work"' EXIT
cp -r "$here/table" "$here/boxes" "$work"
cd "$work"
mkdir "$version"
export OMP_WAIT_POLICY=passive
classify="--threads 1 --task classify --data table:table/data.csv --encoder classifier --set encoder.width=3 --set encoder.layers=2
	--set encoder.pool=2 --head classifier --epochs 1 --seed 3 --set data.size=32 --set train.batch_size=2"
# shellcheck disable=SC2086 # one word each
"$af" train $classify --attributes all --fusion itfusion --set fusion.width=4 --set fusion.heads=1 --set fusion.layers=1 --set fusion.ffn=1 --out "$version/itfusion"
# shellcheck disable=SC2086
"$af" train $classify --fusion none --set train.optimizer=sgd --out "$version/none"
"$af" train --plugin-dir "$toys" --threads 1 --task detect --data boxes:boxes --encoder toy --fusion toy --head toy --epochs 1 --seed 3 \
	--set data.size=32 --set train.batch_size=1 --set train.lr=0.01 --attributes age --out "$version/detect"
for run in itfusion none; do "$af" predict --run "$version/$run" --split test --out "$version/$run.csv"; done
"$af" predict --plugin-dir "$toys" --run "$version/detect" --split test --out "$version/detect.csv"
"$af" compare --split test --json "$version/itfusion" "$version/none" > "$version/compare.json"
mv "$version" "$here"
