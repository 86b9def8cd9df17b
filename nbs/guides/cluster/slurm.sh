#!/usr/bin/env bash
# A search on a Slurm cluster: sbatch nbs/guides/cluster/slurm.sh, from the top of the project.
#SBATCH --job-name=munet
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@900
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=munet-%j.log
# On GPU nodes also, with a worker per GPU:
# #SBATCH --gpus-per-node=4
set -euo pipefail
set -m # else what runs in the background would not hear an interrupt

RUN=runs/many # on a file system that all nodes share
SEARCH=(--benchmark characters8 --concurrent-tasks 4)
CORES=$SLURM_CPUS_PER_TASK # of a worker, where there are no GPUs

source .venv/bin/activate
export NPROC=$CORES # threads of every training, which its last digits depend on
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN # other users of the nodes do not know it
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

# The head is the first node, on which this script runs. It trains as the others do.
read -r host _ < <(hostname -I)
address=$host:$((20000 + SLURM_JOB_ID % 10000))
start=(ray start --num-cpus="$SLURM_CPUS_PER_TASK")
"${start[@]}" --head --node-ip-address="$host" --port="${address#*:}" --include-dashboard=false
workers=()
if ((SLURM_NNODES > 1)); then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$SLURMD_NODENAME" \
        --cpus-per-task="$SLURM_CPUS_PER_TASK" "${start[@]}" --address="$address" --block &
    workers=($!)
fi

# An interrupt lets the search finish its generation and end. USR1 comes 900 s (see above) before
# the time is over: the job waits in the queue again then, and goes on where it was.
nbs/guides/cluster/search.sh "$RUN" --ray "$address" --cores "$CORES" -- "${SEARCH[@]}" &
search=$!
interrupted=
again=
trap 'interrupted=1; kill -INT "$search"' INT
trap 'interrupted=1; again=1; kill -INT "$search"' USR1
wait "$search" && status=0 || status=$?
if [ "$interrupted" ]; then
    wait "$search" && status=0 || status=$? # the first one ended with the signal
fi

[ ${#workers[@]} = 0 ] || kill "${workers[@]}" || true
ray stop
[ ! "$again" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
