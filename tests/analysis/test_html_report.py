"""report.html: what it says with and without data. How it looks and behaves is tested in tests/browser."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from sweeper.analysis.best import best_configurations
from sweeper.analysis.html_report import render_html, script_json
from sweeper.analysis.plot_parts import plot_text
from sweeper.analysis.report import write_reports
from sweeper.types import TrialState
from tests.builders import make_default, make_infeasible, make_measurement, make_study, make_sweep, make_trial
from tests.report_blocks import KEYS, make_candidate, make_confirmation, make_difference, make_effects
from tests.report_sweeps import EVIL, full_page, make_trials, search_page

NUM_SCRIPTS = 3
"""Theme, plotly.js and the page's own."""


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.words, self.figures, self.headings = [], [], [], {}, []
        self._open, self._plot = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self._open = f"script {found['type']}" if tag == "script" and "type" in found else tag
        if "id" in found:
            self.ids.append(found["id"])
        if found.get("class") == "plot":
            self._plot = found["id"]

    def handle_data(self, data):
        if self._open == "script application/json":
            self.figures[self._plot] = json.loads(data)
        elif self._open not in {"script", "style"}:
            self.words.append(data)
        if re.fullmatch("h[1-6]", self._open) and data.strip():
            self.headings.append((int(self._open[1]), data.strip()))

    def handle_endtag(self, _tag):
        self._open = ""

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return Page(full_page(tmp_path_factory.mktemp("full") / "mine", names=("trec", EVIL))[1])


def page_of(tmp_path, trials, *, study=None, change=None):
    """Render a sweep of one study; ``change`` may add blocks to its entry in best.json."""
    study = study or make_study()
    store = make_sweep(tmp_path / "mine", [(study, trials)], adapters=[(study.name, t.spec.number) for t in trials[:1]])
    best = best_configurations(store)
    if change:
        change(best["studies"][0])
    return Page(render_html(store, best))


def test_the_page_is_written_beside_the_other_reports(tmp_path):
    study = make_study()
    store = make_sweep(tmp_path / "mine", [(study, make_trials(8, study=study))])
    paths = write_reports(store)
    assert paths["report.html"] == tmp_path / "mine" / "report.html"
    first = paths["report.html"].read_bytes()
    assert write_reports(store)["report.html"].read_bytes() == first
    assert not list(store.root.glob("*.tmp"))


def test_a_sweep_without_a_study_has_a_page(tmp_path):
    store = make_sweep(tmp_path / "mine", [])
    page = Page(render_html(store, best_configurations(store)))
    assert "There is nothing to report yet." in page.text
    assert page.figures == {}


def test_without_a_complete_trial_nothing_is_called_best(tmp_path):
    page = page_of(tmp_path, [make_trial(1, 0.7, state=TrialState.PRUNED, chunks=3), make_infeasible(2)])
    assert "No trial is complete, so there is no best configuration yet." in page.text
    assert "There is no configuration to choose yet." in page.text
    assert "out_of_memory: 1 trial (2)" in page.text
    assert "dataset-1-history" not in page.figures


def test_an_unfinished_sweep_is_called_so(tmp_path):
    page = page_of(tmp_path, [make_default(0.8), make_trial(1, state=TrialState.RUNNING, chunks=0)])
    assert "1 trial is unfinished: the sweep is running or was interrupted." in page.text


def test_a_search_is_not_called_confirmed(tmp_path):
    page = page_of(tmp_path, [make_default(0.80), make_trial(1, 0.91)])
    assert "Search only, nothing is confirmed: trial 1 scored best (0.910 ± 0.014)." in page.text
    assert "Best of the search, not confirmed" in page.text
    assert "No configuration was trained again with fresh seeds, so no score here is confirmed." in page.text
    assert "There are too few scored trials to estimate effects." in page.text
    assert "No outcomes of single rows were recorded." in page.text


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.81, "is within the noise of the validation rows"),
        (0.91, "exceeds 2 standard errors, but it was selected on the same rows"),
    ],
)
def test_a_lead_of_the_search_is_compared_with_its_noise(tmp_path, value, sentence):
    assert sentence in page_of(tmp_path, [make_default(0.80), make_trial(1, value)]).text


def test_a_best_default_is_one_choice(tmp_path):
    page = page_of(tmp_path, [make_default(0.9), make_trial(1, 0.8)])
    assert "Best of the search, which is the default" in page.text
    assert sum(tag == "article" for tag, _ in page.tags) == 1


def test_the_word_significant_is_never_used(full):
    assert "significant" not in full.text


def test_the_verdict_and_the_advice_of_the_confirmation_are_shown(full):
    assert "trial 7 is better than the default: +0.025 (+0.013 to +0.037) accuracy." in full.text
    assert "Stop: more trials are unlikely to find a better configuration." in full.text


def test_a_baseline_that_is_not_beaten_comes_before_the_verdict(full):
    warning = "The recommended configuration does not clearly beat the probe (0.899): the gain is +0.001"
    assert full.text.index(warning) < full.text.index("trial 7 is better than the default")


def test_every_choice_has_yaml_a_command_and_an_adapter(tmp_path):
    def confirm(study):
        params = {key: study["best"]["params"][key] for key in KEYS}
        own, default = make_candidate("trial 1", params), make_candidate("peft_default", params, against_default=None)
        own["seeds"][1]["adapter"] = "/sweeps/mine/adapter"
        study["confirmation"] = make_confirmation([own, default], simplest=None)

    page = page_of(tmp_path, [make_default(0.8), make_trial(1, 0.9)], change=confirm)
    assert '- name: "trec trial 1" params: lora.r: 16 lora.alpha_ratio: 2.0' in page.text
    assert "sweeper reproduce mine/trec-minilm-lora/2000001" in page.text
    assert "/sweeps/mine/adapter" in page.text
    assert "This adapter was trained with seed 102." in page.text
    assert "Its adapter is not on disk." in page.text


def test_candidates_are_listed_with_what_would_settle_them(full):
    assert "9 seeds each or 1,600 rows" in full.text
    assert "0.896 (0.878 to 0.914) on 1,000 rows" in full.text


def test_a_recommended_default_is_called_so(tmp_path):
    def confirm(study):
        default = make_candidate("peft_default", {key: study["default"]["params"][key] for key in KEYS})
        study["confirmation"] = make_confirmation([{**default, "against_default": None}], verdict="Keep the default.")

    page = page_of(tmp_path, [make_default(0.8), make_trial(1, 0.79)], change=confirm)
    assert "the default is recommended . Keep the default." in page.text
    assert "dataset-1-gains" not in page.figures


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("running", "The confirmation is still running."),
        ("stopped early", "its time was spent while comparisons were undecided"),
    ],
)
def test_an_unfinished_confirmation_is_called_so(tmp_path, state, sentence):
    def confirm(study):
        params = {key: study["best"]["params"][key] for key in KEYS}
        empty = make_candidate("trial 1", params, metrics={}, seeds=[], against_default=make_difference(0, "undecided"))
        study["confirmation"] = make_confirmation([empty], state=state)

    assert sentence in page_of(tmp_path, [make_default(0.8), make_trial(1, 0.9)], change=confirm).text


def test_confirmation_trials_are_not_drawn_as_trials_of_the_search(full):
    numbers = {number for trace in full.figures["dataset-1-curves"]["data"] for number in trace["customdata"]}
    assert numbers == set(range(16))


def test_every_seed_is_a_dot(full):
    seeds, means, tests = full.figures["dataset-1-finalists"]["data"]
    assert seeds["x"][:3] == [0.894, 0.901, 0.905]
    assert seeds["y"][0] == "trial 7<br>recommended"
    assert (means["x"][0], means["error_x"]["array"][0]) == (0.9, 0.014)
    assert tests["x"] == [0.896]


def test_rungs_with_fewer_rows_are_mentioned(tmp_path):
    rungs = (make_measurement(3, 0.7, scored_rows=200), make_measurement(12, 0.8, scored_rows=400))
    page = page_of(tmp_path, [make_default(0.8, measurements=rungs)])
    assert "Early rungs score only the first 200 of 400 validation rows." in page.text


def test_effects_of_a_bad_surrogate_are_not_shown(tmp_path):
    def add(study):
        quality = {"rank_correlation": 0.1, "minimum": 0.4, "is_sufficient": False, "num_trials": 9, "num_values": 12}
        study["effects"] = make_effects(quality=quality)

    page = page_of(tmp_path, [make_default(0.8), make_trial(1, 0.9)], change=add)
    assert "is 0.10 (minimum 0.40), from 12 scores of 9 trials. This is too low, so no effect is claimed." in page.text
    assert [name for name in page.figures if "profile" in name or "importance" in name] == []


def test_confusions_are_those_of_the_recommended_seeds(full):
    heat = full.figures["dataset-1-confusion"]["data"][0]
    assert sum(int(cell) for row in heat["text"] for cell in row) == 3 * 400
    assert "Confusion matrix of trial 7" in full.text
    assert "Per label: trial 7 against peft_default" in full.text


def test_settings_and_folklore_are_compared_across_datasets(full):
    assert len(full.figures["across-settings"]["data"][0]["y"]) == 2
    assert "Known configurations that were confirmed on several datasets" in full.text
    assert "refuted" in full.text


def test_one_dataset_has_no_comparison_across_datasets(tmp_path):
    assert "across" not in page_of(tmp_path, [make_default(0.8)]).ids


def test_names_from_data_cannot_become_elements(tmp_path):
    _, text = full_page(tmp_path / "mine", names=("trec", EVIL))
    assert "<img" not in text
    page = Page(text)
    assert EVIL in page.text
    assert text.count("</script>") == NUM_SCRIPTS + len(page.figures)


def test_json_cannot_end_its_script_element():
    text = script_json({"label": f"{EVIL}&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"label": f"{EVIL}&\u2028"}


def test_text_for_plotly_is_not_read_as_markup():
    assert plot_text("<b>a</b> & b") == "&lt;b&gt;a&lt;/b&gt; &amp; b"


def test_messages_of_failures_and_paths_are_escaped(tmp_path):
    study = make_study(labels=(EVIL, "b"))
    text = search_page(tmp_path / "mine", [make_default(0.8, study=study), make_infeasible(1, EVIL)], study=study)
    assert "<img" not in text
    assert EVIL in Page(text).text


def test_line_separators_cannot_end_a_line_of_a_script(tmp_path):
    _, text = full_page(tmp_path / "mine", names=("a\u2028b", "c&d"))
    scripts = "".join(re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL))
    assert "\u2028" not in scripts
    assert "&" not in scripts


def test_ids_are_unique_and_headings_are_in_order(full):
    assert len(full.ids) == len(set(full.ids))
    levels = [level for level, _ in full.headings]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_plot_has_a_name_and_a_text(full):
    plots = [found for tag, found in full.tags if tag == "div" and found.get("class") == "plot"]
    assert len(plots) == len(full.figures) > 30
    for plot in plots:
        assert {plot["aria-labelledby"], plot["aria-describedby"]} <= set(full.ids)


def test_a_metric_to_minimize_has_its_front_at_the_lower_left(tmp_path):
    study = make_study(metric="validation/loss", direction="minimize", references={})
    trials = [
        make_trial(number, value, study=study, params={"lora.r": rank})
        for number, (rank, value) in enumerate([(4, 0.5), (8, 0.6), (16, 0.4)])
    ]
    page = page_of(tmp_path, trials, study=study)
    front = next(t for t in page.figures["dataset-1-pareto-parameters"]["data"] if t["name"] == "Pareto front")
    assert front["customdata"] == [0, 2]


def test_the_data_of_a_trial_stay_small(tmp_path):
    study = make_study()
    text = search_page(tmp_path / "mine", make_trials(300, study=study), study=study)
    figures = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert sum(map(len, figures)) < 300 * 1000
