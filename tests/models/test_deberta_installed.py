"""What fast attention changes of a model, what it leaves, and how it lives with recomputation, autocast and compile."""

import copy
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from pref_dist.errors import ModelError
from pref_dist.models.deberta import use_fast_attention
from pref_dist.models.deberta.distances import find_distances
from pref_dist.models.packed_rows import find_rows
from pref_dist.models.recompute import recompute_activations


def build_model(dropout=0.0, fast=True, **settings):
    torch.manual_seed(3)
    config = DebertaV2Config(
        vocab_size=30, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        relative_attention=True, position_buckets=16, pos_att_type="p2c|c2p", share_att_key=True,
        norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0, initializer_range=0.3,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **settings,
    )  # fmt: skip
    model = DebertaV2Model(config).train()
    if fast:
        use_fast_attention(model)
    return model


def draw_ids(num_rows=3, num_tokens=40):
    torch.manual_seed(4)
    mask = (torch.arange(num_tokens) < torch.tensor([num_tokens, 9, 30])[:num_rows, None]).long()
    return torch.randint(1, 30, (num_rows, num_tokens)), mask


def run_packed(model, seed=5):
    """Return the output and the gradients, with the rows forgotten before the backward."""
    ids, mask = draw_ids()
    rows = find_rows(mask)
    torch.manual_seed(seed)
    model.encoder.packed_rows = rows
    output = model(rows.pack(ids)[None], position_ids=rows.positions[None]).last_hidden_state
    model.encoder.packed_rows = None
    output.square().mean(1).sum().backward()
    return [output.detach(), *(value.grad for value in model.parameters())]


def test_names_weights_and_random_numbers_of_the_model_stay():
    slow, fast = build_model(fast=False), build_model()
    use_fast_attention(fast)
    assert list(slow.state_dict()) == list(fast.state_dict())
    assert all(torch.equal(value, fast.state_dict()[name]) for name, value in slow.state_dict().items())
    assert [name for name, _ in slow.named_parameters()] == [name for name, _ in fast.named_parameters()]
    assert [type(module).__name__ for module in fast.modules()].count("FastDisentangledSelfAttention") == 2


def test_without_dropout_nothing_is_drawn():
    model = build_model()
    ids, mask = draw_ids()
    before = torch.get_rng_state()
    model(ids, attention_mask=mask)
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_keeps_nothing_and_gives_the_same():
    model, (ids, mask) = build_model(), draw_ids()
    expected = model(ids, attention_mask=mask).last_hidden_state
    with torch.no_grad(), _Watch() as watch:
        output = model.eval()(ids, attention_mask=mask).last_hidden_state
    assert output.grad_fn is None
    assert torch.equal(output, expected)
    with _Watch() as training_watch:
        model.train()(ids, attention_mask=mask)
    # Of three rows' probabilities one at a time is alive.
    assert watch.most_scores_alive == 1
    assert training_watch.most_scores_alive == 3 * 2


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputed_layers_equal_kept_ones_after_the_rows_were_forgotten(dropout):
    kept, recomputed = build_model(dropout), build_model(dropout)
    recompute_activations(recomputed)
    for found, expected in zip(run_packed(recomputed), run_packed(kept), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_packed", [False, True])
def test_autocast_is_as_near_to_float32_as_transformers_is(dtype, is_packed):
    def run(model, is_cast):
        ids, mask = draw_ids()
        with torch.autocast("cpu", dtype, enabled=is_cast):
            output = model(ids, attention_mask=mask).last_hidden_state
        return finish(model, output[mask.bool()])

    def run_rows(model):
        ids, mask = draw_ids()
        model.encoder.packed_rows = rows = find_rows(mask)
        with torch.autocast("cpu", dtype):
            output = model(rows.pack(ids)[None], position_ids=rows.positions[None]).last_hidden_state
        return finish(model, output[0])

    def finish(model, real):
        model.zero_grad()
        real.float().square().mul(torch.linspace(0, 1, 32)).sum().backward()
        grads = [value.grad for value in model.parameters() if value.grad is not None]
        return torch.cat([(each / each.norm()).flatten() for each in (real.detach().float(), *grads)])

    slow, fast = build_model(fast=False), build_model()
    exact, theirs = run(slow, False), run(slow, True)
    ours = run_rows(fast) if is_packed else run(fast, True)
    assert torch.nn.functional.cosine_similarity(ours, exact, dim=0) > 0.99
    assert (ours - exact).norm() <= 1.2 * (theirs - exact).norm()


def test_16_bit_weights_work_without_autocast():
    model = build_model().to(torch.bfloat16)
    assert all(value is None or value.isfinite().all() for value in run_packed(model))


@pytest.mark.filterwarnings("default::UserWarning")  # of torch, in its own compiler
@pytest.mark.parametrize("is_packed", [False, True])
def test_compiled_layers_give_the_same(is_packed):
    model, compiled = build_model(), build_model()
    for layer in compiled.encoder.layer:
        layer.compile(dynamic=True, backend="aot_eager")
    ids, mask = draw_ids()
    if is_packed:
        expected, found = run_packed(model), run_packed(compiled)
    else:
        expected, found = ([each(ids, attention_mask=mask).last_hidden_state] for each in (model, compiled))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class _Watch(TorchDispatchMode):
    """Notes which operations ran, their largest tensor of whole numbers, and how many softmaxes were alive at once."""

    def __init__(self):
        super().__init__()
        self.names, self.largest_index, self.most_scores_alive = set(), 0, 0
        self.scores = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        self.names.add(function.overloadpacket._qualified_op_name)
        if isinstance(output, torch.Tensor) and output.dtype == torch.int64:
            self.largest_index = max(self.largest_index, output.numel())
        if "softmax" in function.overloadpacket._qualified_op_name:
            self.scores.append(weakref.ref(output.untyped_storage()))
            self.most_scores_alive = max(self.most_scores_alive, sum(each() is not None for each in self.scores))
        return output


def test_no_index_of_pairs_no_gather_no_repeat():
    model, ids = build_model(), torch.ones(2, 100, dtype=torch.long)
    with _Watch() as watch:
        model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.sum().backward()
    assert "aten::bmm" in watch.names
    assert not {"aten::gather", "aten::scatter_add", "aten::repeat"} & watch.names
    assert watch.largest_index < 100 * 100


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(256, 512), (16, 512), (32, 128), (-1, 512), (256, 200)])
def test_every_distance_has_the_bucket_that_transformers_gives_its_pairs(num_buckets, max_distance):
    span = num_buckets if num_buckets > 0 else max_distance
    for longest in (1, 2, 3, 17, 63, 64, 65, 127, 128, 129, 300, 511, 512, 513, 600, 1025):
        tokens = torch.zeros(longest, 1)
        pairs = build_relative_position(tokens, tokens, num_buckets, max_distance)[0]
        expected = torch.clamp(pairs + span, 0, 2 * span - 1)
        distances = find_distances(longest, num_buckets, max_distance, torch.device("cpu"))
        rank = torch.arange(longest)
        found = distances.places[rank[:, None] - rank[None, :] + longest - 1] + distances.first
        assert torch.equal(found, expected)
        assert (distances.first, distances.end) == (int(expected.min()), int(expected.max()) + 1)


def test_another_model_is_refused():
    model = BertModel(BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ModelError, match="this is a BertModel"):
        use_fast_attention(model)


def test_packed_rows_are_refused_by_a_convolution():
    model = build_model(conv_kernel_size=3)
    model.encoder.packed_rows = find_rows(torch.ones(2, 4))
    with pytest.raises(ModelError, match="conv_kernel_size 3"):
        model(torch.ones(1, 8, dtype=torch.long))


def test_what_it_does_not_give_is_refused():
    model = build_model()
    with pytest.raises(ModelError, match="attention probabilities"):
        model(*draw_ids(), output_attentions=True)
    with pytest.raises(ModelError, match="relative_pos"):
        model.encoder(torch.zeros(1, 4, 32), torch.ones(1, 4), relative_pos=torch.zeros(1, 4, 4))


def test_an_unknown_attention_class_is_refused_not_left_slow():
    model = build_model(fast=False)
    attention = model.encoder.layer[1].attention
    attention.self.__class__ = type("Other", (type(attention.self),), {})
    with pytest.raises(ModelError, match=r"encoder\.layer\.1\.attention\.self is a Other"):
        use_fast_attention(model)


def test_a_copy_of_a_fast_model_is_fast():
    model = build_model()
    twin = copy.deepcopy(model)
    assert torch.equal(model(*draw_ids()).last_hidden_state, twin(*draw_ids()).last_hidden_state)
    assert type(twin.encoder).__name__ == "FastEncoder"
