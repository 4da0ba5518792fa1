"""Tiny random language models, one of every architecture that is known, and rows for them."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.models.targets import TARGETS
from sweeper.tasks.base import Batch, flat_indices
from tests.models.test_targets import KEY_VALUE, NAMES_OF_ITS_OWN, SMALL

LANGUAGE_MODELS = [
    name
    for name in sorted(TARGETS)
    if any(part in target for target in TARGETS[name] for part in ("q_proj", "qkv_proj", "query_key_value", "c_attn"))
    and name != "deberta-v2"
]
VOCABULARY = 48
END = 2  # of a text, and what pads


def language_model(kind="llama", attention="eager", seed=1):
    """Make the same frozen model each time."""
    sizes = {**SMALL, **NAMES_OF_ITS_OWN.get(kind, {}), **KEY_VALUE.get(kind, {}), "vocab_size": VOCABULARY}
    config = AutoConfig.for_model(
        kind,
        **{**sizes, "max_position_embeddings": 64, "pad_token_id": END},
        initializer_range=0.3,  # so that attention matters
        attn_implementation=attention,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(requires_grad=False)


def pairs(num_rows, *, seed=0, choices=()):
    """Draw prompts of 1 to 9 tokens with completions of 1 to 3 and an end, or with one of the choices."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        count = int(torch.randint(low, high + 1, (), generator=generator))
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    labels = [n % len(choices) if choices else -1 for n in range(num_rows)]
    return [(draw(1, 9), list(choices[k]) if choices else [*draw(1, 3), END], k) for k in labels]


def batch_of(rows):
    """Pad rows on the right with the end token."""
    longest = max(len(prompt) + len(completion) for prompt, completion, _ in rows)
    ids = torch.full((len(rows), longest), END)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for number, (prompt, completion, _) in enumerate(rows):
        whole = torch.tensor([*prompt, *completion])
        ids[number, : len(whole)] = whole
        mask[number, : len(whole)] = 1
    targets = torch.tensor([[len(prompt), choice] for prompt, _, choice in rows])
    spans = [[(len(prompt), len(prompt) + len(completion))] for prompt, completion, _ in rows]
    return Batch(ids, mask, targets, flat_indices(spans, longest), spans)


@torch.no_grad()
def nll_alone(model, prompt, completion):
    """Return the negative log-likelihood of a completion, alone in its batch, from the logits of the whole row."""
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].float()
    likely = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return -likely.gather(1, torch.tensor(completion)[:, None]).sum()
