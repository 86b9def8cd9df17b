#!/usr/bin/env bash
# Starts a search, or goes on with it if its run directory is there: the same command either way.
#   search.sh RUN [--ray ADDRESS] [--cores N] -- OPTIONS OF MUNET EVOLVE
set -euo pipefail
run=$1
shift
workers=()
while [ "$1" != -- ]; do
    workers+=("$1")
    shift
done
shift
if [ -s "$run/journal.jsonl" ]; then
    # The images are read from where the run says that they are: it is your own.
    exec munet resume "$run" --trust-sources "${workers[@]}"
fi
exec munet evolve --run "$run" "${workers[@]}" "$@"
