"""The command `sweeper plan`: tables in a pipe, JSON, rows of the user's files, mistakes."""

from __future__ import annotations

import json
import sys

import pytest

from sweeper.cli import main
from sweeper.figures.memory import COMPILED_PRODUCT_BYTES
from tests.data.builders import make_tokenizer
from tests.plan.test_prediction import FOLDER, LLAMA, QWEN


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `sweeper plan` in this process; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweeper", "plan", *arguments, f"cache={tmp_path / 'cache'}"])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call


def test_the_tables_fit_a_pipe_and_show_every_corner(run):
    code, out, _ = run(*QWEN, "plan.gpu_gb=80", "lora.r=choice(4,256)", "plan.price_per_hour=2")
    assert code == 0
    assert f"{FOLDER / 'qwen3_0_6b'}: qwen3, 596,049,920 parameters, 28 blocks" in out.replace("\n", "")
    assert "Time and price: unknown, since no sweep has measured how fast this model trains on such a GPU" in out
    assert "\x1b[" not in out
    tables = [line for line in out.splitlines() if line[:8].strip() in {"4", "256"}]
    assert len(tables) == 2
    assert "…" not in out
    assert "2,523,136" in tables[0]


def test_json_has_the_same_numbers(run):
    code, out, _ = run(*LLAMA, "plan.gpu_gb=80", "lora.r=choice(8,16)", "model.max_length=256", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["model"]["parameters"] == 8_030_261_248
    assert set(found["model"]["base_bytes"]) == {"float32", "bfloat16", "float16", "int8", "nf4"}
    (study,) = found["studies"]
    assert [corner["parameters"] for corner in study["corners"]] == [20_971_520, 41_943_040]
    need = study["corners"][1]["peak_bytes"]
    parts = ("base", "lanes", "activations", "logits", "kernels", "fragments")
    assert need["total"] == sum(need[part] for part in parts)
    assert found["time"] is None
    assert found["price"] is None


def test_compiled_products_are_those_of_a_workers_cache(run, monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "10")
    code, out, _ = run(
        *QWEN, "model.dtype=bfloat16", "lora.r=8", "model.max_length=32", "executor.device=cpu", "--json"
    )
    assert code == 0
    (study,) = json.loads(out)["studies"]
    assert [corner["peak_bytes"]["kernels"] for corner in study["corners"]] == [10 * COMPILED_PRODUCT_BYTES]


def test_what_cannot_fit_ends_with_code_2_and_names_the_dimension(run):
    code, out, err = run(*LLAMA, "lora.r=choice(8,1024)", "plan.gpu_gb=40", "model.max_length=128")
    assert code == 2
    assert out == ""
    assert "lora.r=choice(8,1024): one trial of rank 1024 needs" in err.replace("\n", " ")


@pytest.fixture
def mine(tmp_path):
    """Rows of one to four words, and a tokenizer beside the shapes of Qwen3-0.6B."""
    folder = make_tokenizer(tmp_path / "model")
    (folder / "config.json").write_text((FOLDER / "qwen3_0_6b" / "config.json").read_text())
    rows = [{"text": " ".join(["row"] * (1 + number % 4)), "label": str(number % 2)} for number in range(100)]
    rows = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return [
        "model=hub",
        f"model.id={folder}",
        "model.name=qwen3",
        "dataset=files",
        f"dataset.files.path={path}",
        "dataset.files.test_rows=0",
        "plan.gpu_gb=24",
    ]


def test_rows_in_the_users_files_are_read(run, mine):
    code, out, _ = run(*mine, "lora.r=8", "train.epochs=2", "--json")
    assert code == 0
    (study,) = json.loads(out)["studies"]
    assert study["assumed"] == ""
    assert study["train_rows"] == 75
    assert 2 < study["tokens_per_row"] < 6
    # The head of two labels is trained, too.
    per_rank = 28 * ((1024 + 2048) + 2 * (1024 + 1024) + (2048 + 1024) + 3 * (1024 + 3072))
    assert study["corners"][0]["parameters"] == 8 * per_rank + 2 * 1024


def test_without_a_tokenizer_rows_are_counted_and_their_lengths_follow_from_their_bytes(run, tmp_path):
    rows = [{"text": f"{number:03d}" * (1 + number % 4), "label": "ab"[number % 2]} for number in range(100)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    uses = ["dataset=files", "dataset.files.path=rows.jsonl", "dataset.files.test_rows=0", "lora.r=8", "--json"]
    code, out, _ = run(*QWEN[1:4], *uses, "plan.gpu_gb=24", "train.epochs=3")
    assert code == 0
    (study,) = json.loads(out)["studies"]
    assert "has no tokenizer: rows are taken to have a token for every 3 bytes of text" in study["assumed"]
    assert study["train_rows"] == 75
    assert study["tokens_per_row"] == pytest.approx(2.5 + 2, abs=0.1)
    assert study["trial_tokens"] == round(3 * 64 * study["tokens_per_row"])  # of each epoch, whole micro-batches
    assert study["corners"][0]["pass_tokens"] == study["corners"][0]["lanes"] * 16 * 6


def test_of_chats_the_bytes_of_all_messages_count(run, tmp_path):
    def chat(number):
        question = {"role": "user", "content": f"{number:030d}"}
        return {"messages": [question, {"role": "assistant", "content": "yes " * 75}]}

    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(chat(number)) for number in range(100)))
    uses = ["dataset=files", "dataset.files.path=chats.jsonl", "lora.r=8", "plan.gpu_gb=24", "--json"]
    code, out, _ = run(*QWEN[:4], *uses)
    assert code == 0
    (study,) = json.loads(out)["studies"]
    assert 110 + 40 < study["tokens_per_row"] < 110 + 40 + 40  # the texts, what a template adds, and JSON
    short = run(*QWEN[:4], *uses, "model.max_length=100")[1]
    assert json.loads(short)["studies"][0]["tokens_per_row"] == 100


def test_dropout_of_a_model_without_dropout_layers_is_refused(run):
    code, _, err = run(*QWEN, "model.dropout=0.1", "plan.gpu_gb=80")
    assert code == 2
    assert "model.dropout=0.1: qwen3 has no dropout layers. Set model.dropout=0." in err.replace("\n", " ")


def test_a_quantised_base_is_named(run):
    code, out, _ = run(*LLAMA, "plan.gpu_gb=24", "model.quantization=nf4", "lora.r=16")
    assert code == 0
    assert "Base weights: nf4, multiplied in bfloat16, which current GPUs support" in out.replace("\n", " ")


def test_a_mistake_in_the_overrides_is_reported_before_anything_is_read(run):
    code, _, err = run("dataset=trec", "budget.trails=3")
    assert code == 2
    assert "budget.trials" in err
