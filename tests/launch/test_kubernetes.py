"""The manifest of a run: the golden one, as the published schema has it, with every argument as it was written."""

from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from base.errors import UserError
from launch.config import KubernetesConfig, LaunchConfig
from launch.kubernetes.__main__ import main, objects, render
from launch.kubernetes.yaml_text import dump, literal

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).parent / "goldens"
VERSION = "1.31"
"""The first version of Kubernetes in which a policy on failed Pods is no longer beta."""
COMMAND = ["python", "-m", "pretrain", "--config=configs/roberta_base.py", "--workdir=gs://bucket/big"]
PATH = "--config.data.path=gs://bucket/corpus/*.jsonl.zst"
IMAGE = "--config.kubernetes.image=europe-west4-docker.pkg.dev/project/unmask/unmask:1"
SECRET = "--config.secrets=('HF_TOKEN=hugging-face/token',)"


def launch(config: str, *arguments: str) -> list[str]:
    return ["launch.kubernetes", arguments[0], f"--config={ROOT}/configs/{config}.py", IMAGE, *arguments[1:]]


def of(accelerator: str = "tpu7x-32", shared: LaunchConfig | None = None, **changes) -> LaunchConfig:
    """A launch config with other values in its group `kubernetes`."""
    group = KubernetesConfig(image="unmask:1", accelerator=accelerator)
    return replace(shared or LaunchConfig(), kubernetes=replace(group, **changes))


def pod_of(config: LaunchConfig, command=(*COMMAND,), environment=()) -> dict:
    """The spec of a Pod, as it would be read from the manifest."""
    *_, job = objects("big", command, config, dict(environment))
    return yaml.safe_load(dump([job]))["spec"]["template"]["spec"]


def command_of(pod: dict) -> list[str]:
    """What the container runs: Kubernetes makes one dollar of two."""
    return [argument.replace("$$", "$") for argument in pod["containers"][0]["command"]]


# To bring a golden up to date, write to it what the command gives, and read the difference.
@pytest.mark.parametrize(
    ("golden", "arguments"),
    [
        ("gke_tpu7x.yaml", launch("launch_gke_tpu", "big", SECRET, "--", *COMMAND, PATH)),
        (
            "gke_multislice.yaml",
            launch(
                *("launch_gke_tpu", "big", "--config.kubernetes.accelerator=v5litepod-256"),
                *("--config.kubernetes.slices=2", "--config.kubernetes.spot=False", "--", *COMMAND),
                "--config.mesh.replica=2",
            ),
        ),
        ("gke_gpus.yaml", launch("launch_gke_gpu", "big", SECRET, "--", *COMMAND, PATH)),
        (
            "gke_one_gpu.yaml",
            launch(
                *("launch_gke_gpu", "mrpc", "--config.kubernetes.accelerator=nvidia-l4"),
                *("--config.kubernetes.nodes=1", "--config.kubernetes.gpus_per_node=1"),
                *("--config.kubernetes.cpu=7500m", "--config.kubernetes.memory=24Gi"),
                *("--config.kubernetes.node_selector=('cloud.google.com/gke-nodepool=l4',)", "--"),
                *("python", "-m", "finetune", "--config=configs/glue.py:mrpc", "--workdir=gs://bucket/mrpc"),
            ),
        ),
    ],
)
def test_the_manifest_is_the_golden_one(golden, arguments, tmp_path, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == (GOLDENS / golden).read_text()

    place = arguments.index("--")
    file = tmp_path / "run.yaml"
    assert main([*arguments[:place], f"--out={file}", *arguments[place:]]) == 0
    assert file.read_text() == (GOLDENS / golden).read_text()
    assert capsys.readouterr().out == f"written: {file}; to start the run: kubectl apply -f {file}\n"


@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_manifest_follows_the_published_schema(golden):
    for document in yaml.safe_load_all(golden.read_text()):
        if document["kind"] == "JobSet":  # not of Kubernetes itself; the Jobs that it makes are
            (jobs,) = document["spec"]["replicatedJobs"]
            document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, **jobs["template"]}
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schema_would_notice_a_slip():
    document = yaml.safe_load_all((GOLDENS / "gke_tpu7x.yaml").read_text())
    job = [*document][-1]
    job["spec"]["podFailurePolicies"] = job["spec"].pop("podFailurePolicy")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSION, strict=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=5))
@example(
    [
        "no",
        "1e3",
        "0x1f",
        "2026-01-01",
        "~",
        "$(HOME) $$",
        "- a: b #",
        "'\"\n\\",
        "<<",
        "=",
        "\x85\u2028\ufeff",
    ]
)
def test_every_argument_arrives_as_it_was_written(arguments):
    command = ["env", *arguments, "--workdir=gs://b/w"]
    assert command_of(pod_of(of("nvidia-l4"), command)) == command
    assert literal("$(A)") == "$$(A)"


def test_a_pod_succeeds_only_when_its_run_has_finished():
    assert command_of(pod_of(of())) == [
        *("python", "-m", "launch.finished", "gs://bucket/big/finished.json", "--"),
        *COMMAND,
    ]


def test_a_mistake_ends_the_job_at_once_and_what_is_no_failure_is_not_counted():
    *_, job = objects("big", COMMAND, of(max_restarts=5), {})
    assert job["spec"]["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75, 143]}},
    ]
    assert job["spec"]["backoffLimit"] == 5 * 4  # each of the four Pods fails with the run
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("accelerator", "nodes", "chips", "labels"),
    [
        ("tpu7x-8", 1, 4, ("tpu7x", "2x2x1")),
        ("tpu7x-128", 16, 4, ("tpu7x", "4x4x4")),
        ("v6e-8", 1, 8, ("tpu-v6e-slice", "2x4")),
        ("v6e-16", 4, 4, ("tpu-v6e-slice", "4x4")),
        ("v5p-8", 1, 4, ("tpu-v5p-slice", "2x2x1")),
        ("v4-32", 4, 4, ("tpu-v4-podslice", "2x2x4")),
        ("v5litepod-256", 64, 4, ("tpu-v5-lite-podslice", "16x16")),
    ],
)
def test_a_tpu_type_says_machines_and_topology(accelerator, nodes, chips, labels):
    *services, job = objects("big", COMMAND, of(accelerator), {})
    assert (job["spec"]["completions"], job["spec"]["parallelism"], len(services)) == (
        nodes,
        nodes,
        nodes > 1,
    )
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": labels[0],
        "cloud.google.com/gke-tpu-topology": labels[1],
        "cloud.google.com/gke-spot": "true",
    }


def test_a_tpu_pod_without_privileges_may_lock_memory():
    pod = pod_of(of(privileged=False))
    assert pod["containers"][0]["securityContext"] == {
        "runAsUser": 0,
        "capabilities": {"add": ["SYS_RESOURCE"]},
    }
    shell, run = command_of(pod)[:4], command_of(pod)[4:]
    assert shell == ["sh", "-c", 'ulimit -l 68719476736 && exec "$@"', "sh"]
    assert run == command_of(pod_of(of()))


def test_the_processes_of_gpu_machines_are_told_of_each_other():
    (container,) = pod_of(of("nvidia-h100-80gb", nodes=3))["containers"]
    variables = {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
    assert variables == {
        "UNMASK_DISTRIBUTED": "1",
        "UNMASK_INITIALIZATION_SECONDS": "1800",
        "JAX_COORDINATOR_ADDRESS": "big-0.big:8476",
        "JAX_NUM_PROCESSES": "3",
        "JAX_PROCESS_ID": {
            "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
        },
    }
    # One machine needs nobody.
    assert pod_of(of("nvidia-h100-80gb"))["containers"][0]["env"] == []


def test_a_secret_is_named_and_its_value_is_nowhere(capsys):
    config = of(shared=LaunchConfig(secrets=("HF_TOKEN=hf", "WANDB_KEY=keys/wandb"), env=("HF_HOME",)))
    text = render("big", COMMAND, config, {"HF_TOKEN": "canary", "WANDB_KEY": "canary", "HF_HOME": "/a $(B)"})
    assert "canary" not in text
    assert pod_of(config, COMMAND, {"HF_HOME": "/a $(B)"})["containers"][0]["env"][2:] == [
        {"name": "HF_HOME", "value": "/a $$(B)"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}}},
        {"name": "WANDB_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "wandb"}}},
    ]


HOSTILE = ["$(touch x)", "a\nkind: Pod", "a'b", 'a"b', "a: b", "--x y", "é", "\u2028", "{a}", "# x"]


@pytest.mark.parametrize(
    "field",
    ["image", "namespace", "service_account", "cpu", "memory", "accelerator", "node_selector", "name"],
)
@pytest.mark.parametrize("value", HOSTILE)
def test_what_kubernetes_would_not_take_is_one_line(value, field):
    given = {"accelerator": f"nvidia-{value}", "node_selector": (f"a={value}",)}.get(field, value)
    config = of() if field == "name" else of(**{field: given})
    with pytest.raises(UserError) as error:
        render(value if field == "name" else "big", COMMAND, config, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [*HOSTILE, "$$(X)", "- no\r\n\ttrue", "😀\x07\x85", "null", "0x10", ""])
def test_the_value_of_a_variable_arrives_as_it_is(value):
    config = of(shared=LaunchConfig(env=("FLAVOUR",)))
    given = pod_of(config, COMMAND, {"FLAVOUR": value})["containers"][0]["env"][-1]
    assert {**given, "value": given["value"].replace("$$", "$")} == {"name": "FLAVOUR", "value": value}


def test_a_value_that_is_not_utf8_is_one_line():
    with pytest.raises(UserError, match=r"config\.env names FLAVOUR, whose value is not UTF-8 text"):
        render("big", COMMAND, of(shared=LaunchConfig(env=("FLAVOUR",))), {"FLAVOUR": "caf\udce9"})


TPU, GPU = "launch_gke_tpu", "launch_gke_gpu"
GROUP = "--config.kubernetes."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (launch(TPU, "big"), "no command given; write it after --"),
        (launch(TPU, "--out=x", "--", *COMMAND), "no NAME given"),
        (launch(TPU, "Big_run", "--", *COMMAND), "NAME='Big_run' should have at most"),
        (launch(TPU, "b" * 41, "--", *COMMAND), "at most 40"),
        (launch(TPU, "big", "--", *COMMAND[:4]), "the command names no folder for the run"),
        (launch(TPU, "big", "--", *COMMAND, "--workdir=runs/big"), "is on a Pod's own disk"),
        (launch(TPU, "big", f"{GROUP}image=", "--", *COMMAND), "config.kubernetes.image='' should name"),
        (
            launch(TPU, "big", f"{GROUP}image=a b", "--", *COMMAND),
            "config.kubernetes.image='a b' should name",
        ),
        (
            launch(TPU, "big", f"{GROUP}accelerator=", "--", *COMMAND),
            "config.kubernetes.accelerator is not set",
        ),
        (launch(TPU, "big", f"{GROUP}accelerator=v3-8", "--", *COMMAND), "for v3 use TPU VMs"),
        (launch(TPU, "big", f"{GROUP}accelerator=tpu7x-9", "--", *COMMAND), "'tpu7x-9' does not exist"),
        (
            launch(TPU, "big", f"{GROUP}accelerator=2xv6e-16", "--", *COMMAND),
            "set config.kubernetes.slices=2",
        ),
        (launch(TPU, "big", f"{GROUP}accelerator=v6e-8", f"{GROUP}slices=2", "--", *COMMAND), "larger slice"),
        (launch(GPU, "big", f"{GROUP}slices=2", "--", *COMMAND), "GPUs have config.kubernetes.nodes"),
        (
            launch(GPU, "big", f"{GROUP}nodes=0", "--", *COMMAND),
            "config.kubernetes.nodes=0 should be at least 1",
        ),
        (
            launch(GPU, "big", f"{GROUP}memory=64 GB", "--", *COMMAND),
            "should be a quantity of Kubernetes, 64Gi",
        ),
        (
            launch(GPU, "big", f"{GROUP}namespace=A", "--", *COMMAND),
            "config.kubernetes.namespace='A' should have",
        ),
        (launch(GPU, "big", f"{GROUP}node_selector=('a',)", "--", *COMMAND), "'a' should be KEY=VALUE"),
        (launch(GPU, "big", "--config.env=('HF_TOKEN',)", "--", *COMMAND), "would be in the manifest"),
        (launch(GPU, "big", "--config.env=('NOT_HERE',)", "--", *COMMAND), "names NOT_HERE, not set here"),
        (launch(GPU, "big", "--config.secrets=('A=B C',)", "--", *COMMAND), "should be NAME=SECRET"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        main(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
