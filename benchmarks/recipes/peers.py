"""A run of a baseline: a network of transformers, trained by PyTorch in a loop like that of transformers' Trainer."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipes.rungs import MODERN, Peer
from benchmarks.recipes.runs import Clock, Point, Run, write_result
from benchmarks.recipes.text import IGNORED, Text

STATE = "state.pt"
MODEL = "model"
"""The folder of the trained network, as transformers writes it."""
WEIGHT_DECAY, BETAS, EPS, CLIP_NORM, WARMUP = 0.01, (0.9, 0.98), 1e-6, 1.0, 0.05
"""As base has them."""
SCORED_TOGETHER = 32


def network(peer: Peer, sizes: Mapping[str, Any], vocab_size: int) -> Any:
    """A new network of transformers, of about the size of ours."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    shared = {
        "vocab_size": vocab_size,
        "hidden_size": sizes["model.hidden_size"],
        "num_hidden_layers": sizes["model.num_hidden_layers"],
        "num_attention_heads": sizes["model.num_attention_heads"],
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 0,
        "sep_token_id": 2,
    }
    if peer.family == "modernbert":
        narrower = (
            MODERN["model.intermediate_size"] / 1024
        )  # of RoBERTa's feed-forward layer, which has no gate
        width = round(narrower * sizes["model.intermediate_size"])
        dropout = {f"{part}_dropout": peer.dropout for part in ("attention", "embedding", "mlp")}
        # Only masked positions reach the head, as ours has it too.
        config = ModernBertConfig(**shared, intermediate_size=width, sparse_prediction=True, **dropout)
        return ModernBertForMaskedLM(config)
    for role in ("cls", "sep"):
        del shared[f"{role}_token_id"]
    return RobertaForMaskedLM(
        RobertaConfig(
            **shared,
            intermediate_size=sizes["model.intermediate_size"],
            max_position_embeddings=sizes["model.max_position_embeddings"],
            type_vocab_size=1,
            hidden_dropout_prob=peer.dropout,
            attention_probs_dropout_prob=peer.dropout,
        )
    )


def optimizers(model: Any, peer: Peer) -> list[Any]:
    """AdamW, without decay of biases and norms; with Muon too, which has the matrices of the layers."""
    import torch

    named = list(model.named_parameters())
    matrices = [p for name, p in named if peer.muon and p.ndim == 2 and ".layers." in f".{name}"]
    theirs = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in theirs]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    made: list[Any] = [torch.optim.AdamW(groups, lr=peer.learning_rate, betas=BETAS, eps=EPS)]
    if matrices:
        if not peer.bfloat16:
            _orthogonalize_in_float32()
        # Updates as large as AdamW's, so that one learning rate fits both, as ours has it.
        muon = torch.optim.Muon(
            matrices, lr=peer.learning_rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        )
        made.append(muon)
    return made


def _orthogonalize_in_float32() -> None:
    """Have torch.optim.Muon of this process compute in the type of its gradients.

    Its products are in bfloat16 whatever the network's type is. On a processor without such instructions they take
    17 of 19 seconds of a step of 10.6M parameters, and the baseline should not lose by that.
    """
    import torch.optim._muon as muon

    def orthogonalized(
        gradient: Any, coefficients: tuple[float, float, float], steps: int, eps: float
    ) -> Any:
        a, b, c = coefficients
        is_tall = gradient.size(0) > gradient.size(1)
        x = gradient.T if is_tall else gradient
        x = x / x.norm().clamp(min=eps)
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if is_tall else x

    muon._zeropower_via_newtonschulz = orthogonalized


def masks_of_documents(tokens: Any, first: int, half_window: int) -> dict[str, Any]:
    """Which tokens see each other where documents share a row: ModernBERT's two masks, bool [B, 1, S, S].

    transformers' ModernBERT takes them on a CPU in place of an attention mask. Its rotary positions are relative, so
    they need not restart.

    Args:
      tokens: rows of joined documents, [B, S], before masking.
      first: the token that begins a document.
      half_window: the tokens to each side that a local layer sees.
    """
    import torch

    document = (tokens == first).cumsum(1)
    same = (document[:, None, :, None] == document[:, None, None, :]).contiguous()
    places = torch.arange(tokens.shape[1])
    near = (places[:, None] - places[None, :]).abs() <= half_window
    return {"full_attention": same, "sliding_attention": same & near}


def train_and_score(run: Run, folder: Path) -> dict[str, Any]:
    """Make a run in its folder, or go on with it from its last score; returns its result."""
    import torch
    from transformers import (
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        get_linear_schedule_with_warmup,
        set_seed,
    )

    began, clock, text, peer = (
        time.perf_counter(),
        Clock(folder),
        Text(Path(run.text)),
        Peer(**run.peer or {}),
    )
    sizes, seq_len, batch = run.sizes, run.sizes["seq_len"], run.sizes["global_batch"]
    ids = text.training_ids()
    rows = torch.from_numpy(ids[: len(ids) // seq_len * seq_len].reshape(-1, seq_len).astype(np.int64))
    tokenizer = AutoTokenizer.from_pretrained(text.tokenizer)
    set_seed(run.seed)
    model = network(peer, sizes, len(tokenizer))
    made = optimizers(model, peer)
    steps = run.tokens // (seq_len * batch)
    schedules = [get_linear_schedule_with_warmup(each, round(WARMUP * steps), steps) for each in made]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=peer.rate)
    special = torch.tensor(tokenizer.all_special_ids)
    order = _order(len(rows), steps * batch, run.seed)
    held_out = text.held_out()
    points: list[Point] = []
    parts = [model, *made, *schedules]
    if (folder / STATE).exists():
        points = _restore(folder / STATE, parts)
    half_window = getattr(model.config, "sliding_window", 0) or 0
    model.train()
    for step in range(points[-1].step + 1 if points else 1, steps + 1):
        tokens = rows[order[(step - 1) * batch : step * batch]]
        inputs, labels = collate.torch_mask_tokens(tokens.clone(), torch.isin(tokens, special))
        mask = {"attention_mask": masks_of_documents(tokens, 0, half_window)} if peer.isolated else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=peer.bfloat16):
            loss = model(input_ids=inputs, labels=labels, **mask).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for each in [*made, *schedules]:
            each.step()
        model.zero_grad()
        clock.note(step)
        if step % max(1, steps // run.points) == 0 or step == steps:
            points.append(Point(step, step * seq_len * batch, *score(model, *held_out)))
            _save(folder / STATE, parts, points)
            clock.leave_out()
    count = sum(p.numel() for p in model.parameters())
    for part in (model, tokenizer):
        part.save_pretrained(folder / MODEL)
    return write_result(folder, run, points, clock, began, parameters=count, compile_seconds=0.0)


def score(model: Any, tokens: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The loss (nats a prediction) and accuracy of a network on masked rows, in float32; int32 [R, S] each."""
    import torch

    model.eval()
    loss, hits = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens), SCORED_TOGETHER):
            inputs, targets = (
                torch.from_numpy(array[start : start + SCORED_TOGETHER].astype(np.int64))
                for array in (tokens, labels)
            )
            where = targets != IGNORED
            logits = model(input_ids=inputs).logits[where]
            loss += torch.nn.functional.cross_entropy(logits, targets[where], reduction="sum").item()
            hits += int((logits.argmax(-1) == targets[where]).sum())
    model.train()
    count = int((labels != IGNORED).sum())
    return loss / count, hits / count


def _order(rows: int, wanted: int, seed: int) -> np.ndarray:
    """Numbers of rows in a random order, epoch after epoch."""
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.permutation(rows) for _ in range(-(-wanted // rows))])[:wanted]


def _save(file: Path, parts: list[Any], points: list[Point]) -> None:
    import torch

    new = file.with_suffix(".new")
    states = {"parts": [part.state_dict() for part in parts], "rng": torch.get_rng_state()}
    torch.save(states | {"points": [vars(point) for point in points]}, new)
    new.replace(file)


def _restore(file: Path, parts: list[Any]) -> list[Point]:
    import torch

    saved = torch.load(file, weights_only=True)
    for part, state in zip(parts, saved["parts"]):
        part.load_state_dict(state)
    torch.set_rng_state(saved["rng"])
    return [Point(**point) for point in saved["points"]]
