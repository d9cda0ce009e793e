#!/bin/sh
# The recipe for lung slices: a run per fold of the labelled slices, what each says of the fold
# it has not seen, and the test split predicted by all of them together.
#
#   sh docs/results/lung.sh DATA OUT [EPOCHS]
#
# DATA is the folder lung with images.csv, boxes.csv, ignore.csv and images/; it is left as it is.
# Two runs train at a time, a thread each; OUT/times.txt has their processor time. A script that was stopped goes on where it was.
set -eu
data=$(cd "$1" && pwd) out=$2 epochs=${3:-54}
mkdir -p "$out/data"
ln -sfn "$data/images" "$out/data/images"
if [ ! -e "$out/data/split" ]; then
	for table in images boxes ignore; do cat "$data/$table.csv" >"$out/data/$table.csv"; done
	alignedfusion data split --folds 3 --seed 1 --of train+val "boxes:$out/data"
	: >"$out/data/split"
fi
spent() { # processor time until now, user and system: of this shell, and of its children
	{
		echo "$1"
		times
	} >>"$out/times.txt"
}
fold() {
	if [ -e "$out/run$1/checkpoints" ]; then
		alignedfusion train --resume --out "$out/run$1"
	else
		alignedfusion train --task detect --data "boxes:$out/data" --fold "$1" --fusion none --seed 1 --threads 1 \
			--epochs "$epochs" --set encoder.slices=1 --set encoder.operator=2.5d \
			--set head.anchor_sides=8,12,18,28,44 --set head.anchor_ratios=1 --set head.focal_gamma=2 \
			--set head.rpn_iou=0.5 --set head.roi_iou=0.4 --set head.background_iou=0.1 --set head.hard_background=1 \
			--set data.zoom=2 --set data.crop=160 --set data.augment=any-way --set data.protocol=small-lesion \
			--set train.batch_size=16 --set train.lr=0.002 --set train.weight_decay=0.05 --set train.ema=0.999 \
			--set train.best_by=last --set train.validate_every=1000 --out "$out/run$1"
	fi
	spent "fold $1, trained"
	alignedfusion predict --run "$out/run$1" --split "fold$1" --tta turns --threads 1 --out "$out/fold$1.csv"
	spent "fold $1, predicted as well"
}
fold 0 &
first=$!
fold 1 &
second=$!
wait "$first"
wait "$second"
fold 2 &
wait "$!"
# compare reads what the runs keep, which is one pass; here are all eight.
for table in truth images; do
	awk 'NR == 1 || FNR > 1' "$out"/run[012]/predictions/fold[012]/$table.csv >"$out/$table.csv"
done
alignedfusion froc --json --protocol small-lesion --ground-truth "$out/truth.csv" --images "$out/images.csv" \
	--predictions lung="$out/fold0.csv" --predictions lung="$out/fold1.csv" --predictions lung="$out/fold2.csv" >"$out/froc.json"
alignedfusion predict --run "$out/run0" --with "$out/run1" --with "$out/run2" --split test --tta turns --threads 1 \
	--out "$out/test.csv"
