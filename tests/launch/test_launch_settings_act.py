"""Every field of a launch config that a launcher reads changes what it makes; the others are refused."""

import dataclasses

import pytest

from base.command_line import read
from base.errors import UserError
from launch import slurm
from launch.config import SHARED, KubernetesConfig, LaunchConfig, SlurmConfig, unused_by
from launch.kubernetes import __main__ as kubernetes

COMMAND = ["python", "-m", "pretrain", "--config=configs/roberta_base.py"]
ENVIRONMENT = {"HOME": "/home/me", "LANG": "C"}
GPU = {"image": "unmask:1", "accelerator": "nvidia-h100-80gb"}
TPU = {"image": "unmask:1", "accelerator": "v6e-16"}

OF_SLURM = {
    "partition": "gpu",
    "account": "me",
    "qos": "high",
    "nodes": 3,
    "gpus_per_node": 4,
    "gpu_type": "h100",
    "cpus_per_task": 3,
    "memory": "20G",
    "time": "02:00:00",
    "signal_before": 99,
    "max_restarts": 7,
    "directory": "/home/me/unmask",
    "log": "x-%j.log",
    "setup": ("module load cuda",),
    "secrets_file": "/home/me/secrets",
    "options": ("--exclusive",),
}
OF_KUBERNETES = {
    "image": (GPU, "unmask:2"),
    "namespace": (GPU, "mine"),
    "accelerator": (GPU, "nvidia-l4"),
    "slices": (TPU, 2),
    "nodes": (GPU, 3),
    "gpus_per_node": (GPU, 4),
    "cpu": (GPU, "8"),
    "memory": (GPU, "64Gi"),
    "spot": (GPU, False),
    "privileged": (TPU, False),
    "service_account": (GPU, "me"),
    "max_restarts": (GPU, 7),
    "grace_seconds": (GPU, 99),
    "wait_seconds": ({**GPU, "nodes": 2}, 99),
    "node_selector": (GPU, ("pool=mine",)),
}
OF_BOTH = {"workdir": "gs://other/{name}", "env": ("LANG",), "secrets": ("HF_TOKEN=hf/token",)}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def script(config):
    return slurm.render("big", COMMAND, config)


def manifest(config):
    return kubernetes.render("big", COMMAND, config, ENVIRONMENT)


def test_every_field_is_there():
    assert list(OF_SLURM) == [field.name for field in dataclasses.fields(SlurmConfig)]
    assert list(OF_KUBERNETES) == [field.name for field in dataclasses.fields(KubernetesConfig)]
    assert tuple(OF_BOTH) == SHARED["slurm"] == SHARED["kubernetes"]
    groups = {"tpu", "slurm", "kubernetes"}
    assert {field.name for field in dataclasses.fields(LaunchConfig)} == groups | set(SHARED["tpu"])


@pytest.mark.parametrize("name", OF_SLURM)
def test_a_field_of_slurm_acts(name):
    held = {"secrets": ("HF_TOKEN=hf",)} if name == "secrets_file" else {}
    group = SlurmConfig(secrets_file="/home/you/secrets") if held else SlurmConfig()
    config = LaunchConfig(workdir="/shared/{name}", slurm=group, **held)
    changed = dataclasses.replace(config, slurm=dataclasses.replace(group, **{name: OF_SLURM[name]}))
    assert script(config) != script(changed)


@pytest.mark.parametrize("name", OF_KUBERNETES)
def test_a_field_of_kubernetes_acts(name):
    given, value = OF_KUBERNETES[name]
    group = KubernetesConfig(**given)
    config = LaunchConfig(workdir="gs://bucket/{name}", kubernetes=group)
    changed = dataclasses.replace(config, kubernetes=dataclasses.replace(group, **{name: value}))
    assert manifest(config) != manifest(changed)


@pytest.mark.parametrize("name", OF_BOTH)
def test_a_field_of_both_acts(name):
    config = LaunchConfig(
        workdir="gs://bucket/{name}",
        kubernetes=KubernetesConfig(**GPU),
        slurm=SlurmConfig(secrets_file="/home/me/secrets"),
    )
    changed = dataclasses.replace(config, **{name: OF_BOTH[name]})
    assert manifest(config) != manifest(changed)
    if name == "secrets":
        changed = dataclasses.replace(changed, secrets=("HF_TOKEN=hf",))
    assert script(config) != script(changed)


@pytest.mark.parametrize(
    ("launcher", "fields"),
    [
        ("slurm", ["tpu.zone=x"]),
        ("slurm", ["kubernetes.image=x"]),
        ("slurm", ["python=python3.12"]),
        ("slurm", ["price=2.0"]),
        ("slurm", ["slurm.gpus_per_node=0", "slurm.gpu_type=a100"]),
        ("slurm", ["slurm.secrets_file=x"]),
        ("kubernetes", ["slurm.account=x"]),
        ("kubernetes", ["source=archive"]),
        ("kubernetes", ["extras=('tpu',)"]),
        ("kubernetes", ["kubernetes.accelerator=v6e-16", "kubernetes.nodes=3"]),
        ("kubernetes", ["kubernetes.accelerator=nvidia-l4", "kubernetes.privileged=false"]),
        (
            "kubernetes",
            ["kubernetes.accelerator=nvidia-l4", "kubernetes.nodes=1", "kubernetes.wait_seconds=9"],
        ),
        ("kubernetes", ["kubernetes.accelerator=v6e-1", "kubernetes.wait_seconds=777"]),
        ("kubernetes", ["kubernetes.accelerator=tpu7x-8", "kubernetes.wait_seconds=777"]),
        ("tpu", ["slurm.account=x"]),
        ("tpu", ["source=archive", "commit=main"]),
        ("tpu", ["tpu.queued=false", "tpu.valid_until=6h"]),
        ("tpu", ["tpu.internal_ips=false", "tpu.iap=false"]),
    ],
)
def test_a_field_that_a_launcher_does_not_read_is_refused(tmp_path, launcher, fields):
    recipe = tmp_path / "launch.py"
    recipe.write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict("
        "{'tpu': {'zone': 'a'}, 'slurm': {'account': 'b'}, 'kubernetes': {'namespace': 'c'}})\n"
    )

    def given(*overrides):
        arguments = ["launch", f"--config={recipe}", *(f"--config.{each}" for each in overrides)]
        return read(LaunchConfig, arguments, lambda values: None, unused=unused_by(launcher))

    assert given().given.notes == ()  # a config may be for several launchers
    with pytest.raises(UserError, match=rf"config\.{fields[-1].partition('=')[0]}=.* has no effect: "):
        given(*fields)


IDLE = {
    "tpu": {
        "source": "archive",
        "commit": "main",
        "tpu": {"queued": False, "valid_until": "6h", "internal_ips": False, "iap": False},
    },
    "slurm": {"slurm": {"gpus_per_node": 0, "gpu_type": "a100", "secrets_file": "/home/me/secrets"}},
    "kubernetes": {
        "kubernetes": {"accelerator": "nvidia-l4", "nodes": 1, "privileged": False, "wait_seconds": 9}
    },
}
"""For each launcher what it refuses in a recipe, since no field that it reads gives it an effect."""


@pytest.mark.parametrize("launcher", IDLE)
@pytest.mark.parametrize("owner", IDLE)
def test_only_the_launcher_that_reads_a_group_looks_at_what_its_fields_do(tmp_path, launcher, owner):
    recipe = tmp_path / "launch.py"
    recipe.write_text(
        f"import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({IDLE[owner]!r})\n"
    )

    def given(*overrides):
        arguments = ["launch", f"--config={recipe}", *overrides]
        return read(LaunchConfig, arguments, lambda values: None, unused=unused_by(launcher))

    if launcher == owner:
        with pytest.raises(UserError, match="has no effect: "):
            given()
    else:
        assert given("--config.workdir=gs://bucket/run").given.notes == ()
