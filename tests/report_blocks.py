"""The blocks of best.json that confirmation, effects and folklore add to a study, with values made by hand.

Scores grow with the logarithm of rank and learning rate, so that the plots have a shape.
"""

from __future__ import annotations

import math

import numpy as np

from sweeper.store.outcomes import RowOutcomes

KEYS = ("lora.r", "lora.alpha_ratio", "lora.dropout", "train.learning_rate")


def interval(estimate, half_width=0.01):
    return {"estimate": estimate, "low": estimate - half_width, "high": estimate + half_width}


def make_candidate(
    name, params, *, value=0.9, metric="validation/accuracy", source="search", first=2_000_000, **changes
):
    """Make a candidate with three fresh seeds; ``params`` has searched values by dotted key."""
    seeds = [
        {"trial": first + k, "seed": 101 + k, "value": value + offset, "metrics": {metric: value + offset},
         "adapter": None}
        for k, offset in enumerate((-0.006, 0.001, 0.005))
    ]  # fmt: skip
    alpha = params["lora.r"] * params["lora.alpha_ratio"]
    return {
        "name": name,
        "source": source,
        "trial": 0,
        "probability_best": 0.3,
        "params": {"lora.r": params["lora.r"], "lora.alpha": alpha, **params},
        "hyperparameters": {**params, "lora.use_rslora": False},
        "num_parameters": 5000 + 1000 * params["lora.r"],
        "device_s": 41.5,
        "seeds": seeds,
        "metrics": {metric: interval(value, 0.014), "validation/macro_f1": interval(value - 0.02, 0.02)},
        "against_default": make_difference(0.025, "better"),
        "against_best": None,
        "search_value": value + 0.01,
        "optimism": 0.01,
        "test": None,
        **changes,
    }


def make_difference(gain, verdict, **changes):
    return {
        "gain": interval(gain, 0.012),
        "verdict": verdict,
        "seeds_needed": None,
        "rows_needed": None,
        "metrics": {"validation/macro_f1": interval(gain, 0.02)},
        **changes,
    }


def make_confirmation(candidates, **changes):
    """Make a complete confirmation that recommends the first candidate; the last one is the default."""
    return {
        "state": "complete",
        "reason": "",
        "confidence": 0.95,
        "margin": 0.005,
        "num_seeds": 3,
        "num_rows": 1000,
        "has_fresh_rows": True,
        "device_s": 249.0,
        "share": 0.43,
        "max_share": 0.5,
        "candidates": list(candidates),
        "best": candidates[0]["name"],
        "recommended": candidates[0]["name"],
        "equivalent": [candidate["name"] for candidate in candidates[:2]],
        "simplest": candidates[min(1, len(candidates) - 1)]["name"],
        "best_under_cap": None,
        "default": candidates[-1]["name"],
        "baseline": None,
        "verdict": f"{candidates[0]['name']} is better than the default: +0.025 (+0.013 to +0.037) accuracy.",
        "advice": ["Stop: more trials are unlikely to find a better configuration."],
        "optimism": {"candidate": candidates[0]["name"], **interval(0.01, 0.006)},
        **changes,
    }


def make_effects(value=0.9, **changes):
    ranks = [1, 2, 4, 8, 16, 32, 64]
    rates = [1e-4 * 100 ** (k / 12) for k in range(13)]
    ratios = [0.25 * 32 ** (k / 8) for k in range(9)]

    def score(rate, rank=16.0, ratio=2.0):
        return (
            value
            - 0.03 * (math.log10(rate * ratio / 2 * math.sqrt(rank / 16)) + 2.9) ** 2
            + 0.004 * math.log2(rank / 16)
        )

    def profile(key, label, scale, curve, has_data):
        xs, values = curve
        return {
            "key": key, "label": label, "scale": scale, "x": xs, "best": values,
            "low": [v - 0.01 for v in values], "high": [v + 0.01 for v in values], "has_data": has_data,
            "points": [[x, v - 0.01, k % 2 == 0] for k, (x, v) in enumerate(zip(xs, values, strict=True))],
        }  # fmt: skip

    logs = [math.log(rate * ratio * 4) for rate, ratio in zip(rates, (ratios * 2)[:13], strict=True)]
    return {
        "quality": {
            "rank_correlation": 0.71, "minimum": 0.4, "is_sufficient": True, "num_trials": 24, "num_values": 61,
        },
        "importance": [
            {"key": "train.learning_rate", "share": interval(0.52, 0.14)},
            {"key": "lora.alpha_ratio", "share": interval(0.18, 0.09)},
            {"key": "lora.r", "share": interval(0.09, 0.06)},
            {"key": "lora.dropout", "share": interval(0.01, 0.01)},
        ],
        "interactions": [{"keys": ["train.learning_rate", "lora.alpha_ratio"], "share": interval(0.12, 0.07)}],
        "profiles": [
            profile("lora.r", "rank", "log", (ranks, [score(1.2e-3, r) for r in ranks]), [False, *[True] * 5, False]),
            profile("lora.alpha_ratio", "alpha / r", "log", (ratios, [score(1.2e-3, ratio=a) for a in ratios]),
                    [True] * 9),
            profile("lora.dropout", "dropout", "linear", ([0, 0.05, 0.1, 0.15, 0.2], [value - 0.001] * 5), [True] * 5),
            profile("train.learning_rate", "learning rate", "log", (rates, [score(x) for x in rates]),
                    [k >= 3 for k in range(13)]),
            profile("effective_rate", "log(learning rate * ratio * sqrt(r))", "linear", (sorted(logs), [value] * 13),
                    [True] * 13),
        ],
        "contours": [
            {
                "keys": ["train.learning_rate", key], "x": rates, "y": ys,
                "mean_YX": [[score(x, **{name: y}) for x in rates] for y in ys],
                "has_data_YX": [[k + j > 3 for k in range(len(rates))] for j in range(len(ys))],
            }
            for key, name, ys in (("lora.alpha_ratio", "ratio", ratios), ("lora.r", "rank", ranks))
        ],
        "rung_correlation": [
            {"chunk": chunk, "correlation": interval(found, 0.12), "num_trials": 9}
            for chunk, found in ((3, 0.55), (6, 0.78), (12, 0.88))
        ],
        "path": [
            {"key": None, "params": {"lora.r": 8}, "value": interval(value - 0.03)},
            {"key": "train.learning_rate", "from": 1e-3, "to": 1.7e-3, "value": interval(value - 0.01)},
            {"key": "lora.r", "from": 8, "to": 16, "value": interval(value)},
        ],
        **changes,
    }  # fmt: skip


def make_folklore(verdict="undecided"):
    return [
        {
            "claim": "alpha = 2r", "statement": "The best alpha is twice the rank.", "estimate": interval(2.4, 1.1),
            "unit": "alpha / r", "verdict": verdict, "detail": "From the ridge of the profile.",
        },
        {
            "claim": "dropout does not matter", "statement": "Dropout changes the best score by less than the margin.",
            "estimate": interval(0.001, 0.002), "unit": "accuracy", "verdict": "supported", "detail": "",
        },
    ]  # fmt: skip


def make_outcomes(num_rows, num_labels, seed=0):
    """Make the outcomes of rows: nine in ten are right, the rest are taken for the next label."""
    generator = np.random.default_rng(seed)
    target_N = generator.integers(num_labels, size=num_rows)
    wrong_N = generator.random(num_rows) > 0.9
    predicted_N = np.where(wrong_N, (target_N + 1) % num_labels, target_N)
    loss_N = np.where(wrong_N, 2.0, 0.1)
    return RowOutcomes.of(loss_N, predicted_N=predicted_N, target_N=target_N, num_labels=num_labels)
