from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

import sweeper.data
from sweeper.config.settings import DatasetSettings
from sweeper.data.splits import make_splits
from sweeper.data.tokens import tokenise
from sweeper.errors import ModelError
from tests.data.builders import make_tokenizer

ROWS = [{"text": f"row {n}", "label": str(n % 2)} for n in range(60)]


def splits_of(rows=ROWS, **settings):
    return make_splits(Dataset.from_list(rows), DatasetSettings(name="mine", **settings))


@pytest.fixture
def model_dir(tmp_path):
    return make_tokenizer(tmp_path / "model")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_rows_become_ids_lengths_and_labels(model_dir, cache):
    splits = splits_of()
    found = tokenise(splits, model_dir=model_dir, max_length=8, cache=cache)
    number = int(splits.train[0]["text"].split()[1])
    assert found.train[0] == {"input_ids": [3, 4 + number], "length": 2, "label": number % 2}
    assert found.pad_token_id == 1
    assert [len(part) for part in (found.train, found.validation, found.test)] == [36, 12, 12]


def test_long_rows_are_cut_and_short_ones_not_padded(model_dir, cache):
    rows = [{**row, "text": row["text"] + " row" * n} for n, row in enumerate(ROWS)]
    lengths = tokenise(splits_of(rows), model_dir=model_dir, max_length=5, cache=cache).train["length"]
    assert max(lengths) == 5
    assert min(lengths) < 5


def test_padding_that_a_tokenizer_file_asks_for_is_left_out(model_dir, cache):
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    words.enable_padding(length=6, pad_id=1, pad_token="[PAD]")  # noqa: S106 - a token of text
    words.save(str(model_dir / "tokenizer.json"))
    assert set(tokenise(splits_of(), model_dir=model_dir, max_length=8, cache=cache).train["length"]) == {2}


def test_without_a_padding_token_the_end_token_pads(tmp_path, cache):
    model_dir = make_tokenizer(tmp_path / "no-pad", pad=False)
    assert tokenise(splits_of(), model_dir=model_dir, max_length=8, cache=cache).pad_token_id == 2


def test_a_text_without_any_token_still_gets_one(model_dir, cache):
    rows = [*ROWS, {"text": "\x00\u200b", "label": "0"}]
    rows[0] = {"text": "\u3164", "label": "1"}
    found = tokenise(splits_of(rows), model_dir=model_dir, max_length=8, cache=cache)
    assert min(min(part["length"]) for part in (found.train, found.validation, found.test)) >= 1


@pytest.mark.parametrize(("config", "longest"), [({}, 4), ({"model_type": "roberta"}, 2)])
def test_rows_are_cut_to_what_the_model_takes(tmp_path, cache, caplog, config, longest):
    model_dir = make_tokenizer(tmp_path / "short", max_position_embeddings=4, **config)
    rows = [{**row, "text": row["text"] + " row row row"} for row in ROWS]
    found = tokenise(splits_of(rows), model_dir=model_dir, max_length=128, cache=cache)
    assert set(found.train["length"]) == {longest}
    assert f"the model takes at most {longest} tokens" in caplog.text


def test_an_empty_test_split_is_tokenised(model_dir, cache):
    found = tokenise(splits_of(test_rows=0), model_dir=model_dir, max_length=8, cache=cache)
    assert len(found.test) == 0
    assert found.test.features == found.train.features


def test_a_second_call_loads_no_transformers(model_dir, cache):
    tokenise(splits_of(), model_dir=model_dir, max_length=8, cache=cache)
    code = (
        "import sys; from pathlib import Path; from tests.data.test_tokens import splits_of, tokenise\n"
        f"tokenise(splits_of(), model_dir=Path({str(model_dir)!r}), max_length=8, cache=Path({str(cache)!r}))\n"
        "print({'torch', 'transformers'} & {*sys.modules})"
    )
    root = Path(sweeper.data.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_rows_length_and_tokenizer_each_have_their_own_cache(tmp_path, model_dir, cache):
    other = make_tokenizer(tmp_path / "other", pad=False)
    for seed, folder, length in [(0, model_dir, 8), (1, model_dir, 8), (0, other, 8), (0, model_dir, 9)]:
        tokenise(splits_of(seed=seed), model_dir=folder, max_length=length, cache=cache)
    assert len([p for p in (cache / "tokens").iterdir() if not p.name.startswith(".")]) == 4


def test_a_folder_without_tokenizer_is_an_error(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded"):
        tokenise(splits_of(), model_dir=tmp_path / "empty", max_length=8, cache=cache)


def test_nothing_is_printed(model_dir, cache, capfd):
    tokenise(splits_of(), model_dir=model_dir, max_length=8, cache=cache)
    assert capfd.readouterr() == ("", "")
