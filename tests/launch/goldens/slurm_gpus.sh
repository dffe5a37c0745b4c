#!/bin/bash -l
#SBATCH --job-name=big
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --export=HOME,USER,LOGNAME,PATH,LANG
#SBATCH --requeue

# Rendered by python -m launch.slurm. The job goes back to the queue until its run has finished: Slurm puts it there
# when it takes the job's nodes or loses one; this script does when the run was told to save and stop.

python=python
limit_seconds=86400
max_restarts=100
unfinished=75
secrets_file=''
names=''
markers=(runs/big/finished.json)
srun_options=(
  --export=ALL
  --nodes=2
  --ntasks=16
  --cpus-per-task=8
  --gpu-bind=none
  --kill-on-bad-exit=1
)
command=(python
  -m pretrain
  --config=configs/roberta_base.py
  --workdir=runs/big
  '--config.data.path=corpus/*.jsonl.zst'
  '--config.run_name=it'"'"'s $HOME; `id`
"x"'
)

say() { printf '%s: %s\n' "${SLURM_JOB_NAME-job}" "$*" >&2; }

# What Slurm sends before the time limit goes to the processes of the run. This shell outlives them, and decides below.
trap : TERM

# config.slurm.setup
source .venv/bin/activate

# Secrets come from a file of the user's alone: not from this script, which Slurm keeps, nor from a command line.
if [[ -n $secrets_file ]]; then
  if ! mode=$(stat -L -c %a -- "$secrets_file") || [[ $mode != ?00 ]]; then
    say "$secrets_file should be a file that you alone can read (chmod 600)"
    exit 2
  fi
  set -a
  # shellcheck source=/dev/null
  source "$secrets_file"
  set +a
fi
for name in $names; do
  if [[ -z ${!name-} ]]; then
    say "$name is not set; config.env is taken from where sbatch is called, config.secrets from config.slurm.secrets_file"
    exit 2
  fi
done

export UNMASK_DISTRIBUTED=1
srun "${srun_options[@]}" "${command[@]}"
status=$?

if ((status == 0 && ${#markers[@]})); then
  "$python" -m launch.finished "${markers[@]}"
  status=$?
fi
case $status in
  0) say "the run has finished" && exit 0 ;;
  "$unfinished") said="the run was stopped and is saved" ;;
  143) said="the run was stopped before a step was saved" ;;
  *) say "the run has failed with exit status $status" && exit "$status" ;;
esac

# A job that is not RUNNING any more was cancelled by its owner, or is on its way to the queue by Slurm's own hand.
state=$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")
if [[ $state != RUNNING ]]; then
  say "$said; the job is ${state:-gone}"
elif ((status == 143 && SECONDS > limit_seconds / 2)); then
  say "$said in half of config.slurm.time: not put in the queue again"
elif ((${SLURM_RESTART_COUNT:-0} >= max_restarts)); then
  say "$said; not put in the queue again, after $max_restarts times (config.slurm.max_restarts)"
elif scontrol requeue "$SLURM_JOB_ID"; then
  say "$said; put in the queue again"
  exit 0
else
  say "$said; to go on, sbatch this script again"
fi
exit "$status"
