"""The joint cross-encoder on every family of encoders, from tiny random models of their real classes."""

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

from pref_dist.config.model_section import ModelSection
from pref_dist.errors import ConfigError, ModelError
from pref_dist.models.build import build_model
from pref_dist.models.joint import PooledClassifier, mean_of_segments
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
    "distilbert": DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    "roberta": RobertaConfig(**SMALL, max_position_embeddings=514, pad_token_id=1),
    "electra": ElectraConfig(**SMALL, embedding_size=32),
    "deberta-v2": DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], pooler_hidden_size=32),
    "modernbert": ModernBertConfig(
        **SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    return write_random(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=["cls", "segments"])
def pooling(request):
    return request.param


def call(module):
    """Run two rows of 9 tokens, whose segments end at 3, 6 and 9."""
    inputs = {"input_ids": torch.arange(5, 23).reshape(2, 9), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    if isinstance(module, PooledClassifier) and module.pooling == "segments":
        inputs["segment_ends"] = torch.tensor([[3, 6, 9]] * 2)
    return module(**inputs).logits


def build(folder, seed=0, **settings):
    return build_model(ModelSection(name=str(folder), **settings), folder, max_tokens=128, vocab_size=100, seed=seed)


def test_a_model_has_three_labelled_outputs_and_no_dropout_unless_asked_for(folder, pooling):
    built = build(folder, pooling=pooling)
    built.module.train()
    first, second = call(built.module), call(built.module)
    assert first.shape == (2, 3)
    assert torch.equal(first, second)
    assert built.module.config.id2label == {0: "A", 1: "B", 2: "tie"}


def test_asked_for_dropouts_are_really_there(folder, pooling):
    built = build(folder, dropout=0.25, head_dropout=0.5, pooling=pooling)
    found = {
        getattr(part, "p", getattr(part, "drop_prob", None))
        for part in built.module.modules()
        if "dropout" in type(part).__name__.lower()
    }
    assert found <= {0.25, 0.5}
    built.module.train()
    assert not torch.equal(call(built.module), call(built.module))


def test_only_the_head_is_new_and_it_depends_on_the_seed_alone(folder, pooling):
    one, same, other = (build(folder, seed=seed, pooling=pooling) for seed in (3, 3, 4))
    assert set(one.new_names) <= {*one.head_names, *(name for name in one.new_names if "pooler" in name)}
    assert one.head_names
    values = [dict(built.module.named_parameters()) for built in (one, same, other)]
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])
    changed = {name for name in values[0] if not torch.equal(values[0][name], values[2][name])}
    assert changed
    assert changed <= set(one.new_names)


def test_from_scratch_every_weight_is_random(folder):
    built = build(folder, from_scratch=True)
    loaded = dict(build(folder).module.named_parameters())
    matrices = [name for name, value in built.module.named_parameters() if value.dim() == 2]
    assert not any(torch.equal(dict(built.module.named_parameters())[name], loaded[name]) for name in matrices)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder):
    with pytest.raises(ModelError, match="knows 101 tokens"):
        build_model(ModelSection(name=str(folder)), folder, max_tokens=128, vocab_size=101, seed=0)


def test_float64_weights_are_float64(folder):
    assert {value.dtype for value in build(folder, weight_dtype="fp64").module.parameters()} == {torch.float64}


def test_more_tokens_than_positions_are_refused(tmp_path):
    AutoModel.from_config(FAMILIES["roberta"]).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"data.max_tokens=513, but the model has 512 positions"):
        build_model(ModelSection(name=str(tmp_path)), tmp_path, max_tokens=513, vocab_size=100, seed=0)


def test_weights_that_lack_a_part_of_the_encoder_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    AutoModel.from_config(FAMILIES["bert"]).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 parameters of the encoder .*layer\.1\.output\.dense\.weight"):
        build(tmp_path)


def test_a_pickle_is_never_loaded(tmp_path):
    model = AutoModel.from_config(FAMILIES["bert"])
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        build(tmp_path)


def test_every_parameter_takes_part_in_the_loss(folder, pooling):
    # One that does not would make DDP fail, or ZeRO decay it.
    module = build(folder, pooling=pooling).module
    call(module).square().sum().backward()
    assert [name for name, value in module.named_parameters() if value.grad is None] == []


def test_padding_does_not_change_a_rows_logits(folder, pooling):
    module = build(folder, pooling=pooling, weight_dtype="fp64").module.eval()
    ids, mask = torch.arange(5, 14).reshape(1, 9), torch.ones(1, 9, dtype=torch.int64)
    padding = torch.zeros(1, 6, dtype=torch.int64)
    ends = {"segment_ends": torch.tensor([[3, 6, 9]])} if pooling == "segments" else {}
    short = module(input_ids=ids, attention_mask=mask, **ends).logits
    padded = module(input_ids=torch.cat((ids, padding), 1), attention_mask=torch.cat((mask, padding), 1), **ends).logits
    torch.testing.assert_close(short, padded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["default", "two_layer"])
@pytest.mark.parametrize("pooled", ["cls", "mean", "last", "segments"])
def test_a_rows_logits_do_not_depend_on_its_batch_mates(folder, pooled, head):
    module = build(folder, pooling=pooled, head=head).module.eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # a head that starts near 0 would hide what differs
        for name, parameter in module.named_parameters():
            if not name.startswith(module.base_model_prefix):
                parameter.normal_(std=0.3, generator=generator)
    lengths, width = (9, 4, 17), 17
    ids = torch.randint(5, 100, (3, width), generator=generator)
    # Whatever stands where a row is padded, its own tokens included: some tokenizers pad with one that rows hold.
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    ends = torch.tensor([[length // 3, 2 * length // 3, length] for length in lengths])

    def run(rows, width):
        more = {"segment_ends": ends[rows]} if pooled == "segments" else {}
        with torch.no_grad():
            return module(input_ids=ids[rows, :width], attention_mask=mask[rows, :width], **more).logits

    together = run([0, 1, 2], width)
    assert (together.max(dim=0).values - together.min(dim=0).values).min() > 1e-2
    for row, length in enumerate(lengths):
        torch.testing.assert_close(run([row], length), together[[row]], rtol=0, atol=1e-5)


def test_segment_means_are_means_over_the_segments_own_tokens():
    hidden = torch.randn(2, 7, 4, dtype=torch.float64)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    means = mean_of_segments(hidden, mask, torch.tensor([[2, 3, 7], [1, 1, 5]]))
    expected = torch.stack((hidden[0, :2].mean(0), hidden[0, 2], hidden[0, 3:].mean(0)))
    torch.testing.assert_close(means[0], expected)
    torch.testing.assert_close(means[1, 0], hidden[1, 0])
    assert torch.equal(means[1, 1], torch.zeros(4, dtype=torch.float64)), "an empty segment"
    torch.testing.assert_close(means[1, 2], hidden[1, 1:5].mean(0))
