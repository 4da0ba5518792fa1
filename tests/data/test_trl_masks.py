"""Which tokens have a loss is what trl makes of the same rows, for five chat templates, with and without marks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl import SFTTrainer

from sweeper.config.settings import DatasetSettings
from sweeper.data.base import Splits
from sweeper.data.prompts import build_prompts
from sweeper.data.tokens import make_tokens
from sweeper.errors import DataError

TEMPLATES = Path(__file__).parent / "chat_templates"
SPECIAL = {
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "qwen3": ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]"),
    "gemma": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
}
"""Special tokens of each family; the first is the one that begins a text, the second the one that ends it."""
SAME_TEXT = {name: f"{name}_training" for name in SPECIAL} | {"qwen3": "qwen3_marked"}
"""Templates with marks that make the same text. trl's for Qwen3 does not: it shows the thinking of all answers."""


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CHATS = {
    "one answer": [user("What is 2+2?"), assistant("It is 4.")],
    "three answers": [
        user("Hi there"),
        assistant("Hello! How can I help?"),
        user("Tell me a joke, in\ntwo lines."),
        assistant("Why?\n\nBecause."),
        user("Why?"),
        assistant("Hello! How can I help?"),
    ],
    "blanks at the ends": [user(" Hi "), assistant("  Hello.\n"), user("Bye\n"), assistant(" Bye. ")],
    "beyond ASCII": [user("¿Qué tal? 😀"), assistant("Très bien 👍🏽 — merci"), user("日本語"), assistant("はい。")],
    "a question at the end": [user("Hi"), assistant("Hello."), user("And?")],
    "words of the template": [
        user("say assistant"),
        assistant("assistant\nassistant"),
        user("AnswerOfTheAssistant"),
        assistant("ok"),
    ],
}
THINKING = [
    user("2+2?"),
    assistant("<think>\nadd them\n</think>\n\nIt is 4."),
    user("3+3?"),
    assistant("It is 6.", reasoning_content="add them, too"),
]
BYTES = ("smollm2", "llama3", "qwen3")


@pytest.fixture(scope="module", params=SPECIAL)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(family):
    """Train a tokenizer of few pieces: bytes, as GPT-2's, or characters with marks for blanks, as SentencePiece's."""
    words = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    if family in BYTES:
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        words.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        words.decoder = decoders.Metaspace(prepend_scheme="never", split=False)
        alphabet = sorted({c for chat in [*CHATS.values(), THINKING] for m in chat for c in m["content"]} | set("\n▁"))
    texts = [message["content"] for chat in CHATS.values() for message in chat] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 80, initial_alphabet=list(alphabet), show_progress=False, min_frequency=2
    )
    names = [
        "system",
        "user",
        "assistant",
        "model",
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    ]
    words.train_from_iterator([*texts, *names * 3], trainer)
    words.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL[family]])
    begin, end = SPECIAL[family][:2]
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=begin, eos_token=end, pad_token=end)


def with_template(tokenizer, name):
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return tokenizer


def trl_of(tokenizer, rows, *, assistant_only=False):
    """Return token ids and labels that trl prepares."""
    completion_only = "completion" in rows[0]
    trainer = SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=completion_only)
    args = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field="text",
        assistant_only_loss=assistant_only,
        max_length=None,
        truncation_mode="keep_start",
        shuffle_dataset=False,
    )
    found = SFTTrainer._prepare_dataset(
        trainer, Dataset.from_list(rows), tokenizer, args, packing=False, formatting_func=None, dataset_name="train"
    )
    return [(row["input_ids"], row["labels"]) for row in found]


def ours_of(tokenizer, rows, folder, *, loss_on="all"):
    """Return token ids and labels that we train on."""
    tokenizer.save_pretrained(folder)
    table = build_prompts([(f"row {n}", row) for n, row in enumerate(rows)], DatasetSettings(name="mine"))
    kind = next(name for name in ("chat", "document") if name in table.column_names)
    whole = table.add_column("label", [-1] * len(table))
    none = whole.select([])
    splits = Splits(
        name="mine", kind=kind, train=whole, validation=none, test=none, confirmation=none, labels=(), fingerprint=""
    )
    made = make_tokens(splits, folder, 512, trust_remote_code=False, chat="for_messages", loss_on=loss_on)
    return [(row["input_ids"], _labels(row)) for row in made.parts["train"]]


def _labels(row):
    flat = row.get("spans") or [row["prompt"], row["length"]]
    spans = list(zip(flat[::2], flat[1::2], strict=True))
    return [
        token if any(start <= place < end for start, end in spans) else -100
        for place, token in enumerate(row["input_ids"])
    ]


def assert_same(ours, theirs):
    """Compare labels; ours end with the last token that has a loss."""
    for (ids, labels), (their_ids, their_labels) in zip(ours, theirs, strict=True):
        assert ids == their_ids[: len(ids)]
        assert labels == their_labels[: len(ids)]
        assert set(their_labels[len(ids) :]) <= {-100}
        assert labels[-1] != -100


def chats_for(family):
    chats = [*CHATS.values()]
    system = {"role": "system", "content": "Be short."}
    if family not in ("gemma", "mistral"):  # these refuse a system message
        chats += [[system, *chat] for chat in chats[:2]]
    return [{"messages": chat} for chat in chats]


def test_marked_answers_are_trls(tokenizer, family, tmp_path):
    marked = with_template(tokenizer, f"{family}_training")
    rows = chats_for(family)
    assert_same(ours_of(marked, rows, tmp_path), trl_of(marked, rows, assistant_only=True))


def test_answers_of_a_template_without_marks_are_trls_for_the_same_text_with_marks(tokenizer, family, tmp_path):
    rows = chats_for(family)
    ours = ours_of(with_template(tokenizer, family), rows, tmp_path)
    assert_same(ours, trl_of(with_template(tokenizer, SAME_TEXT[family]), rows, assistant_only=True))


def test_completions_of_chats_are_trls(tokenizer, family, tmp_path):
    rows = [
        {"prompt": chat[:-1], "completion": chat[-1:]} for chat in CHATS.values() if chat[-1]["role"] == "assistant"
    ]
    plain = with_template(tokenizer, family)
    assert_same(ours_of(plain, rows, tmp_path), trl_of(plain, rows))


def test_the_last_answer_is_the_completion_of_what_is_before_it(tokenizer, family, tmp_path):
    chats = [chat for chat in CHATS.values() if chat[-1]["role"] == "assistant"]
    plain = with_template(tokenizer, family)
    ours = ours_of(plain, [{"messages": chat} for chat in chats], tmp_path, loss_on="last")
    assert_same(ours, trl_of(plain, [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats]))


def test_plain_texts_are_trls_but_for_the_first_token_which_nothing_predicts(tokenizer, tmp_path):
    rows = [{"text": message["content"]} for chat in CHATS.values() for message in chat]
    tokenizer.chat_template = None
    theirs = [(ids, [-100, *labels[1:]]) for ids, labels in trl_of(tokenizer, rows)]
    assert_same(ours_of(tokenizer, rows, tmp_path), theirs)


@pytest.mark.parametrize("family", ["qwen3"], scope="module")
def test_thinking_that_qwen3_strips_from_earlier_answers_has_no_loss(tokenizer, family, tmp_path):
    rows = [{"messages": THINKING}]
    ours = ours_of(with_template(tokenizer, family), rows, tmp_path)
    assert_same(ours, trl_of(with_template(tokenizer, "qwen3_marked"), rows, assistant_only=True))
    learnt = tokenizer.decode([label for label in ours[0][1] if label != -100])
    assert learnt == "It is 4.<|im_end|>\n<think>\nadd them, too\n</think>\n\nIt is 6.<|im_end|>\n"


@pytest.mark.parametrize("family", ["smollm2"], scope="module")
def test_a_template_that_shows_a_chat_in_another_way_when_it_goes_on_is_an_error(tokenizer, family, tmp_path):
    original = with_template(tokenizer, family).chat_template
    tokenizer.chat_template = original.replace(
        "{% for message in messages %}", "{{ messages | length }}{% for message in messages %}"
    ).replace("'<|im_end|>' + '\n'}}", "('<|im_end|>\n' if loop.last else '<|im_start|>')}}")
    rows = [{"messages": CHATS["three answers"]}]
    with pytest.raises(DataError, match=r"answer 2 of a chat cannot be found.*generation.*task\.loss_on=last"):
        ours_of(tokenizer, rows, tmp_path)
    ((_, labels),) = ours_of(tokenizer, rows, tmp_path, loss_on="last")
    assert tokenizer.decode([label for label in labels if label != -100]) == "Hello! How can I help?<|im_end|>\n"
