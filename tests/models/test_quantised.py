"""Quantised bases: what is held, what it dequantises to, and models that were published quantised."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sweeper.config.settings import ModelSettings
from sweeper.errors import ConfigError, ModelError
from sweeper.figures.memory import base_bytes
from sweeper.models import fetch_config, fetch_model
from sweeper.models.linear import layers_in_blocks, num_parameters, weight_of
from sweeper.models.quantised_linear import EightBitWeight, FourBitWeight, FrozenQuantised, PlainWeight
from sweeper.models.quantization import check_library, choose_quantization
from sweeper.models.shapes import shapes_of
from tests.models.quantised import KINDS, dequantised, load, need_bitsandbytes, quantised_layers
from tests.tasks.languages import language_model
from tests.train.fake_cuda import CUDA, FakeCuda
from tests.train.live_bytes import LiveBytes
from tests.train.tiny import build_model

torch.set_num_threads(1)
BITS = ("nf4", "int8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        model = build_model("bert") if kind == "bert" else language_model(kind)
        model.save_pretrained(root / kind)
    return root


@pytest.fixture(scope="module", params=BITS)
def bits(request):
    need_bitsandbytes()
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_of_the_blocks_are_quantised_and_no_others(folders, kind, bits):
    model = load(folders / kind, kind, bits)
    assert list(quantised_layers(model)) == layers_in_blocks(load(folders / kind, kind))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_its_outputs_are_those_of_the_dequantised_weights_which_are_near_the_real_ones(folders, kind, bits):
    model = load(folders / kind, kind, bits)
    ids = torch.randint(3, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    found = model(input_ids=ids).logits
    torch.testing.assert_close(found, dequantised(folders / kind, kind, model)(input_ids=ids).logits)
    plain = load(folders / kind, kind)
    for name, layer in quantised_layers(model).items():
        weight = weight_of(plain.get_submodule(name))
        error = (layer.frozen.dequantised() - weight).norm() / weight.norm()
        assert 1e-4 < error < {"nf4": 0.12, "int8": 0.01}[bits]


def test_dequantised_weights_are_those_of_bitsandbytes(tmp_path, bits):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    _save_llama(tmp_path, hidden_size=64, intermediate_size=128, num_attention_heads=4)
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if bits == "int8"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    )
    stock = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )
    for name, layer in quantised_layers(load(tmp_path, "llama", bits)).items():
        other = stock.get_submodule(name)
        expected = dequantize_bnb_weight(other.weight, getattr(other, "state", None))
        torch.testing.assert_close(layer.frozen.dequantised(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(64, 96), (16, 16), (5, 16), (7, 33), (3, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_need_not_be_whole_blocks(shape, dtype):
    """bitsandbytes' own kernel for the CPU fails some of these; if it no longer does, `_on_cpu` can go."""
    need_bitsandbytes()
    from bitsandbytes.functional import quantize_4bit

    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = FrozenQuantised([FourBitWeight(*quantize_4bit(weight, quant_type="nf4"), dtype)], None, weight)
    error = (found.dequantised() - weight).float().norm() / weight.float().norm()
    assert error < 0.11  # 0.09 for normally distributed weights


def test_eight_bits_are_converted_in_few_rows_at_a_time_on_a_cpu(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(-127, 128, (150, 33), dtype=torch.int8, generator=generator)
    weight = EightBitWeight(values, torch.rand(150, generator=generator), torch.bfloat16)
    rows, multiply = [], torch.mul
    monkeypatch.setattr(torch, "mul", lambda *args, **kw: (rows.append(len(args[0])), multiply(*args, **kw)))
    found = weight.dequantised()
    # More at once would make two float32 copies of them.
    assert rows == [64, 64, 22]
    assert torch.equal(found, (values.float() * weight.scales).bfloat16())


@pytest.mark.parametrize(("bits", "per_weight"), [("nf4", 1 / 2 + (1 + 4 / 256) / 64), ("int8", 1 + 4 / 256)])
def test_what_a_weight_takes(tmp_path, bits, per_weight):
    need_bitsandbytes()
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4}
    _save_llama(tmp_path, **sizes)
    model = load(tmp_path, "llama", bits, torch.bfloat16)
    layer = model.get_submodule("model.layers.0.mlp.gate_proj")
    offset = 4 if bits == "nf4" else 0
    assert layer.frozen.nbytes == 512 * 256 * per_weight + offset
    assert layer.weight.untyped_storage().nbytes() == 2


def test_the_memory_model_counts_what_a_model_holds(tmp_path, bits):
    _save_llama(tmp_path, hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2)
    model = load(tmp_path, "llama", bits, torch.bfloat16)
    shapes = shapes_of(model, target_modules=(), head_modules=(), kind="causal_lm")
    plain = load(tmp_path, "llama", "none", torch.bfloat16)
    assert shapes == shapes_of(plain, target_modules=(), head_modules=(), kind="causal_lm")
    assert num_parameters(model) == num_parameters(plain)
    layers = quantised_layers(model)
    held = sum(parameter.nbytes for parameter in model.parameters())
    held += sum(layer.frozen.nbytes for layer in layers.values())
    offsets = 4 * len(layers) if bits == "nf4" else 0
    assert base_bytes(shapes, "bfloat16", quantization=bits) == held - offsets
    assert shapes.dequantised == 3 * 512 * 256  # gate_proj and up_proj, and one of them again


def test_loading_holds_one_weight_in_full_at_a_time(tmp_path, bits):
    _save_llama(tmp_path, hidden_size=256, intermediate_size=512, num_attention_heads=4, num_hidden_layers=8)
    with LiveBytes("cpu") as live:
        model = load(tmp_path, "llama", bits, torch.bfloat16)
    layers = quantised_layers(model)
    held = sum(layer.frozen.nbytes for layer in layers.values())
    in_full = 2 * sum(layer.weight.numel() for layer in layers.values())
    largest = 2 * 512 * 256
    # Other weights stay in the pages of the file; bitsandbytes makes several copies of the one that it quantises.
    assert live.peak - held < 16 * largest < in_full / 2


def test_a_product_keeps_no_dequantised_weight(folders, bits, monkeypatch):
    model = load(folders / "llama", "llama", bits)
    alive, most, saved = weakref.WeakSet(), [], []
    plain = FrozenQuantised.dequantised

    def watched(self):
        weight = plain(self)
        alive.add(weight)
        most.append(len(alive))
        return weight

    monkeypatch.setattr(FrozenQuantised, "dequantised", watched)
    x = model.get_input_embeddings()(torch.randint(3, 30, (2, 7))).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        loss = model(inputs_embeds=x).logits.square().sum()
    assert len(alive) == 0
    weights = {layer.part.shape for layer in quantised_layers(model).values()}
    assert saved
    assert not weights & {*saved, *(shape[::-1] for shape in saved)}
    loss.backward()
    assert len(most) == 2 * len(quantised_layers(model))  # forward and backward
    assert max(most) == 1
    reference = dequantised(folders / "llama", "llama", model)
    copy = x.detach().requires_grad_()
    reference(inputs_embeds=copy).logits.square().sum().backward()
    torch.testing.assert_close(x.grad, copy.grad)


def test_siblings_of_which_one_is_not_quantised_are_multiplied_as_one(folders):
    need_bitsandbytes()
    model = load(folders / "llama", "llama", "nf4")
    held = model.get_submodule("model.layers.0.self_attn.q_proj").part
    weight = torch.randn(5, held.shape[1])
    frozen = FrozenQuantised([held, PlainWeight(weight)], None, weight)
    x = torch.randn(3, held.shape[1])
    both = torch.cat([frozen.dequantised()[: held.shape[0]], weight])
    torch.testing.assert_close(frozen.forward(x), F.linear(x, both))
    assert torch.isnan(F.linear(x, frozen.weight)).all()  # whoever takes the stand-in for the weight notices
    assert isinstance(held, FourBitWeight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_was_published_quantised_is_loaded_as_it_is(folders, tmp_path, bits, dtype):
    folder = _publish(folders / "llama", tmp_path / bits, bits)
    assert choose_quantization("none", folder) == (bits, f"{bits}, as in the model's files")
    model = load(folder, "llama", bits, dtype)
    expected = quantised_layers(load(folders / "llama", "llama", bits))
    found = quantised_layers(model)
    assert found.keys() == expected.keys()
    for name, layer in found.items():
        assert torch.equal(layer.frozen.dequantised(), expected[name].frozen.dequantised().to(dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert type(model.lm_head) is torch.nn.Linear  # the loss reads its weights


def test_loading_prints_nothing(folders, bits, capfd):
    load(folders / "llama", "llama", bits)
    assert capfd.readouterr() == ("", "")


_FIRST_IMPORT = """
import logging, sys
sys.path.insert(0, sys.argv[1])
from sweeper.models.quantization import import_bitsandbytes
import_bitsandbytes()
log = logging.getLogger("bitsandbytes.backends.cpu.ops")
log.warning("something else")
assert "kernels" not in sys.modules
import kernels, bitsandbytes
assert kernels.is_here
log.warning("Failed to load CPU gemm_4bit_forward from kernels-community: for another reason")
"""


@pytest.mark.slow
def test_the_first_import_fetches_no_kernel_and_hides_only_the_message_that_it_is_missing(tmp_path):
    need_bitsandbytes()
    fetches = "is_here = True\ndef get_kernel(*args, **options): raise SystemExit('a kernel is fetched')\n"
    (tmp_path / "kernels.py").write_text(fetches)
    found = subprocess.run(
        [sys.executable, "-c", _FIRST_IMPORT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines() == [
        "something else",
        "Failed to load CPU gemm_4bit_forward from kernels-community: for another reason",
    ]


@pytest.mark.parametrize(("stored", "wanted"), [("nf4", "int8"), ("int8", "nf4")])
def test_other_bits_than_those_of_the_files_are_refused(tmp_path, stored, wanted):
    _config(tmp_path, {"quant_method": "bitsandbytes", f"load_in_{'4' if stored == 'nf4' else '8'}bit": True})
    assert choose_quantization(stored, tmp_path)[0] == stored
    with pytest.raises(ConfigError, match=rf"^model\.quantization={wanted}: .*already holds weights in {stored}"):
        choose_quantization(wanted, tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_models_that_others_have_quantised_are_refused_before_their_weights_are_fetched(tmp_path, method):
    _config(tmp_path, {"quant_method": method, "bits": 4})
    with pytest.raises(ModelError, match=rf"quantised by {method}: only those by bitsandbytes"):
        fetch_config(ModelSettings(id=str(tmp_path)), cache=tmp_path / "cache")


def test_without_bitsandbytes_the_error_says_how_to_install_it(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("sweeper.models.quantization.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"^model\.quantization=nf4: needs .*lora-sweeper\[quantization\]"):
        check_library("nf4")
    settings = ModelSettings(id=str(folders / "llama"), quantization="int8")
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        fetch_model(settings, cache=tmp_path)
    check_library("none")


def _save_llama(folder, **sizes):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"num_hidden_layers": 2, "vocab_size": 64, "pad_token_id": 2, **sizes}
    config = AutoConfig.for_model("llama", **sizes, dtype=torch.bfloat16)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def _config(folder, quantization):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quantization}))


def _publish(source, folder, bits):
    """Save a model as its authors would, who quantise the output layer as well."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    options = four if bits == "nf4" else {"load_in_8bit": True}
    config = BitsAndBytesConfig(**options, llm_int8_skip_modules=[])
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of the size of SmolLM2-135M with random weights, and a tiny one."""
    folder = tmp_path_factory.mktemp("sizes")
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    _save_llama(folder / "large", **sizes, num_hidden_layers=30, vocab_size=49152, tie_word_embeddings=True)
    _save_llama(folder / "tiny", hidden_size=64, intermediate_size=64, num_attention_heads=2)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("quantization", ["none", *BITS])
def test_a_process_keeps_no_copy_of_the_weights_on_a_cpu(large, quantization):
    if quantization != "none":
        need_bitsandbytes()
    found = subprocess.run(
        [sys.executable, "-m", "tests.models.loading", str(large), quantization],
        capture_output=True,
        text=True,
        check=True,
    )
    memory = json.loads(found.stdout.splitlines()[-1])
    blocks, mb = 30 * (576 * (576 + 2 * 192 + 576) + 3 * 576 * 1536), 10**6
    held = {"none": 0.0, "nf4": blocks * (0.5 + 0.016), "int8": blocks * 1.0}[quantization]
    # 269 MB in bfloat16. Embeddings and what is not quantised stay in the pages of the file, which processes share.
    assert memory["held"] < held + 25 * mb
    if quantization == "none":
        assert memory["peak"] < 25 * mb


def test_four_bits_on_a_gpu_dequantise_to_the_weights_of_a_cpu():
    need_bitsandbytes()
    from bitsandbytes.functional import quantize_4bit

    options = {"quant_type": "nf4", "compress_statistics": True}
    packed, state = quantize_4bit(torch.randn(64, 128, generator=torch.Generator().manual_seed(0)), **options)
    expected = FourBitWeight(packed, state, torch.float32).dequantised()
    with FakeCuda() as gpu:
        state.to(CUDA)  # as bitsandbytes moves it
        found = FourBitWeight(packed.to(CUDA), state, torch.float32).dequantised()
        assert found.device == CUDA
        assert torch.equal(found.cpu(), expected)
    assert gpu.operators["dequantize_4bit"] == 1


def test_eight_bits_on_a_gpu_dequantise_to_the_weights_of_a_cpu():
    values, largest = torch.tensor([[127, -64], [3, 0]], dtype=torch.int8), torch.tensor([1.27, 127.0])
    expected = EightBitWeight(values, largest, torch.bfloat16).dequantised()
    with FakeCuda():
        found = EightBitWeight(values.to(CUDA), largest.to(CUDA), torch.bfloat16).dequantised()
        assert torch.equal(found.cpu(), expected)
    assert expected.tolist() == [[1.2734375, -0.640625], [3.0, 0.0]]
