#!/usr/bin/env bash
# A study on the nodes of one Slurm job:   sbatch docs/cluster/slurm.sh STUDY [--set …]
# Send it again when its time is over: it goes on where it was.
# Checked with bash -n. Not run: no Slurm was at hand.
#SBATCH --job-name=puregen-bench
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

STUDY=${1:?usage: sbatch slurm.sh STUDY [options of puregen-bench run]}
shift
SHARED=${SHARED:-$SLURM_SUBMIT_DIR} # storage that all nodes see
source "${VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"

# Several users share these nodes: a token, without which nobody else can send work to this Ray.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since 22.05 srun does not take it from sbatch
export RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
PORT=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
HEAD_IP=$(srun --nodes=1 --ntasks=1 -w "$HEAD" hostname --ip-address | awk '{print $1}')
SIZE=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)

# 'ray start --block' ends with the job step; 'ray stop' would end other people's Ray as well.
srun --nodes=1 --ntasks=1 -w "$HEAD" \
  ray start --head --node-ip-address="$HEAD_IP" --port="$PORT" --include-dashboard=false "${SIZE[@]}" &
sleep 20
if ((${#NODES[@]} > 1)); then
  srun --nodes=$((${#NODES[@]} - 1)) --ntasks=$((${#NODES[@]} - 1)) --exclude="$HEAD" \
    ray start --address="$HEAD_IP:$PORT" "${SIZE[@]}" &
  sleep 20
fi

# In the background, so that bash hands SIGTERM on at once; it acts like Ctrl-C.
puregen-bench run "$STUDY" --address "$HEAD_IP:$PORT" \
  --out "$SHARED/runs/$(basename "$STUDY" .yaml)" --store "$SHARED/store" "$@" &
RUN=$!
trap 'kill -TERM $RUN' TERM
status=0
wait "$RUN" || status=$?
((status > 128)) && { wait "$RUN" || status=$?; } # the trap ended the first wait
exit "$status"
