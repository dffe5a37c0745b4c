"""Options of the compiler by platform, and compilers that do not know them."""

import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from pretrain.devices.compiler import OPTIONS, WITHOUT_ROTATION, compile_step
from pretrain.runtime import programs


class Lowered:
    """A step for a compiler that knows some options; it notes those that it is given."""

    def __init__(self, known: set[str], failure: str = ""):
        self.known, self.failure, self.given = known, failure, list[dict[str, str] | None]()

    def compile(self, compiler_options: dict[str, str] | None = None) -> str:
        self.given.append(compiler_options and dict(compiler_options))
        for option in compiler_options or {}:
            if option not in self.known:
                raise jax.errors.JaxRuntimeError(f"INVALID_ARGUMENT: No such compile option: '{option}'")
        if self.failure:
            raise jax.errors.JaxRuntimeError(self.failure)
        return "program"


ALL = OPTIONS | WITHOUT_ROTATION


@pytest.mark.parametrize(("is_rotary", "options"), [(True, OPTIONS), (False, ALL)])
def test_a_tpus_step_has_the_options_of_its_network(is_rotary, options):
    lowered = Lowered(set(ALL))
    assert compile_step(lowered, "tpu", is_rotary) == "program"  # type: ignore[arg-type, comparison-overlap]
    assert lowered.given == [options]


@pytest.mark.parametrize("unknown", range(1, len(ALL) + 1))
def test_options_that_a_compiler_lacks_are_left_out_with_a_line_each(unknown, caplog):
    known = dict(list(ALL.items())[unknown:])
    lowered = Lowered(set(known))
    with caplog.at_level(logging.WARNING):
        assert compile_step(lowered, "tpu", False) == "program"  # type: ignore[arg-type, comparison-overlap]
    assert (lowered.given[-1] or {}) == known
    assert len(caplog.messages) == unknown
    assert all("this compiler has no option xla_tpu_" in message for message in caplog.messages)


def test_options_that_a_user_sets_are_left_to_him(monkeypatch):
    first, *others = ALL
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--xla_other=1 --{first}=false")
    lowered = Lowered(set(ALL))
    compile_step(lowered, "tpu", False)  # type: ignore[arg-type]
    assert lowered.given == [{name: ALL[name] for name in others}]


def test_runs_compile_by_it(monkeypatch):
    found = []
    monkeypatch.setattr(programs, "compile_step", lambda *given: found.append(given))
    monkeypatch.setattr(programs, "lower", lambda *given: "lowered")
    programs.compiled(lambda: None, None, {}, "a step", is_rotary=True)
    assert found == [("lowered", "cpu", True)]


def test_other_failures_of_a_compiler_are_passed_on():
    lowered = Lowered(set(ALL), "RESOURCE_EXHAUSTED: no memory")
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_step(lowered, "tpu", False)  # type: ignore[arg-type]
    assert len(lowered.given) == 1


def test_a_cpus_step_has_none_and_its_compiler_names_unknown_ones_like_that():
    lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(3))
    assert compile_step(lowered, "cpu", False)(jnp.zeros(3)).tolist() == [1, 1, 1]
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"No such compile option: 'xla_no_such_option'"):
        lowered.compile(compiler_options={"xla_no_such_option": "true"})


@pytest.mark.slow
def test_libtpu_knows_the_options():
    pytest.importorskip("libtpu")
    script = (
        "import jax, jax.numpy as jnp\n"
        "from pretrain.config import MeshConfig\n"
        "from pretrain.devices.compiler import OPTIONS, WITHOUT_ROTATION, compile_step\n"
        "from pretrain.devices.mesh import make_mesh\n"
        "from jax.experimental import topologies\n"
        "pod = topologies.get_topology_desc(topology_name='v5e:2x2', platform='tpu')\n"
        "whole = jax.NamedSharding(make_mesh(MeshConfig(), pod.devices), jax.P())\n"
        "matrix = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16, sharding=whole)\n"
        "lowered = jax.jit(lambda x: x @ x).lower(matrix)\n"
        "for name, value in (OPTIONS | WITHOUT_ROTATION).items():\n"
        "    lowered.compile(compiler_options={name: value})\n"
        "OPTIONS['xla_tpu_no_such_option'] = 'true'\n"
        "compile_step(lowered, 'tpu', False)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
