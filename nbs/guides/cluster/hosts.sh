#!/usr/bin/env bash
# Ray on machines that ssh reaches: GPU nodes, TPU hosts, or machines with neither.
#   hosts.sh up HOST...      starts the head here, which trains nothing, and a worker on each host
#   hosts.sh down HOST...    stops them
# The project lies in the same folder on all of them, with its virtual environment in .venv.
set -euo pipefail
folder=$PWD
port=${PORT:-6379}
# For hosts that are one TPU slice, so that each computes alone:
#   WORKER_ENV='TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_VISIBLE_DEVICES=0,1,2,3'
environment=${WORKER_ENV:-}

on() { # HOST COMMAND
    ssh -o BatchMode=yes "$1" "cd $(printf %q "$folder") && . .venv/bin/activate && $2"
}

command=${1:-}
shift || true
case $command in
up)
    source .venv/bin/activate
    export RAY_AUTH_MODE=token
    token=$(ray get-auth-token --generate)
    read -r here _ < <(hostname -I)
    ray start --head --node-ip-address="$here" --port="$port" --num-cpus=0 --num-gpus=0 \
        --include-dashboard=false
    for host; do
        on "$host" "(umask 077 && mkdir -p ~/.ray && cat >~/.ray/auth_token) && \
            env RAY_AUTH_MODE=token $environment ray start --address=$here:$port" <<<"$token"
    done
    echo "The cluster is $here:$port"
    ;;
down)
    source .venv/bin/activate
    for host; do
        on "$host" 'ray stop' </dev/null || echo "$host: ray was not stopped there" >&2
    done
    ray stop
    ;;
*)
    echo "usage: hosts.sh up|down HOST..." >&2
    exit 2
    ;;
esac
