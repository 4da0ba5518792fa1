# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A sweep, its verdict, and its best adapter in use
#
# This notebook searches LoRA hyperparameters for one dataset, shows what the search tried and what it found, and
# classifies a text with the best adapter. `docs/api.md` explains every column.

# %%
import json

import pandas as pd
import plotly.express as px
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import sweeper

# %% [markdown]
# The overrides are those of the command line. A sweep that is done is not run again, only read. To read one from
# another session, use `sweeper.load("outputs/<sweep>")`.

# %%
sweep = sweeper.run(["dataset=trec", "budget.trials=8"])
(study,) = sweep["studies"]
study["dataset"], study["metric"], study["num_rows"]

# %% [markdown]
# ## Trials
# The search's best trials. Each was trained with one seed, so the first one is partly lucky.

# %%
searched = [key for key in study["space"] if key in sweep.trials]
complete = sweep.trials[(sweep.trials["state"] == "complete") & (sweep.trials["phase"] != "confirmation")]
complete.sort_values("value", ascending=study["direction"] == "minimize").head()[
    ["trial", "origin", "value", *searched, "num_parameters", "device_s"]
]

# %% [markdown]
# ## Verdict
# Each candidate after its trials with fresh seeds, and its gain over the default recipe with a confidence interval.
# Empty if the sweep was run with `confirm=none`.

# %%
sweep.verdicts[["candidate", "is_recommended", "value", "verdict", "gain", "gain_low", "gain_high", "num_seeds"]]

# %%
verdict = study["confirmation"]["verdict"] if study["confirmation"] else "Nothing was confirmed."
verdict

# %% [markdown]
# ## Curves
# The objective at every rung. A line that ends early was pruned.

# %%
rungs = sweep.measurements[sweep.measurements["is_rung"]].merge(sweep.trials[["study", "trial", "state"]])
curves = px.line(rungs, x="epoch", y="value", line_group="trial", color="state", hover_data=["trial"], markers=True)
curves.update_layout(yaxis_title=study["metric"])

# %% [markdown]
# The score against each hyperparameter. Other hyperparameters vary, too, so a trend here is not yet an effect.

# %%
points = pd.concat(complete[["trial", "value"]].assign(hyperparameter=key, setting=complete[key]) for key in searched)
scatter = px.scatter(points, x="setting", y="value", facet_col="hyperparameter", hover_data=["trial"])
scatter.update_xaxes(matches=None)

# %% [markdown]
# ## Rows
# What the best trial of the search predicted for the validation rows of each label.

# %%
outcomes = sweep.outcomes()
own = outcomes[(outcomes["study"] == study["name"]) & (outcomes["trial"] == study["best"]["trial"])]
confusion = pd.crosstab(own["target"], own["predicted"])
confusion

# %% [markdown]
# ## The adapter in use
# It is in PEFT's format, the trained head included, and needs nothing of sweeper.

# %%
adapter = sweep.adapter(study["name"])
base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(study["labels"]))
model = PeftModel.from_pretrained(model, adapter).eval()

# %%
rows = tokenizer(["What is the highest mountain of Africa?"], truncation=True, return_tensors="pt")
with torch.no_grad():
    probabilities = model(**rows).logits.softmax(-1)[0]
prediction = pd.Series(probabilities, index=study["labels"], name="probability").sort_values(ascending=False)
prediction
