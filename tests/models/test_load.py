from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from sweeper.errors import ModelError, WorkerError
from sweeper.models.device_choice import check_device, choose_attention, choose_dtype, cpu_flags
from sweeper.models.load import load_model, release_copied_weights
from tests.data.builders import make_tokenizer
from tests.train.fake_cuda import FakeCuda

torch.set_num_threads(1)
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_tiny(folder, model_type, **more):
    make_tokenizer(folder, pad=False)
    config = AutoConfig.for_model(model_type, vocab_size=64, max_position_embeddings=32, **SIZES, **more)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "llama", "llama", num_key_value_heads=1)


def load(path, **more):
    return load_model(
        path,
        **{"kind": "sequence_classification", "num_labels": 3, "dtype": torch.float32, "attention": "eager", **more},
    )


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_model_is_loaded_frozen_and_in_evaluation_mode(model_type, request):
    model = load(request.getfixturevalue(model_type))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_it_classifies_into_as_many_labels_as_asked(model_type, request):
    model = load(request.getfixturevalue(model_type))
    assert model(input_ids=torch.tensor([[3, 4, 5], [6, 7, 8]])).logits.shape == (2, 3)


def test_its_weights_are_those_on_disk(bert):
    from safetensors.torch import load_file

    stored = load_file(bert / "model.safetensors")["encoder.layer.1.attention.self.query.weight"]
    assert torch.equal(load(bert).get_submodule("bert.encoder.layer.1.attention.self.query").weight, stored)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_weights_have_the_type_asked_for(bert, dtype):
    assert {parameter.dtype for parameter in load(bert, dtype=dtype).parameters()} == {dtype}


@pytest.mark.parametrize("attention", ["eager", "sdpa", "sweeper_sdpa"])
def test_it_has_the_attention_asked_for(bert, attention):
    assert load(bert, attention=attention).config._attn_implementation == attention


def test_a_missing_padding_token_is_taken_from_the_tokenizer(llama):
    assert load(llama).config.pad_token_id == 2


def test_the_new_head_is_the_same_each_time_and_the_global_generator_untouched(bert):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = load(bert)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.classifier.weight, load(bert).classifier.weight)


def test_loading_prints_nothing(bert, capfd):
    load(bert)
    assert capfd.readouterr() == ("", "")


def test_weights_in_another_format_are_refused(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path / "pickled")


def test_a_model_without_a_classification_head_is_an_error(tmp_path):
    make_tokenizer(tmp_path / "vit", model_type="vit")
    with pytest.raises(ModelError, match="sequence classification"):
        load(tmp_path / "vit")


@pytest.mark.parametrize(
    ("wanted", "flags", "dtype", "why"),
    [
        ("auto", {"avx2", "avx512_bf16"}, torch.bfloat16, "this CPU supports (avx512_bf16)"),
        ("auto", {"amx_bf16"}, torch.bfloat16, "(amx_bf16)"),
        ("auto", {"avx2", "avx512f"}, torch.float32, "no sign that this CPU supports bfloat16"),
        ("float32", {"avx512_bf16"}, torch.float32, "set by model.dtype"),
        ("bfloat16", set(), torch.bfloat16, "set by model.dtype"),
        ("float16", {"avx512_bf16"}, torch.float16, "set by model.dtype"),
    ],
)
def test_the_type_is_chosen_and_explained(wanted, flags, dtype, why):
    chosen, said = choose_dtype(wanted, "cpu", flags=frozenset(flags))
    assert chosen is dtype
    assert why in said


@pytest.mark.parametrize(
    ("is_supported", "capability", "dtype", "why"),
    [
        (True, (8, 0), torch.bfloat16, "bfloat16, which this GPU supports"),
        (False, (7, 5), torch.float16, "float16 with a loss scale for each trial"),
        (False, (7, 0), torch.float16, "does not support bfloat16"),
        (False, (6, 1), torch.float32, "neither bfloat16 nor fast float16"),
    ],
)
def test_a_gpu_is_asked_for_bfloat16(monkeypatch, is_supported, capability, dtype, why):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: is_supported)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    chosen, said = choose_dtype("auto", "cuda:0")
    assert chosen is dtype
    assert why in said


@pytest.mark.parametrize(
    ("wanted", "device", "kernel"),
    [("auto", "cpu", "eager"), ("auto", "cuda", "sweeper_sdpa"), ("sdpa", "cpu", "sdpa"), ("eager", "cuda", "eager")],
)
def test_the_attention_is_chosen_and_explained(wanted, device, kernel):
    chosen, said = choose_attention(wanted, device)
    assert chosen == kernel
    assert said.startswith(kernel)


def test_flags_are_read_as_linux_writes_them(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(path) == {"fpu", "avx512_bf16", "amx_bf16"}
    path.write_text("processor\t: 0\nFeatures\t: fp bf16\n")
    assert cpu_flags(path) == {"fp", "bf16"}
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_a_device_that_torch_cannot_use_is_an_error_that_says_why(monkeypatch):
    check_device("cpu")
    with FakeCuda():
        check_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for version, why in ((None, "built for CPUs only"), ("13.0", "built for CUDA 13.0, which may need a newer driver")):
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(WorkerError, match=f"{why}.*executor.device=cpu"):
            check_device("cuda:0")


def test_a_device_that_this_build_of_torch_has_no_kernels_for_is_an_error(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors ..."
        )

    with FakeCuda():
        monkeypatch.setattr(torch, "ones", fail)
        with pytest.raises(WorkerError, match=r"no kernel image is available .* its generation"):
            check_device("cuda")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "model.quantization=nf4"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "nvidia-smi"),
    ],
)
def test_a_model_that_the_device_refuses_is_an_error_with_a_remedy_for_that(bert, monkeypatch, error, remedy):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", fail)
    with pytest.raises(ModelError, match=remedy) as caught:
        load(bert)
    assert "safetensors" not in str(caught.value)


def resident_pages(folder):
    """Return the resident bytes of the mapped weights of a model."""
    found, is_mapping = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            is_mapping = words[-1] == str(folder / "model.safetensors")
        elif is_mapping and words[0] == "Rss:":
            found += 1024 * int(words[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux lists mappings")
@pytest.mark.parametrize("is_written", [False, True])
def test_pages_of_weights_are_released_unless_they_were_written_to(bert, is_written):
    model = load(bert)
    weight = model.bert.encoder.layer[0].attention.self.query.weight
    if is_written:
        weight += 1.0
    before = {name: value.clone() for name, value in model.named_parameters()}  # reads every page
    mapped = resident_pages(bert)
    assert mapped > 0
    release_copied_weights(bert)
    assert resident_pages(bert) == (mapped if is_written else 0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
