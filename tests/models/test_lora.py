"""Adapters beside frozen weights, on tiny random models of the families' real classes."""

import copy
import importlib.util

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from pref_dist.config.load import load_config
from pref_dist.config.model_section import LoraSection, ModelSection
from pref_dist.config.schema import RunConfig
from pref_dist.data.batches import pad
from pref_dist.errors import ConfigError
from pref_dist.models.build import build_model
from pref_dist.models.layers import list_layers
from pref_dist.models.lora import adapted_layers, check_base, merge_adapters
from pref_dist.optim import OptimizerSettings, build_parameter_groups, names_without_decay, trained_parameters
from pref_dist.train.memory import masks_differ
from tests.tiny_llm import FAMILIES, write_tiny_llm

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory, sample_dir):
    return write_tiny_llm(tmp_path_factory.mktemp(request.param), sample_dir / "train.csv", request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory, sample_dir):
    return write_tiny_llm(tmp_path_factory.mktemp("llama"), sample_dir / "train.csv", "llama")


def build(folder, seed=0, kind="decoder", lora=None, **settings):
    section = ModelSection(kind=kind, name=str(folder), lora=lora or LoraSection(rank=2), **settings)
    return build_model(section, folder, 256, 400, seed)


def call(module, kind="decoder"):
    lines = [torch.arange(3, 15).numpy(), torch.arange(20, 29).numpy()]
    inputs = pad(lines, 0)
    if kind == "siamese":
        inputs["sides"] = torch.tensor([[0, 1], [1, 0]])
    return module(**inputs).logits


def train_a_little(module, kind="decoder"):
    """Some steps of plain gradient descent, long enough that every adapter matters."""
    parameters = [value for _, value in trained_parameters(module)]
    for _ in range(3):
        call(module, kind).square().sum().backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= 0.1 * parameter.grad / (parameter.grad.norm() + 1e-6)
                parameter.grad = None


def values_of(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.mark.parametrize("dora", [False, True])
def test_only_adapters_and_head_are_trained_and_the_first_logits_are_those_without_adapters(folder, dora):
    built = build(folder, lora=LoraSection(rank=3, dora=dora))
    plain = build_model(ModelSection(kind="decoder", name=str(folder)), folder, 256, 400, 0)
    torch.testing.assert_close(call(built.module), call(plain.module), rtol=0, atol=1e-5)
    trained = [name for name, _ in trained_parameters(built.module)]
    assert built.head_names == ("score.weight",)
    assert set(built.new_names) == set(trained)
    assert len(trained) == 1 + 2 * 7 * (3 if dora else 2), "seven linear layers in each of two layers"
    assert {value.shape[0] for name, value in trained_parameters(built.module) if "lora_A" in name} == {3}
    before = values_of(built.module)
    train_a_little(built.module)
    changed = {name for name, value in built.module.named_parameters() if not torch.equal(value, before[name])}
    assert changed == set(trained)


@pytest.mark.parametrize(("kind", "head"), [("joint", "default"), ("joint", "two_layer"), ("siamese", "antisymmetric")])
def test_encoders_take_adapters_too_and_what_serves_the_head_is_trained_whole(tiny_model, kind, head):
    built = build(tiny_model, kind=kind, head=head)
    before = values_of(built.module)
    train_a_little(built.module, kind)
    changed = {name for name, value in built.module.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in trained_parameters(built.module)}
    pooler = {name for name in before if "pooler" in name}
    assert len(pooler) == (2 if head == "default" else 0)
    assert {*built.head_names, *pooler} <= changed
    assert set(adapted_layers(built.module)) & {"bert.pooler.dense"} == set()
    assert changed - pooler == set(built.new_names)


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 1e-6), ("fp64", 1e-13)])
@pytest.mark.parametrize("dora", [False, True])
def test_merged_weights_give_the_same_logits_under_transformers_own_names(folder, dora, dtype, bound):
    module = build(folder, lora=LoraSection(rank=2, dora=dora), weight_dtype=dtype).module
    untrained = call(module)
    train_a_little(module)
    module.eval()
    before = call(module)
    assert (before - untrained).abs().max() > 0.01, "the adapters matter"
    merge_adapters(module)
    torch.testing.assert_close(call(module), before, rtol=0, atol=bound)
    theirs = AutoModelForSequenceClassification.from_config(module.config)
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    theirs.load_state_dict(module.state_dict())
    assert not hasattr(module.get_submodule("model"), "peft_config")


@pytest.mark.parametrize("dora", [False, True])
def test_what_is_merged_is_what_peft_would_merge(llama, dora):
    module = build(llama, lora=LoraSection(rank=2, dora=dora)).module
    train_a_little(module)
    theirs = copy.deepcopy(module)
    merge_adapters(module)
    for name, layer in adapted_layers(theirs).items():
        layer.merge(adapter_names=["default"])
        expected = layer.get_base_layer().weight
        torch.testing.assert_close(module.get_submodule(name).weight, expected, rtol=0, atol=1e-6)


def test_adapters_depend_on_the_seed_alone_not_on_the_type_of_the_frozen_weights(llama):
    one, same, other = (build(llama, seed).module for seed in (3, 3, 4))
    narrow = build(llama, 3, lora=LoraSection(rank=2, base="bf16")).module
    torch.rand(7)  # what was drawn before does not matter
    for name, value in trained_parameters(one):
        assert torch.equal(value, dict(same.named_parameters())[name])
        assert torch.equal(value, dict(narrow.named_parameters())[name])
        assert torch.equal(value, dict(other.named_parameters())[name]) == ("lora_B" in name), "zeros at first"


def test_frozen_weights_in_bf16_give_the_bits_of_fp32_weights_that_bf16_holds(folder, tmp_path):
    rounded = AutoModelForSequenceClassification.from_pretrained(folder).bfloat16().float()
    rounded.save_pretrained(tmp_path)
    logits, gradients, sizes = [], [], []
    for base in ("fp32", "bf16"):
        module = build(tmp_path, lora=LoraSection(rank=2, base=base)).module
        with torch.autocast("cpu", torch.bfloat16):
            logits.append(call(module))
            logits[-1].float().square().sum().backward()
        gradients.append([value.grad for _, value in trained_parameters(module)])
        frozen = [value for value in module.parameters() if not value.requires_grad]
        sizes.append(sum(value.numel() * value.element_size() for value in frozen))
        assert {value.dtype for _, value in trained_parameters(module)} == {torch.float32}
    assert torch.equal(*logits)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    # Gemma's table of embeddings, which it scales, stays wide; in a tiny model that is much.
    assert sizes[1] < 0.55 * sizes[0] or "gemma2" in str(folder)


def test_bf16_weights_are_merged_in_fp32(llama):
    module = build(llama, lora=LoraSection(rank=2, base="bf16")).module
    layer = module.model.layers[0].mlp.up_proj
    layer.lora_B["default"].weight.data.fill_(1e-3)
    base = layer.get_base_layer().weight.float()
    expected = base + layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merge_adapters(module)
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert torch.equal(module.model.layers[0].mlp.up_proj.weight, expected)
    assert call(module).dtype == torch.float32


def test_modules_are_found_by_name_and_the_missing_are_named_beside_those_that_exist(llama):
    built = build(llama, lora=LoraSection(modules=["q_proj", "layers.1.mlp.up_proj"]))
    names = sorted(adapted_layers(built.module))
    q_projections = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    assert names == [q_projections[0], "model.layers.1.mlp.up_proj", q_projections[1]]
    with pytest.raises(
        ConfigError,
        match=r"model\.lora\.modules=.*LlamaModel has no linear layer query and no dense\. Its linear layers are "
        r"down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj\.",
    ):
        build(llama, lora=LoraSection(modules=["q_proj", "query", "dense"]))


def test_a_layer_with_an_adapter_is_no_list_of_layers(tiny_model):
    built = build(tiny_model, kind="joint", pooling="mean", lora=LoraSection(modules=["query"]))
    outside = torch.nn.ModuleDict({"apart": built.module.get_submodule("bert.encoder.layer.0.attention.self.query")})
    assert list(list_layers(outside["apart"])) == []
    assert list(list_layers(built.module)) == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def test_the_optimiser_gets_trained_parameters_alone_and_norms_of_dora_are_not_decayed(llama):
    built = build(llama, lora=LoraSection(rank=2, dora=True))
    groups = build_parameter_groups(built.module, built.head_names, OptimizerSettings(1e-3, 1e-2, 0.1))
    grouped = [name for group in groups for name in group["names"]]
    assert sorted(grouped) == sorted(name for name, _ in trained_parameters(built.module))
    assert [group["names"] for group in groups if group["lr"] == 1e-2] == [["score.weight"]]
    undecayed = names_without_decay(built.module)
    assert all(("magnitude" in name) == (name in undecayed) for name in grouped)


def test_dropout_before_adapters_is_there_and_said_where_masks_would_differ(llama):
    module = build(llama, lora=LoraSection(rank=2, dropout=0.5)).module
    train_a_little(module)
    module.train()
    assert not torch.equal(call(module), call(module))
    module.eval()
    assert torch.equal(call(module), call(module))
    lora = {"kind": "decoder", "lora": {"dropout": 0.5}}
    assert "With dropout" in masks_differ(RunConfig.model_validate({"model": lora}))
    assert masks_differ(RunConfig.model_validate({"model": {**lora, "lora": {}}})) == ""


@pytest.mark.parametrize(
    ("base", "precision", "message"),
    [
        ("bf16", "fp32", r"model\.lora\.base=bf16 with train\.precision=fp32.*train\.precision to bf16"),
        ("nf4", "bf16", r"model\.lora\.base=nf4 runs on CUDA alone.* on cpu\. Set model\.lora\.base=bf16"),
    ],
)
def test_a_type_of_frozen_weights_that_cannot_be_computed_with_is_refused(base, precision, message):
    with pytest.raises(ConfigError, match=message):
        check_base(LoraSection(base=base), precision, "single", CPU)


def test_nf4_without_bitsandbytes_or_on_ranks_that_share_weights_is_refused():
    cuda = torch.device("cuda")  # a name: nothing is computed there
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ConfigError, match=r"nf4 needs the package bitsandbytes: pip install bitsandbytes"):
            check_base(LoraSection(base="nf4"), "bf16", "single", cuda)
    else:
        with pytest.raises(ConfigError, match=r"nf4 runs on parallel\.backend=single and ddp, not on zero3"):
            check_base(LoraSection(base="nf4"), "bf16", "zero3", cuda)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.lora.rnk=2"], r"model\.lora\.rnk: .*did you mean 'rank'"),
        (["model.lora.rank=0"], r"model\.lora\.rank: .*greater than 0"),
        (["model.lora.base=int8"], r"model\.lora\.base: .*found: 'int8'"),
        (["model.lora.rank=2", "model.from_scratch=true"], "from_scratch must be false"),
        (["model.lora.base=bf16", "model.weight_dtype=fp64"], r"lora\.base=bf16 is not for weight_dtype=fp64"),
        (["model.kind=decoder", "model.pooling=cls"], r"pooling=cls is not for kind=decoder"),
    ],
)
def test_wrong_settings_of_adapters_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


def test_every_setting_of_adapters_has_a_default():
    assert load_config(None, ["model.lora={}"]).model.lora == LoraSection()
    assert load_config(None, []).model.lora is None
