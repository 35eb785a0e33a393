"""The losses against plain computations, and texts that do not see each other."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from shudun.errors import ShudunError
from shudun_training.pretraining import models
from shudun_training.pretraining.batches import Batches, StepRows
from shudun_training.pretraining.config import MaskingConfig, OptimizationConfig
from shudun_training.pretraining.objective import Objective
from shudun_training.pretraining.optimizers import Optimizers
from shudun_training.pretraining.schedule import Schedule


@pytest.fixture
def model(vocabulary):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary.special),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    made = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.fixture
def rows(store):
    return StepRows(store, row_tokens=32, rows_per_step=6, seed=3)


def batch_of(rows, vocabulary):
    make = Batches(rows, MaskingConfig(share=0.3), vocabulary, seed=3, parts=1, rank=0, world=1)
    (batch,) = make(2).parts
    return batch


def test_both_losses_are_those_of_texts_one_by_one(model, rows, vocabulary):
    batch, original = batch_of(rows, vocabulary), rows(2)
    masked, bag = Objective(model, dtype=torch.float32, bag=True)(batch)
    chosen = torch.zeros(batch.piece.shape, dtype=torch.bool)
    chosen[batch.chosen_rows, batch.chosen_columns] = True
    token_losses, text_losses = [], []
    for piece in range(int(batch.piece.max()) + 1):
        row, column = torch.nonzero(batch.piece == piece, as_tuple=True)
        # The stock call; later pieces of a long text go on with its positions.
        logits = model(
            input_ids=batch.input_ids[row, column][None],
            position_ids=batch.position_ids[row, column][None],
            token_type_ids=batch.token_type_ids[row, column][None],
        ).logits[0]
        true = torch.from_numpy(original.input_ids)[row, column]
        at = chosen[row, column]
        token_losses += functional.cross_entropy(logits[at], true[at], reduction="none").tolist()
        if true[0] == vocabulary.cls_id:
            words = sorted({int(token) for token in true if not vocabulary.special[token]})
            text_losses.append(-logits[0].log_softmax(-1)[words].mean().item() if words else 0.0)
    assert masked.item() == pytest.approx(np.mean(token_losses), rel=1e-5)
    assert bag.item() == pytest.approx(np.mean(text_losses), rel=1e-5)


def test_a_text_has_the_hidden_states_it_has_alone(model, rows, vocabulary):
    batch = batch_of(rows, vocabulary)
    packed = Objective(model, dtype=torch.float32, bag=False)
    seen = {}
    model.base_model.register_forward_hook(lambda module, inputs, output: seen.update(h=output.last_hidden_state))
    packed(batch)
    hidden = seen["h"]
    for piece in range(int(batch.piece.max()) + 1):
        row, column = torch.nonzero(batch.piece == piece, as_tuple=True)
        alone = model.base_model(
            input_ids=batch.input_ids[row, column][None],
            position_ids=batch.position_ids[row, column][None],
            token_type_ids=batch.token_type_ids[row, column][None],
        ).last_hidden_state[0]
        torch.testing.assert_close(hidden[row, column], alone, rtol=1e-4, atol=1e-5)


def test_parts_of_a_step_add_up_to_its_losses_and_gradients(model, rows, vocabulary):
    objective = Objective(model, dtype=torch.float32, bag=True)

    def gradients(parts):
        make = Batches(rows, MaskingConfig(), vocabulary, seed=3, parts=parts, rank=0, world=1)
        model.zero_grad()
        losses = [objective(part) for part in make(1).parts]
        sum(masked + 0.2 * bag for masked, bag in losses).backward()
        total = torch.stack([torch.stack(pair) for pair in losses]).sum(0).detach()
        return total, torch.cat([parameter.grad.ravel() for parameter in model.parameters()])

    (whole, whole_gradient), (divided, divided_gradient) = gradients(1), gradients(3)
    torch.testing.assert_close(divided, whole)
    torch.testing.assert_close(divided_gradient, whole_gradient, rtol=1e-4, atol=1e-6)


def test_without_the_second_loss_only_masked_tokens_count(model, rows, vocabulary):
    batch = batch_of(rows, vocabulary)
    both, bag = Objective(model, dtype=torch.float32, bag=True)(batch)
    alone, none = Objective(model, dtype=torch.float32, bag=False)(batch)
    assert alone.item() == both.item()
    assert none.item() == 0 < bag.item()


def test_a_part_where_nothing_is_masked_adds_nothing(model, rows, vocabulary):
    make = Batches(rows, MaskingConfig(share=1e-9), vocabulary, seed=3, parts=1, rank=0, world=1)
    (batch,) = make(0).parts
    assert batch.chosen_in_step == 0
    masked, _ = Objective(model, dtype=torch.float32, bag=False)(batch)
    masked.backward()
    assert masked.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def without(name, forward, *arguments, **named):
    return forward(*arguments, **{key: value for key, value in named.items() if key != name})


def test_an_encoder_that_ignores_the_mask_is_refused(model, tokenizer):
    models.require_packing(model, tokenizer)
    forward = model.base_model.forward
    model.base_model.forward = partial(without, "attention_mask", forward)
    with pytest.raises(ShudunError, match=r"'bert' cannot be pre-trained on packed rows: a text's logits change by"):
        models.require_packing(model, tokenizer)


def test_an_encoder_that_ignores_positions_is_refused(model, tokenizer):
    forward = model.base_model.forward
    model.base_model.forward = partial(without, "position_ids", forward)
    with pytest.raises(ShudunError, match="logits change by"):
        models.require_packing(model, tokenizer)


def test_an_encoder_that_cannot_be_called_so_is_refused(model, tokenizer):
    bare = SimpleNamespace(base_model=model.base_model, config=model.config, eval=model.eval, train=model.train)
    with pytest.raises(ShudunError, match="cannot be called so"):
        models.require_packing(bare, tokenizer)


def test_the_learning_rate_rises_stays_and_falls_to_nearly_nothing():
    schedule = Schedule(steps=100, warmup_steps=10, decay_steps=20)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert set(factors[10:81]) == {1.0}
    assert factors[81:] == pytest.approx([n / 20 for n in range(19, 0, -1)])
    assert [Schedule(3, 0, 0).factor(step) for step in range(3)] == [1.0] * 3


def test_schedules_agree_until_one_begins_to_fall():
    short, long = Schedule(100, 10, 20), Schedule(500, 10, 50)
    assert short.agrees(long, 81)
    assert not short.agrees(long, 82)
    assert not short.agrees(Schedule(100, 11, 20), 5)
    assert not short.agrees(Schedule(40, 10, 20), 50)
    assert not short.agrees(Schedule(100, 10, 10), 101)


def names(model, **values):
    optimizers = Optimizers(model, OptimizationConfig(steps=2000, **values))
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for optimizer in optimizers._all for group in optimizer.param_groups]
    return [{of[id(parameter)] for parameter in group["params"]} for group in groups]


def test_muon_takes_the_matrices_of_layers_and_nothing_else(model):
    decayed, plain, matrices = names(model, optimizer="muon")
    everything = {name for name, _ in model.named_parameters()}
    assert decayed | plain | matrices == everything
    assert len(decayed) + len(plain) + len(matrices) == len(everything)
    assert all(".layer." in name and name.endswith("weight") for name in matrices)
    assert len(matrices) == 2 * 6
    assert all("bias" in name or "LayerNorm" in name for name in plain)
    assert "bert.embeddings.word_embeddings.weight" in decayed
    assert names(model, optimizer="adamw")[0] == decayed | matrices


def test_muon_without_layers_says_so():
    with pytest.raises(ShudunError, match="finds no matrices of layers in this model; use adamw"):
        Optimizers(torch.nn.Linear(3, 3), OptimizationConfig(steps=2000))


def test_a_step_moves_the_weights_by_the_configured_rates(model, rows, vocabulary):
    config = OptimizationConfig(steps=2000, learning_rate=1e-3, matrix_learning_rate=2e-3, weight_decay=0)
    optimizers = Optimizers(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    masked, bag = Objective(model, dtype=torch.float32, bag=True)(batch_of(rows, vocabulary))
    (masked + bag).backward()
    optimizers.step(0.5)
    moved = {name: (p.detach() - before[name]) for name, p in model.named_parameters()}
    # The first step of Adam is the learning rate for each number that has a gradient.
    assert moved["cls.predictions.bias"].abs().max().item() == pytest.approx(0.5e-3, rel=1e-3)
    # Muon's root mean square is 0.2 of its rate, like AdamW's typical one.
    matrix = moved["bert.encoder.layer.0.intermediate.dense.weight"]
    rms = 0.2 * 0.5 * 2e-3 * math.sqrt(32) * math.sqrt(16 / (16 * 32))
    assert matrix.pow(2).mean().sqrt().item() == pytest.approx(rms, rel=0.25)


def test_states_of_other_optimizers_are_refused(model):
    adamw = Optimizers(model, OptimizationConfig(steps=2000, optimizer="adamw"))
    muon = Optimizers(model, OptimizationConfig(steps=2000, optimizer="muon"))
    with pytest.raises(ShudunError, match="optimisers are not those of this configuration"):
        muon.load(adamw.state())
