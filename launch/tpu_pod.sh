#!/usr/bin/env bash
# What `python -m launch.tpu up` does for a pod of one slice, in the few lines of gcloud that it comes down to: to read,
# and to edit. It makes the pod, sets it up with the newest commit, starts the command and shows the log of machine 0.
# It does not check, plan, try again or come back after a preemption; the tool does, and takes over what this began.
# python3 here should be the one that the project is installed for.
#
#   NAME=roberta-no PROJECT=my-project ZONE=europe-west4-a TYPE=v3-8 RUNTIME=tpu-ubuntu2204-base DISTRIBUTED=false \
#     launch/tpu_pod.sh python -m pretrain --config=configs/roberta_base_oscar_no.py --workdir=gs://BUCKET/roberta-no
#
# Deleting it: gcloud compute tpus queued-resources delete $NAME --project=$PROJECT --zone=$ZONE --force --quiet
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NAME:?}" "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}" "${RUNTIME:?}" "${POLL_SECONDS:=20}"
[[ $NAME =~ ^[a-z][a-z0-9-]*$ ]] || { echo "NAME=$NAME should be small letters, digits and hyphens" >&2 && exit 2; }
place=(--project="$PROJECT" --zone="$ZONE")
folder=unmask/$NAME                # in the home folder of every machine
staged=.cache/launch/$NAME         # here, while it is copied
distributed=${DISTRIBUTED:-true}   # false for a type of one machine: v3-8, v5litepod-8, v6e-8

on_all() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=all \
    "--ssh-flag=-oConnectTimeout=30 -oServerAliveInterval=15" --command="$1" --quiet
}
copy() {
  on_all "mkdir -p -m 700 $folder"
  gcloud compute tpus tpu-vm scp "$@" "$NAME:$folder/" "${place[@]}" --worker=all \
    --scp-flag=-oConnectTimeout=30 --scp-flag=-oServerAliveInterval=15 --quiet
}

# What the machines are given: the newest commit without the files that are named as secrets, as the tool packs it.
(umask 077 && mkdir -p "$staged")
python3 -m launch.archive "$staged/code.tar.gz"

# Make it. Spot machines cost a fraction, and may be taken away.
gcloud compute tpus queued-resources create "$NAME" "${place[@]}" --accelerator-type="$TYPE" \
  --runtime-version="$RUNTIME" --node-id="$NAME" --spot \
  --scopes=https://www.googleapis.com/auth/cloud-platform --labels="unmask-pod=$NAME" --async --quiet

# Wait for it: minutes, or days.
until state=$(gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" --format=json) &&
  if grep -qE '"(FAILED|SUSPENDED)"' <<<"$state"; then echo "$state" >&2 && exit 1; fi &&
  grep -q '"ACTIVE"' <<<"$state" &&
  gcloud compute tpus tpu-vm describe "$NAME" "${place[@]}" --format=json | grep -q '"READY"'; do
  sleep "$POLL_SECONDS"
done

# Set it up: the code, Python, the pinned dependencies with JAX for TPU. launch/tpu/remote.py does it there.
echo '{"python": "python3.11", "extras": ["tpu"]}' >"$staged/setup.json"
copy "$staged/code.tar.gz" "$staged/setup.json" launch/tpu/remote.py
on_all "python3 $folder/remote.py setup"

# Start it, detached. The command travels in a file, so that no shell touches its words. Secrets: "secrets" takes
# {"HF_TOKEN": "hf-token"}, names only; each machine reads the value from Secret Manager itself.
NAME=$NAME PROJECT=$PROJECT DISTRIBUTED=$distributed python3 - "$@" >"$staged/job.json" <<'PYTHON'
import json, os, sys, uuid
name = os.environ["NAME"]
print(json.dumps({"launch": uuid.uuid4().hex, "run": name, "digest": "", "command": sys.argv[1:], "secrets": {},
                  "project": os.environ["PROJECT"], "distributed": os.environ["DISTRIBUTED"] == "true"}))
PYTHON
copy "$staged/job.json"
on_all "python3 $folder/remote.py start"
rm -r "$staged"

# Follow it. Ctrl-C ends the following, not the job.
gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=0 \
  "--ssh-flag=-oConnectTimeout=30 -oServerAliveInterval=15" \
  --command="python3 $folder/remote.py logs --offset=0 --follow=1" --quiet
