"""Packed rows: an encoder that works on real tokens alone says what it says of padded rows, and learns the same."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AlbertConfig,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from pref_dist.config.model_section import ModelSection
from pref_dist.errors import ModelError
from pref_dist.models import packed_attention
from pref_dist.models.build import build_model
from pref_dist.models.packed_rows import find_rows
from tests.tiny_model import write_random

SMALL = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
FAMILIES = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, max_position_embeddings=514),
    "xlm-roberta": XLMRobertaConfig(**SMALL, max_position_embeddings=514),
    "camembert": CamembertConfig(**SMALL, max_position_embeddings=514),
    "electra": ElectraConfig(**SMALL, embedding_size=16),
    "deberta-v2": DebertaV2Config(
        **SMALL,
        relative_attention=True,
        position_buckets=32,
        max_position_embeddings=128,
        pos_att_type="p2c|c2p",
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=32,
        pooler_dropout=0.0,
    ),
    "distilbert": DistilBertConfig(vocab_size=100, dim=32, hidden_dim=64, n_layers=3, n_heads=2),
    "modernbert": ModernBertConfig(
        **SMALL, local_attention=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
}
KINDS = {
    "own head": {"kind": "joint"},
    "two-layer mean": {"kind": "joint", "pooling": "mean", "head": "two_layer"},
    "last": {"kind": "joint", "pooling": "last"},
    "siamese": {"kind": "siamese"},
}
# One longer than a block of queries that see their neighbours alone, one of one token, two neighbours of one length.
LENGTHS = (300, 1, 17, 17, 60)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    return write_random(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


def build(folder, attention, **settings):
    section = ModelSection(**{"name": str(folder), "attention": attention, "weight_dtype": "fp64", **settings})
    built = build_model(section, folder, max_tokens=300, vocab_size=100, seed=3)
    assert (built.attention == "transformers") == (attention == "transformers")
    return built.module.eval()


def draw_inputs(kind="joint"):
    generator = torch.Generator().manual_seed(2)
    shape = len(LENGTHS), max(LENGTHS)
    mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    # Any id may stand in a row, also the padding's.
    ids = torch.randint(0, 100, shape, generator=generator) * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "token_places": mask.flatten().nonzero().squeeze(1)}
    return inputs | ({"sides": torch.tensor([[0, 1], [2, 3], [4, 0]])} if kind == "siamese" else {})


def learn(module, inputs):
    """Return the logits and the gradient of each parameter."""
    logits = module(**inputs).logits
    cross_entropy(logits, torch.arange(len(logits)) % 3).backward()
    return logits.detach(), {name: value.grad for name, value in module.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_give_the_logits_and_gradients_of_padded_ones(folder, kind):
    settings = KINDS[kind]
    padded, packed = (build(folder, attention, **settings) for attention in ("transformers", "fast"))
    inputs = draw_inputs(settings["kind"])
    expected, gradients = learn(padded, inputs)
    found, own_gradients = learn(packed, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for name, gradient in gradients.items():
        found = own_gradients[name]
        gradient = torch.zeros_like(found) if gradient is None else gradient
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_every_layer_sees_real_tokens_alone(folder):
    module, widths = build(folder, "fast"), []
    for part in module.base_model.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(lambda part, args, output: widths.append(output.shape[:-1].numel()))
    module(**draw_inputs())
    # A pooler, where there is one, sees a token a row; DeBERTa also projects its embeddings of 64 distances.
    assert set(widths) <= {sum(LENGTHS), len(LENGTHS), 1, 64}
    assert widths.count(sum(LENGTHS)) >= 12


def test_who_knows_no_places_gets_the_same(folder):
    module, inputs = build(folder, "fast"), draw_inputs()
    with torch.no_grad():
        given = module(**inputs).logits
        del inputs["token_places"]
        assert torch.equal(module(**inputs).logits, given)


@pytest.mark.parametrize("kind", ["own head", "siamese"])
def test_activation_checkpointing_learns_the_same(folder, kind):
    from pref_dist.models.recompute import recompute_activations

    module, again = (build(folder, "fast", **KINDS[kind]).train() for _ in range(2))
    recompute_activations(again)
    inputs = draw_inputs(KINDS[kind]["kind"])
    for expected, found in zip(learn(module, inputs)[1].values(), learn(again, inputs)[1].values(), strict=True):
        assert torch.equal(found, expected)


def test_parameters_keep_their_names(folder):
    assert list(build(folder, "fast").state_dict()) == list(build(folder, "transformers").state_dict())


def test_dropout_of_packed_rows_follows_from_the_seed_and_keeps_the_mean():
    generator = torch.Generator().manual_seed(4)
    rows = find_rows(draw_inputs()["attention_mask"])
    parts = torch.randn(3, 1, 2, sum(LENGTHS), 8, generator=generator, dtype=torch.float64).unbind()

    def attend(seed, dropout):
        torch.manual_seed(seed)
        return packed_attention.attend_packed(torch.nn.Identity(), *parts, None, packed_rows=rows, dropout=dropout)[0]

    drawn = torch.stack([attend(seed, 0.1) for seed in range(200)])
    assert torch.equal(attend(7, 0.1), drawn[7])
    assert not torch.equal(drawn[7], drawn[8])
    error = drawn.std(dim=0) / len(drawn) ** 0.5
    assert ((drawn.mean(dim=0) - attend(0, 0.0)).abs() < 6 * error + 1e-12).all()


@pytest.mark.parametrize("window", [None, 9])
def test_padded_rows_of_a_gpu_are_attended_to_like_packed_ones(window):
    generator = torch.Generator().manual_seed(4)
    rows = find_rows(draw_inputs()["attention_mask"])
    parts = torch.randn(3, 1, 2, sum(LENGTHS), 8, generator=generator, dtype=torch.float64).unbind()
    packed, _ = packed_attention.attend_packed(
        torch.nn.Identity(), *parts, None, packed_rows=rows, sliding_window=None if window is None else window + 1
    )
    padded = packed_attention.attend_padded(*parts, rows, None, 0.0, window)
    torch.testing.assert_close(padded, packed, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("window", "longest"), [(None, 1024), (20, 1024), (None, 100)], ids=["all", "window", "long"])
@pytest.mark.parametrize("has_backward", [True, False])
def test_rows_of_16_bits_are_attended_to_with_scores_that_are_not_rounded(window, longest, has_backward, monkeypatch):
    """With scores of +-50 that were, the output would be .013 off, and the gradients .027."""
    monkeypatch.setattr(packed_attention, "LONGEST_BY_PRODUCTS", longest)
    torch.manual_seed(0)
    rows = find_rows(torch.ones(2, 150, dtype=torch.int64))
    parts = [(torch.randn(1, 2, 300, 32) * 3).bfloat16().requires_grad_(has_backward) for _ in range(3)]
    wide = [part.detach().double().requires_grad_(has_backward) for part in parts]
    asked = {"packed_rows": rows, "sliding_window": window}
    with torch.set_grad_enabled(has_backward):
        exact, _ = packed_attention.attend_packed(torch.nn.Identity(), *wide, None, **asked)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, _ = packed_attention.attend_packed(torch.nn.Identity(), *parts, None, **asked)
    assert found.dtype == torch.bfloat16
    assert relative_error(found, exact) < 0.003  # to round the exact one takes .0017
    if has_backward:
        gradient = torch.randn(1, 300, 2, 32).bfloat16()
        exact.backward(gradient.double())
        found.backward(gradient)
        assert max(relative_error(part.grad, one.grad) for part, one in zip(parts, wide, strict=True)) < 0.006


def test_only_gradients_in_bf16_of_rows_that_are_not_long_are_worth_the_square_of_a_row():
    short, long = (torch.zeros(1, 2, tokens, 8, dtype=torch.bfloat16) for tokens in (1024, 1025))
    assert packed_attention.trains_by_products(short)
    assert not packed_attention.trains_by_products(long)
    assert not packed_attention.trains_by_products(short.float())
    with torch.no_grad():
        assert not packed_attention.trains_by_products(short)


def relative_error(found, exact):
    return float(((found.double() - exact).norm() / exact.norm()).detach())


def test_what_the_class_takes_beside_ids_is_packed_too_and_what_it_returns_is_padded(folder):
    padded, packed = (build(folder, attention) for attention in ("transformers", "fast"))
    inputs = draw_inputs() | {"output_hidden_states": True}
    del inputs["token_places"]
    if hasattr(padded.config, "type_vocab_size") and padded.config.type_vocab_size > 1:
        inputs["token_type_ids"] = (torch.arange(300) % 3 == 0).long().expand(len(LENGTHS), -1).contiguous()
    with torch.no_grad():
        expected, found = padded(**inputs), packed(**inputs)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-10)
    is_real = inputs["attention_mask"].bool()
    for hidden, of_padded in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(hidden[is_real], of_padded[is_real], rtol=0, atol=1e-10)


def test_what_packed_rows_do_not_have_is_refused(folder):
    module, inputs = build(folder, "fast"), draw_inputs()
    with pytest.raises(ModelError, match=r"no output_attentions.*model\.attention=transformers"):
        module(**inputs, output_attentions=True)


def test_several_threads_may_ask_one_model(folder):
    module, inputs = build(folder, "fast"), draw_inputs()
    num_threads = 2
    both_are_here = threading.Barrier(num_threads)

    def wait(*_):
        if threading.current_thread() is not threading.main_thread():
            is_last = both_are_here.wait(timeout=60) == num_threads - 1
            time.sleep(0.05 * is_last)

    # No thread reads what it was called with before the other one was called, too; who came first reads first.
    module.register_forward_pre_hook(wait)
    module.get_input_embeddings().register_forward_pre_hook(wait)
    batches = [{name: value.roll(number, 0) for name, value in inputs.items()} for number in range(len(LENGTHS))]
    for batch in batches:
        batch["token_places"] = batch["attention_mask"].flatten().nonzero().squeeze(1)

    def ask(number):
        with torch.no_grad():
            return module(**batches[number % len(batches)]).logits

    expected = [ask(number) for number in range(len(batches))]
    with ThreadPoolExecutor(num_threads) as threads:
        for number, found in enumerate(threads.map(ask, range(2 * num_threads))):
            assert torch.equal(found, expected[number % len(batches)])


def test_a_convolution_never_sees_two_rows_at_once(tmp_path):
    config = FAMILIES["deberta-v2"].to_dict() | {"conv_kernel_size": 3}
    write_random(DebertaV2Config(**config), tmp_path)
    padded, fast = (build(tmp_path, attention) for attention in ("transformers", "fast"))
    assert not fast.base_model.encoder.packed_rows
    inputs = draw_inputs()
    with torch.no_grad():
        torch.testing.assert_close(fast(**inputs).logits, padded(**inputs).logits, rtol=0, atol=1e-10)


def test_a_family_that_cannot_be_packed_is_refused_or_padded(tmp_path):
    write_random(AlbertConfig(**SMALL, classifier_dropout_prob=0.0), tmp_path)
    section = ModelSection(name=str(tmp_path))
    assert build_model(section, tmp_path, max_tokens=64, vocab_size=100, seed=3).attention == "transformers"
    with pytest.raises(ModelError, match=r"model.attention=fast.*albert.*Set model.attention=auto"):
        build_model(section.model_copy(update={"attention": "fast"}), tmp_path, max_tokens=64, vocab_size=100, seed=3)
