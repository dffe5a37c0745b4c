"""What the tables that name objectives say of each, and how what they learned is loaded by transformers."""

import jax
import jax.numpy as jnp
import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from data.special_tokens import SpecialTokens
from pretrain.checks import checked_model
from pretrain.models import attention, families
from pretrain.models.huggingface import encoder_config
from pretrain.objective.masking import MaskingTables
from pretrain.objective.names import TRAITS
from pretrain.objective.registry import MAKERS
from pretrain.phases import resolve_phases
from pretrain.publish.card_objective import TEXTS, limits, usage
from pretrain.publish.loading import caution, loading
from tests.tiny import tiny_config


def test_every_table_has_every_objective():
    assert set(TRAITS) == set(MAKERS) == set(TEXTS)
    tables = MaskingTables(0.8, 0.1, 4, (0, 1, 2, 3, 4), 300)
    tokens = jnp.arange(5, 69).reshape(2, 32)
    batch = {
        "tokens": tokens,
        "segments": jnp.ones_like(tokens),
        "positions": jnp.arange(32) * jnp.ones_like(tokens),
    }
    for name, make in MAKERS.items():
        objective = make(tables, 0.15, 2)
        assert (objective.name, objective.causal) == (name, TRAITS[name].causal)
        prepared = objective.prepare(jax.random.key(0), jnp.arange(2), batch)
        assert bool((prepared.inputs != tokens).any()) == TRAITS[name].hides_tokens


@pytest.mark.parametrize("name", families.pretrained())
def test_the_class_that_is_named_is_one_that_transformers_has(name: str):
    family = families.get(name)
    assert family.has_causal_class == (name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert loading("mlm", family).call("'x'") == "AutoModelForMaskedLM.from_pretrained('x')"
    assert caution("mlm", family) == ""
    use = "AutoModelForCausalLM.from_pretrained('x', is_decoder=True)"
    assert loading("clm", family).call("'x'") == (
        use if family.has_causal_class else "AutoModel.from_pretrained('x')"
    )
    for text in (caution("clm", family), limits("clm", family), usage("clm", family, "x", "<mask>")):
        assert ("is_decoder=True" in text) == family.has_causal_class
    assert "fill-mask" in usage("mlm", family, "x", "<mask>")


def test_a_kernel_without_causal_attention_is_passed_over_where_a_phase_needs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path
):
    fast = attention.Kernel(lambda query, *_: query, causal=False)
    monkeypatch.setattr(attention, "KERNELS", {"fast": fast} | attention.KERNELS)
    special = SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)

    def kernel(*objectives: str) -> str:
        phases = [{"steps": 1, "objective": name} for name in objectives]
        config = tiny_config(tmp_path, steps=None, phases=phases)
        encoder = encoder_config(config.model, 300, special)
        return str(checked_model(config, resolve_phases(config), encoder).encoder.kernel)

    assert kernel("mlm") == "fast"
    assert kernel("clm", "mlm") == "xla; fast has no causal attention"
