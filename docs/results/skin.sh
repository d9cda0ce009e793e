#!/bin/sh
# The recipe for photographs: three image encoders, a fusion on the frozen tokens of each, and the
# test split answered by the three runs together, with more and more of its attributes taken away.
#
#   sh docs/results/skin.sh DATA WEIGHTS OUT
#
# DATA is data.csv, with its pictures beside it, WEIGHTS darknet_tiny.safetensors. Two runs train at
# a time, a thread each; OUT/times.txt has their processor time. What is there already is not made again.
set -eu
data=$1 weights=$2 out=$3
mkdir -p "$out"
run() { # NAME SETTINGS…: trains, or goes on
	name=$1
	shift
	if [ -e "$out/$name/checkpoints" ]; then
		alignedfusion train --resume --out "$out/$name"
	else
		alignedfusion train --task classify --data "table:$data" --threads 1 --set data.class_weights=balanced \
			--set data.train_split=train+val --set data.validation_split= --set train.best_by=last \
			--set encoder.kind=darknet --set encoder.image_size=128 --set data.size=128 "$@" --out "$out/$name"
	fi
}
spent() { # processor time until now, user and system: of this shell, and of its children
	{
		echo "$1"
		times
	} >>"$out/times.txt"
}
both() { # SEED: the encoder, then the fusion on its frozen tokens
	if [ ! -e "$out/image$1.safetensors" ]; then
		run "image$1" --fusion none --seed "$1" --epochs 14 --set encoder.weights="$weights" --set data.augment=picture \
			--set train.lr=0.0003 --set train.weight_decay=0.01
		spent "image$1"
		alignedfusion weights export --run "$out/image$1" --role encoder "$out/image$1.safetensors"
	fi
	run "it$1" --fusion itfusion --seed "$1" --epochs 24 --set encoder.frozen=true \
		--set encoder.weights="$out/image$1.safetensors" --set encoder.pool=2 --set data.augment=none --set head.norm=batch \
		--set head.dropout=0.2 --set train.weight_decay=0.1 --set fusion.width=128 --set fusion.ffn=2 \
		--set fusion.branch_start=zero --set fusion.modality_dropout=0.5 --set fusion.mask_probability=0.4 \
		--set fusion.mask_spread=true --set fusion.mask_whole=0.1 --set fusion.token_start=1 --set fusion.regression=true
	spent "image$1 and it$1"
}
both 1 &
first=$!
both 2 &
second=$!
wait "$first"
wait "$second"
both 3 &
wait "$!"
for percent in 0 25 50 75 90 100; do
	alignedfusion predict --run "$out/it1" --with "$out/it2" --with "$out/it3" --mirror --split test --threads 1 \
		--missing "$(echo "$percent" | awk '{print $1 / 100}')" --out "$out/test-$percent.csv"
done
