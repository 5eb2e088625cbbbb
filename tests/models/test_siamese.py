"""The siamese encoder: exchanging the responses exchanges the logits of A and B, and padding never counts."""

import pytest
import torch
from transformers import BertConfig, DebertaV2Config

from pref_dist.config.model_section import ModelSection
from pref_dist.models.build import build_model
from pref_dist.models.heads import AntisymmetricHead, initialise
from pref_dist.models.siamese import SiameseClassifier
from tests.tiny_model import write_random

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
FAMILIES = {
    "bert": BertConfig(**SMALL),
    "deberta-v2": DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], pooler_hidden_size=32),
}
HEADS = ("concat", "difference", "antisymmetric")
SWAPPED = [1, 0, 2]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    return write_random(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


def build(folder, head="antisymmetric", **settings):
    section = ModelSection(kind="siamese", name=str(folder), head=head, **settings)
    built = build_model(section, folder, max_tokens=128, vocab_size=100, seed=3)
    assert isinstance(built.module, SiameseClassifier)
    with torch.no_grad():  # a head that starts near 0 would hide what differs
        for parameter in built.module.head.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(5))
    return built.module.eval()


def call(module, lines, sides, width=None):
    width = width or max(map(len, lines))
    ids = torch.tensor([line + [0] * (width - len(line)) for line in lines])
    mask = torch.tensor([[1] * len(line) + [0] * (width - len(line)) for line in lines])
    with torch.no_grad():
        return module(input_ids=ids, attention_mask=mask, sides=torch.tensor(sides)).logits


LINES = [[5, 6, 7, 8, 9], [5, 6, 20, 21, 22, 23, 24], [11, 12], [11, 30, 31]]


@pytest.mark.parametrize("size", [7, 32, 384])
def test_the_antisymmetric_head_exchanges_logits_to_the_bit(size):
    head = initialise(AntisymmetricHead(size), 1.0, seed=1)
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 33, size, generator=generator)
    given, swapped = head(a, b), head(b, a)
    assert torch.equal(given[:, SWAPPED], swapped)
    assert not torch.equal(given[:, 0], given[:, 1])
    # Whatever place a row has among others.
    assert torch.equal(head(b[5:9], a[5:9]), swapped[5:9])


def test_equal_responses_get_equal_logits():
    head = initialise(AntisymmetricHead(16), 1.0, seed=1)
    embeddings = torch.randn(4, 16)
    logits = head(embeddings, embeddings)
    assert torch.equal(logits[:, 0], logits[:, 1])


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 1e-6), ("fp64", 1e-12)])
def test_position_bias_is_zero_end_to_end(folder, dtype, bound):
    module = build(folder, weight_dtype=dtype)
    given = call(module, LINES, [[0, 1], [2, 3]])
    # The file's row with its responses exchanged: other lines in other places.
    exchanged = call(module, [LINES[place] for place in (1, 0, 3, 2)], [[0, 1], [2, 3]])
    torch.testing.assert_close(given[:, SWAPPED], exchanged, rtol=0, atol=bound)
    assert (given[:, 0] - given[:, 1]).abs().min() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_a_rows_logits_do_not_depend_on_its_batch_mates_or_padding(folder, head):
    module = build(folder, head)
    together = call(module, LINES, [[0, 1], [2, 3]], width=19)
    for place in range(2):
        alone = call(module, LINES[2 * place : 2 * place + 2], [[0, 1]])
        torch.testing.assert_close(together[place : place + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_second_order_of_a_row_is_what_a_forward_of_its_own_gives(folder, head):
    module = build(folder, head, weight_dtype="fp64")
    both = call(module, LINES[:2], [[0, 1], [1, 0]])
    alone = torch.cat((call(module, LINES[:2], [[0, 1]]), call(module, LINES[1::-1], [[0, 1]])))
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-12)


def test_concat_is_the_first_notebooks_head(folder):
    module = build(folder, "concat", weight_dtype="fp64")
    ids = torch.tensor([LINES[0]]), torch.tensor([LINES[1]])
    with torch.no_grad():
        means = [module.encoder(input_ids=line).last_hidden_state.mean(dim=1) for line in ids]
        expected = module.head.linear(torch.cat(means, dim=-1))
    torch.testing.assert_close(call(module, LINES[:2], [[0, 1]]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_takes_part_in_the_loss(folder, head):
    module = build(folder, head).train()
    ids = torch.tensor([LINES[0], LINES[1][:5]])
    module(
        input_ids=ids, attention_mask=torch.ones_like(ids), sides=torch.tensor([[0, 1]])
    ).logits.square().sum().backward()
    assert [name for name, value in module.named_parameters() if value.grad is None] == []


def test_the_head_comes_from_the_seed_alone(folder):
    def weights(seed):
        section = ModelSection(kind="siamese", name=str(folder))
        built = build_model(section, folder, max_tokens=128, vocab_size=100, seed=seed)
        return {name: value for name, value in built.module.named_parameters() if name in built.head_names}

    one, same, other = weights(1), weights(1), weights(2)
    assert set(one) == {"classifier.score.weight", "classifier.tie.weight", "classifier.tie.bias"}
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["classifier.score.weight"], other["classifier.score.weight"])
