#!/bin/sh
# tools/fuzz.sh DURATION FOLDER...: runs every fuzz target below the folders for the duration each, and adds what each
# did to build/fuzz.csv: day, commit, package, target, executions. Exit code 1 where a target failed.
set -eu
duration=$1
shift
mkdir -p build
shm=/dev/shm
[ -w $shm ] || shm=/tmp
TMPDIR=$(mktemp -d -p $shm) # the targets' files lie in memory
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
log=$TMPDIR/log failed=0 total=0
for dir in $(grep -rlE '^func Fuzz' --include='*_test.go' "$@" | xargs -n1 dirname | sort -u); do
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2); do
		if ! go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$duration" -fuzzminimizetime 1x >$log 2>&1; then
			cat $log
			failed=1
		fi
		count=$(grep -o 'execs: [0-9]*' $log | tail -1 | cut -d' ' -f2)
		echo "$(date -u +%F),$(git rev-parse --short HEAD),$dir,$target,${count:-0}" | tee -a build/fuzz.csv
		total=$((total + ${count:-0}))
	done
done
echo "$total executions; $(awk -F, '{n += $5} END {printf "%.0f", n}' build/fuzz.csv) in all of build/fuzz.csv"
exit $failed
