from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.errors import InputError
from stages.models.policy import METADATA, LowRank, Policy, Trainable, load_policy, make_policy
from tests import tiny

updated = LowRank.forward
KINDS: tuple[Trainable, ...] = ("norm_affine", "lora", "full")


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(2, *tiny.LATENT, generator=torch.Generator().manual_seed(3)), torch.tensor(400), tiny.text(2)


def call(network: nn.Module) -> torch.Tensor:
    x, t, text = inputs()
    return network(x, t, encoder_hidden_states=text, return_dict=False)[0]


def train(policy: Policy, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for _, p in policy.parameters()], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        call(policy.network).square().mean().backward()
        optimizer.step()


def perturbed(base: nn.Module, kind: Trainable, **lora: object) -> Policy:
    policy = make_policy(base, kind, seed=1, **lora)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return policy


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_policy_is_the_base(kind: Trainable):
    base = tiny.unet()
    policy = make_policy(base, kind)
    with torch.no_grad():
        assert torch.equal(call(policy.network), call(base))


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_policy_and_leaves_the_base_as_it_was(kind: Trainable):
    base = tiny.unet()
    before = copy.deepcopy(base.state_dict())
    output = call(base)
    policy = make_policy(base, kind)
    train(policy)
    assert not torch.allclose(call(policy.network), output, atol=1e-4)
    assert torch.equal(call(base), output)
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert not any(p.requires_grad for p in base.parameters())


def test_trained_parts():
    base = tiny.unet()
    norms = {
        f"{name}.{which}"
        for name, module in base.named_modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
        for which in ("weight", "bias")
    }
    assert {name for name, _ in make_policy(base, "norm_affine").parameters()} == norms
    assert {name for name, _ in make_policy(base, "full").parameters()} == set(dict(base.named_parameters()))
    layers = {name.rsplit(".lora_", 1)[0] for name, _ in make_policy(base, "lora").parameters()}
    of_attention = ("to_q", "to_k", "to_v", "to_out.0")
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    expected = {f"unet.{name}" for name in linear if name.split("attn")[-1].split(".", 1)[-1] in of_attention}
    assert layers == expected
    assert len(expected) == 4 * 2 * sum("transformer_blocks.0.norm1" in name for name, _ in base.named_modules())


@pytest.mark.parametrize("kind", ["norm_affine", "lora"])
def test_frozen_weights_are_shared_not_copied(kind: Trainable):
    base = tiny.unet()
    shared = {p.data_ptr() for p in base.parameters()}
    policy = make_policy(base, kind)
    frozen = [p for p in policy.network.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.data_ptr() in shared for p in frozen)
    assert not any(p.data_ptr() in shared for _, p in policy.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_again(kind: Trainable, tmp_path: Path):
    base = tiny.unet()
    policy = perturbed(base, kind)
    policy.save(tmp_path / "policy.safetensors", "digest")
    again = load_policy(base, tmp_path / "policy.safetensors", "digest")
    assert again.kind == kind
    with torch.no_grad():
        assert torch.equal(call(again.network), call(policy.network))


def test_lora_with_its_own_rank_alpha_and_targets_is_saved_and_loaded_again(tmp_path: Path):
    base = tiny.unet()
    policy = perturbed(base, "lora", rank=3, alpha=12.0, targets=("to_q", "ff.net.2"))
    policy.save(tmp_path / "policy.safetensors", "digest")
    again = load_policy(base, tmp_path / "policy.safetensors", "digest")
    with torch.no_grad():
        assert torch.equal(call(again.network), call(policy.network))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_policy_is_saved_as_the_same_bytes(kind: Trainable, tmp_path: Path):
    policy = perturbed(tiny.unet(), kind)
    saved = set()
    for _ in range(8):
        policy.save(tmp_path / "policy.safetensors", "digest")
        saved.add((tmp_path / "policy.safetensors").read_bytes())
    assert len(saved) == 1


def test_given_values_are_saved_in_place_of_the_parameters(tmp_path: Path):
    base = tiny.unet()
    policy = perturbed(base, "norm_affine")
    values = {name: p.detach() for name, p in make_policy(base, "norm_affine").parameters()}
    policy.save(tmp_path / "policy.safetensors", "digest", values)
    again = load_policy(base, tmp_path / "policy.safetensors", "digest")
    with torch.no_grad():
        assert torch.equal(call(again.network), call(base))


@pytest.mark.parametrize("alpha", [4.0, 10.0])
def test_diffusers_reads_the_lora_file(alpha: float, tmp_path: Path):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pytest.importorskip("peft")
    base = tiny.unet()
    policy = perturbed(base, "lora", rank=4, alpha=alpha)
    policy.save(tmp_path / "policy.safetensors", "digest")
    tiny.diffusion_folder(tmp_path / "pipeline")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", local_files_only=True)
    pipeline.load_lora_weights(str(tmp_path), weight_name="policy.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(call(pipeline.unet), call(policy.network), rtol=1e-5, atol=1e-6)


def test_refuses_a_checkpoint_of_another_base(tmp_path: Path):
    make_policy(tiny.unet(), "norm_affine").save(tmp_path / "policy.safetensors", "one")
    with pytest.raises(InputError, match="trained on base one, but the base here is other"):
        load_policy(tiny.unet(), tmp_path / "policy.safetensors", "other")


def test_refuses_missing_damaged_and_foreign_files(tmp_path: Path):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="no such checkpoint"):
        load_policy(tiny.unet(), tmp_path / "none.safetensors", "one")
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_policy(tiny.unet(), tmp_path / "damaged.safetensors", "one")
    metadata = {METADATA: json.dumps({"kind": "norm_affine", "base": "one"})}
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "foreign.safetensors", metadata)
    with pytest.raises(InputError, match="does not fit this network"):
        load_policy(tiny.unet(), tmp_path / "foreign.safetensors", "one")
    values = {name: p.detach() for name, p in make_policy(tiny.unet(), "norm_affine").parameters()}
    name = next(iter(values))
    save_file(values | {name: torch.zeros(99)}, tmp_path / "shape.safetensors", metadata)
    with pytest.raises(InputError, match="does not fit this network"):
        load_policy(tiny.unet(), tmp_path / "shape.safetensors", "one")


def test_refuses_lora_targets_that_are_not_there():
    for targets in (("to_nothing",), ("to_q", "to_nothing"), ("to_q", "to_nothing", "to_k")):
        with pytest.raises(InputError, match=r"lora\.targets: no linear layer of the network ends in 'to_nothing'"):
            make_policy(tiny.unet(), "lora", targets=targets)


def test_refuses_what_is_no_metadata_of_a_policy_and_weights_that_are_not_finite(tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "policy.safetensors"
    values = {name: p.detach() for name, p in make_policy(tiny.unet(), "norm_affine").parameters()}
    lora = {"rank": 2, "alpha": 1.0, "targets": ["to_q"]}
    for about, said in (
        ([1], "found the list"), ("x", "found text"), ({"base": "one"}, "kind: field required"),
        ({"base": "one", "kind": "qlora"}, "kind: "), ({"base": "one", "kind": "lora", "lora": "x"}, "lora: "),
        ({"base": "one", "kind": "lora", "lora": {**lora, "rank": "2"}}, "rank: expected a number, found text '2'"),
        ({"base": "one", "kind": "lora", "lora": {**lora, "x": 1}}, "x: unknown key"),
    ):  # fmt: skip
        save_file(values, path, {METADATA: json.dumps(about)})
        with pytest.raises(InputError, match=f"metadata.*{said}"):
            load_policy(tiny.unet(), path, "one")
    name = next(iter(values))
    metadata = {METADATA: json.dumps({"kind": "norm_affine", "base": "one"})}
    for wrong in (values[name] * float("nan"), values[name] + float("inf"), values[name].long()):
        save_file(values | {name: wrong}, path, metadata)
        with pytest.raises(InputError, match=f"{name!r} is not finite numbers"):
            load_policy(tiny.unet(), path, "one")


def test_seed_draws_the_start_of_lora():
    a, b, c = (dict(make_policy(tiny.unet(), "lora", seed=s).parameters()) for s in (1, 1, 2))
    name = next(n for n in a if "lora_A" in n)
    assert torch.equal(a[name], b[name])
    assert not torch.equal(a[name], c[name])


def test_a_rollout_works_out_updated_weights_once_and_to_the_same_bits(monkeypatch: pytest.MonkeyPatch):
    policy = perturbed(tiny.unet(), "lora")
    layers = sum(isinstance(module, LowRank) for module in policy.network.modules())
    networks, batch, calls = tiny.networks(policy.network), tiny.batch(), []
    monkeypatch.setattr(LowRank, "forward", lambda self, weight: calls.append(1) or updated(self, weight))
    x = networks.rollout(batch, batch.noise.initial(), 0, 4)
    assert (len(calls), networks.policy.evaluations) == (layers, 4 * 2)
    with monkeypatch.context() as patch:
        patch.setattr("stages.finetune.networks.unchanged", nullcontext)
        assert torch.equal(networks.rollout(batch, batch.noise.initial(), 0, 4), x)
        assert len(calls) == layers * (1 + 4)
    networks.x0(batch, x, 4).square().mean().backward()  # what was kept for the rollout is not met here
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in policy.parameters())
    with torch.no_grad():
        for _, parameter in policy.parameters():
            parameter.mul_(2)
    assert not torch.equal(networks.rollout(batch, batch.noise.initial(), 0, 4), x)
