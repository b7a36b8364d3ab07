"""The report of alignment: models side by side, one panel of curves a stage, and what a healthy curve looks like."""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cadran.recipe.report import MEASURED, REPRODUCIBLE, write_report
from cadran.recipe.report.comparison import _best
from cadran.recipe.report.curves import DRAWINGS, NAMES
from cadran.recipe.report.data import gather
from cadran.recipe.report.healthy import healthy
from cadran.recipe.report.order import ALIGNED
from cadran.recipe.report.page import render
from cadran.recipe.report.report import draw_plots, figures

HOSTILE = "<script>alert(1)</script>\"' onload='x' \x00 ../../up &amp; {{ 7 * 7 }}"
STEPS = 40
VOID = {"meta", "link", "br", "img", "input", "hr"}

Event = dict[str, Any]
Figures = dict[str, float]


def dpo(step: int) -> Figures:
    t = step / STEPS
    chosen, rejected = -40 - 2 * t, -42 - 20 * t
    rewards = {"chosen_reward": -0.2 * t, "rejected_reward": -2 * t, "margin": 1.8 * t}
    logprobs = {"chosen_logprob": chosen, "rejected_logprob": rejected}
    return {"loss": math.log(2) * math.exp(1 / STEPS - t), "accuracy": 0.6 + 0.3 * t, "kl": t} | rewards | logprobs


def grpo(step: int) -> Figures:
    t = step / STEPS
    shares = {"zero_variance_share": 0.3, "clipped_share": 0.02, "truncated_share": 0.01}
    model = {"kl": 0.1 * t, "entropy": 2 - t, "length": 10 + t, "ratio": 1.0, "mismatch": 0.001}
    return {"loss": 0.001, "reward": t, "success": 0.1 + 0.6 * t} | shares | model


def training(stage: str, figures: Callable[[int], Figures], pace: float = 1.0, steps: int = STEPS) -> list[Event]:
    """Steps of a stage; only clock times depend on the pace."""
    clock = {"tokens_per_second": 100 / pace, "lr_factor": 0.5}
    return [
        {"stage": stage, "kind": "step", "step": step, "tokens": 50 * step, "seconds": 0.5 * pace * step}
        | clock
        | figures(step)
        for step in range(1, steps + 1)
    ]


def examined(stage: str, *figures: Figures) -> list[Event]:
    return [
        {"stage": stage, "kind": "examination", "step": STEPS * place // max(1, len(figures) - 1), "figures": given}
        for place, given in enumerate(figures)
    ]


def all_events(pace: float = 1.0) -> list[Event]:
    done = [{"stage": stage, "kind": "stage_done", "seconds": 30 * pace} for stage in ("dpo", "grpo")]
    events = training("sft", lambda step: {"loss": 2 - step / STEPS}, pace)
    events += examined("sft", {"held_out_loss": 2.0}, {"held_out_loss": 1.5}, {"held_out_loss": 1.25})
    events += training("reward", dpo, pace) + training("dpo", dpo, pace)
    events += examined("dpo", {"pair_accuracy": 0.6, "seconds": pace}, {"pair_accuracy": 0.9, "seconds": pace})
    return events + training("grpo", grpo, pace) + done


def results() -> dict[str, Event]:
    topics = {"base": 0.05, "sft": 0.5, "dpo": 0.54}
    models = {
        name: {
            "pair_accuracy": pairs,
            "topic": {"en": {"accuracy": topics[name], "interval": [topics[name] - 0.05, topics[name] + 0.05]}},
            "description": {"fr": {"chrf": 10 + 20 * topics[name], "held_out": 60}},
        }
        for name, pairs in (("base", 0.5), ("sft", 0.6), ("dpo", 0.95))
    }
    answers = {"dpo": "Arts", "base": "the the", "sft": "People"}
    sample = {"language": "en", "task": "topic", "prompt": "What is it about?", "expected": "Arts", "answers": answers}
    tokens = [{"text": "<|user|>Hi", "supervised": False}, {"text": "Hello", "supervised": True}]
    return {
        "sft": {
            "steps": STEPS,
            "rows": {"train": 900, "held_out": 100, "refused": 7},
            "refused": ["row 17 has an empty answer", "row 20 has no assistant turn"],
            "held_out_loss": {"before": 2.0, "after": 1.25},
            "samples": [{"prompt": "Hi", "expected": "Hello", "answers": {"before": "Hi Hi", "after": "Hello"}}],
            "examples": [{"tokens": tokens}],
        },
        "reward": {
            "pairs": {"train": 900, "held_out": 100},
            "accuracy": 0.88,
            "interval": [0.8, 0.93],
            "mean": 0.1,
            "std": 2.0,
            "by_kind": {"topic": {"accuracy": 0.9, "pairs": 60}, "rating": {"accuracy": 0.85, "pairs": 40}},
            "calibration": [{"predicted": 0.6, "observed": 0.5, "pairs": 30}],
        },
        "dpo": {
            "pairs": {"train": 900, "held_out": 200},
            "accuracy": {"before": 0.6, "after": 0.95, "interval": [0.91, 0.97]},
            "by_kind": {"topic": {"before": 0.5, "after": 0.97, "pairs": 60}},
            "kl": 3.1,
            "models": models,
            "samples": [sample, sample | {"language": "fr", "prompt": "Quoi ?"}],
        },
        "grpo": {"prompts": {"train": 900, "held_out": 200}, "success": {"before": 0.1, "after": 0.7}},
        "int8": {
            "file": "int8/model.gguf",
            "bytes_before": 8_000_000,
            "bytes_after": 2_000_000,
            "bits": 8,
            "perplexity_before": 20.0,
            "perplexity_after": 20.1,
            "divergence": 0.002,
        },
    }


RECIPE = "name: test\nstart: smollm2\nsft: {}\nreward: {}\ndpo: {}\ngrpo: {}\nint8: {}\n"


def write_run(
    run: Path, given: dict[str, Event] | None = None, events: list[Event] | None = None, recipe: str = RECIPE
) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for stage, content in (results() if given is None else given).items():
        (run / stage).mkdir(exist_ok=True)
        (run / stage / "results.json").write_text(json.dumps(content), encoding="utf-8")
    chosen = all_events() if events is None else events
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in chosen), encoding="utf-8")
    return run


class Page(HTMLParser):
    """Tags, words and figures (the captions under each drawing) of a page whose tags close in order."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.captions: list[str] = []
        self.marked: list[str] = []
        self._text: list[str] = []
        self._open: list[str] = []
        self.feed(write_report(run).read_text(encoding="utf-8"))
        self.close()
        assert not self._open
        self.words = " ".join("".join(self._text).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._text.append(" ")
        if tag in ("figcaption", "mark"):
            (self.captions if tag == "figcaption" else self.marked).append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            return
        self._text.append(data)
        if "figcaption" in self._open:
            self.captions[-1] += data
        if "mark" in self._open:
            self.marked[-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "assistant")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run)


def test_every_model_answers_under_the_question_in_the_order_of_the_pipeline(page: Page) -> None:
    assert "English · topic Asked What is it about? Expected Arts Base the the SFT People DPO ✓ as expected Arts" in (
        page.words
    )
    assert "French · topic Asked Quoi ? Expected Arts" in page.words
    assert "Asked Hi Expected Hello Before Hi Hi After ✓ as expected Hello" in page.words


def test_each_model_s_held_out_figures_stand_in_one_table(page: Page) -> None:
    assert "Figure Base SFT DPO Pairs ranked right 50.0 %" in page.words
    assert "95.0 % ★ 91.0 to 97.3" in page.words  # the Wilson interval of 190 of 200
    assert "Topic named right, English 5.0 % 0.0 to 10.0 50.0 % 45.0 to 55.0 54.0 % 49.0 to 59.0" in page.words
    assert "Description, chrF, French 11.0 20.0 20.8" in page.words
    assert "Held-out loss lower is better 2 1.25" in page.words


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_best_model_s_interval_touches_no_other(ends: list[tuple[float, float]], lower: bool) -> None:
    cells = {str(place): (sum(pair) / 2, min(pair), max(pair)) for place, pair in enumerate(ends)}
    best = _best(cells, lower=lower)
    others = [cell for model, cell in cells.items() if model != best]
    if best is None:
        beyond = [
            m for m, (_, a, b) in cells.items() for o in cells if o != m and not (b < cells[o][1] or a > cells[o][2])
        ]
        ranked = min(cells, key=lambda m: cells[m][0]) if lower else max(cells, key=lambda m: cells[m][0])
        assert len(cells) == 1 or ranked in beyond
    else:
        assert others and all(cells[best][2] < a if lower else cells[best][1] > b for _, a, b in others)


def test_without_an_interval_no_model_is_best() -> None:
    assert _best({"sft": (0.1, None, None), "dpo": (0.9, 0.8, 1.0)}, lower=False) is None


def test_every_drawing_that_can_be_has_a_line_on_what_is_healthy(page: Page) -> None:
    for stage in ALIGNED:
        assert all(healthy(drawing.name, stage) for drawing in DRAWINGS)
    drawn = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(drawn) == len(page.captions) == 28
    assert all(re.match(r"(Healthy: |Says )", caption) for caption in page.captions)


def test_drawings_depend_neither_on_the_clock_nor_on_interruptions(run: Path, page: Page, tmp_path: Path) -> None:
    slow = all_events(pace=3.7)
    first = next(place for place, event in enumerate(slow) if event["stage"] == "dpo")
    killed = [*slow[: first + 30], {"stage": "dpo", "kind": "resumed", "step": 10}, *slow[first + 10 :]]
    other = write_run(tmp_path / "elsewhere", events=killed)
    assert Page(other).words != page.words
    for name in REPRODUCIBLE:
        ours, theirs = run / "report" / name, other / "report" / name
        assert ours.exists() == theirs.exists()
        assert not ours.exists() or ours.read_bytes() == theirs.read_bytes()
    assert {path.name for path in (run / "report").iterdir()} <= {*REPRODUCIBLE, *MEASURED}
    assert "second" not in (run / "report/report.json").read_text(encoding="utf-8")


def test_figures_of_every_stage_are_in_report_json(run: Path, page: Page) -> None:
    written = json.loads((run / "report/report.json").read_text(encoding="utf-8"))
    assert written["dpo"]["models"]["dpo"]["pair_accuracy"] == 0.95
    assert written["dpo"]["examinations"] == [
        {"step": 0, "figures": {"pair_accuracy": 0.6}},
        {"step": STEPS, "figures": {"pair_accuracy": 0.9}},
    ]
    assert written["grpo"]["success"]["after"] == 0.7
    assert written["sft"]["held_out_loss"] == {"before": 2.0, "after": 1.25}
    assert written["int8"]["divergence"] == 0.002
    assert written["reward"]["last_loss"] == pytest.approx(dpo(STEPS)["loss"])
    cost = json.loads((run / "report/cost.json").read_text(encoding="utf-8"))
    assert set(cost["training"]) == {"sft", "reward", "dpo", "grpo"}


def test_a_run_that_began_from_another_model_lacks_no_corpus(page: Page) -> None:
    assert "smollm2, taken as it was, then taught here to answer" in page.words
    assert "Not everything is here" not in page.words
    assert not {"corpus", "data"} & {attributes.get("id") for _, attributes in page.tags}


def test_a_stage_that_stopped_early_shows_its_curves_and_is_said_to_be_missing(tmp_path: Path) -> None:
    given = results()
    del given["dpo"], given["int8"]
    page = Page(write_run(tmp_path / "run", given, training("dpo", dpo, steps=3)))
    assert "Preferences (DPO) (stopped at step 3, no dpo/results.json)" in page.words
    assert "INT8 (no int8/results.json)" in page.words
    assert (tmp_path / "run/report/dpo_margin.svg").is_file()


def test_rows_are_shown_as_the_trainer_saw_them(page: Page) -> None:
    assert page.marked[-1:] == ["Hello"]
    assert "1 of 2 tokens count" in page.words
    assert "Chat (SFT): 7 rows refused; the first of them: row 17 has an empty answer" in page.words


@pytest.mark.parametrize(("supervised", "said"), [(True, "All of its tokens"), (False, "None of its tokens")])
def test_a_mask_that_tells_nothing_apart_is_pointed_out(tmp_path: Path, supervised: bool, said: str) -> None:
    tokens = [{"text": text, "supervised": supervised} for text in ("a", "b")]
    page = Page(write_run(tmp_path / "run", {"sft": {"examples": [{"tokens": tokens}]}}, []))
    assert said in page.words


def test_reward_model_and_small_model_are_reported(page: Page) -> None:
    assert "88.0 % 95 % interval 80.0 to 93.0, 100 held-out pairs" in page.words
    assert "rating 85.0 % 40" in page.words
    labels = [str(attributes.get("aria-label")) for tag, attributes in page.tags if tag == "svg"]
    assert any(
        "60.0\N{NO-BREAK SPACE}% foretold, 50.0\N{NO-BREAK SPACE}% observed, 30 pairs" in label for label in labels
    )
    assert "25.0 % of what it was 8.00 MB 2.00 MB" in page.words
    assert "+0.50 % 20.000 20.100" in page.words


def test_page_stays_readable_by_a_screen_reader_and_needs_nothing_else(run: Path, page: Page) -> None:
    html = (run / "report/index.html").read_text(encoding="utf-8")
    assert "://" not in html and "url(http" not in html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {str(a["aria-labelledby"]) for _, a in page.tags if "aria-labelledby" in a} <= {str(name) for name in ids}
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(tag == "table" for tag, _ in page.tags)


def poison(value: Any) -> Any:
    """Every text and every key of the innermost objects becomes hostile; numbers stay."""
    if isinstance(value, str):
        return value if value in ("en", "fr") else HOSTILE
    if isinstance(value, list):
        return [poison(item) for item in value]
    if isinstance(value, dict):
        named = {key: poison(item) for key, item in value.items()}
        return named | {HOSTILE: next(iter(named.values()), 1.0)}
    return value


def test_texts_and_names_of_a_run_never_become_markup_or_paths(tmp_path: Path) -> None:
    events = training("dpo", dpo) + examined(
        "dpo", *({HOSTILE: float(n), "/etc/x": 1.0, "x" * 5000: 2.0} for n in range(3))
    )
    hostile = {stage: poison(content) for stage, content in results().items()}
    page = Page(write_run(tmp_path / "run", hostile, events, f"start: {json.dumps(HOSTILE)}\ndpo: [1\n"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert page.words.count("<script>alert(1)</script>") > 10 and "{{ 7 * 7 }}" in page.words
    drawn = {path.name for path in (tmp_path / "run/report").iterdir()}
    assert {"dpo_held_out_1.svg", "dpo_held_out_3.svg"} <= drawn <= {*REPRODUCIBLE, *MEASURED}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["en", "before", "after", "x"]), inner),
    max_leaves=4,
)


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_values_of_a_wrong_kind_never_stop_the_report(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def odd(record: Event, *kept: str) -> Event:
        changed = data.draw(st.sets(st.sampled_from([key for key in record if key not in kept]), max_size=3))
        return record | {key: data.draw(JSON) for key in changed}

    given = {stage: odd(content) for stage, content in results().items()}
    given["dpo"]["models"] = odd(results()["dpo"]["models"])
    events = [odd(event, "stage", "kind") for event in all_events()[::13]]
    found = gather(write_run(tmp_path_factory.mktemp("runs") / "odd", given, events))
    assert render(found, {}).endswith("</html>\n")  # the drawings have a test of their own
    assert json.dumps(figures(found), allow_nan=False)


@given(st.lists(st.floats(), min_size=1, max_size=5))
@example([1e29, -1e29, 0.0])
@example([5e-324, 0.0])
@settings(max_examples=8, deadline=None)
def test_curves_of_any_values_can_be_drawn(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    run = tmp_path_factory.mktemp("runs") / "wild"
    events = training("dpo", lambda step: {"accuracy": values[step - 1], "kl": values[step - 1]}, steps=len(values))
    write_run(run, {}, events + examined("dpo", *({"margin": value} for value in values)))
    drawn = draw_plots(gather(run))
    finite = any(abs(value) < 1e30 for value in values)
    assert {"dpo_accuracy", "dpo_kl", "dpo_margin"} & drawn.keys() == (
        {"dpo_accuracy", "dpo_kl", "dpo_margin"} if finite else set()
    )


def test_a_drawing_that_lost_its_data_is_taken_away(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {}, training("distil", lambda step: {"loss": 1 / step}))
    write_report(run)
    assert {path.stem for path in (run / "report").glob("*.svg")} & set(NAMES)
    write_run(run, {}, [])
    write_report(run)
    assert not {path.stem for path in (run / "report").glob("*.svg")} & set(NAMES)
