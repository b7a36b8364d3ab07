"""The report says what the run holds, no more, in a page that stands alone; what is reproducible is so to the byte."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.recipe.report import MEASURED, REPRODUCIBLE, write_report
from cadran.recipe.report.data import gather
from cadran.recipe.report.events import EventLog
from cadran.recipe.report.plots import COLOURS, extremes

HOSTILE = "<script>alert(1)</script>\"' onload='x' \x00\u202e ${oops}$ &amp; {{ 7 * 7 }}"
STAGES = ("corpus", "tokenizer", "base", "sft")
STEPS = 40
VOID = {"meta", "link", "br", "img", "input", "hr"}

Event = dict[str, Any]


def training(stage: str, first: int = 1, last: int = STEPS, pace: float = 1.0) -> list[Event]:
    """Events of the steps first..last; only clock times depend on the pace."""
    events: list[Event] = []
    for step in range(first, last + 1):
        seconds = step * 0.5 * pace
        event = {"stage": stage, "kind": "step", "step": step, "loss": 2 + 6 / step, "lr_factor": 1 - step / STEPS}
        events.append(event | {"tokens": 64 * step, "seconds": seconds, "tokens_per_second": 128 / pace})
        if step % 10 == 0:
            bits = {"all": 2 + 1 / step, "en": 1.9 + 1 / step, "fr": 2.1 + 1 / step}
            events.append({"stage": stage, "kind": "evaluation", "step": step, "bits_per_byte": bits})
            for language, prompt in (("en", "The city"), ("fr", "La ville")):
                sample = {"stage": stage, "kind": "sample", "step": step, "language": language, "prompt": prompt}
                events.append(sample | {"text": f" continued {language} at {step}"})
    return events


def all_events(pace: float = 1.0) -> list[Event]:
    machine = {"kind": "machine", "cpu": "Test CPU", "threads": 2, "matmul_flops": {"fp32": 1e9, "bf16": 5.0}}
    done = [{"stage": stage, "kind": "stage_done", "seconds": 30 * pace} for stage in STAGES]
    return [machine, *training("base", pace=pace), *training("sft", pace=pace), *done]


def results() -> dict[str, Event]:
    amounts = {split: {"documents": 10, "bytes": 5000} for split in ("train", "validation")}
    amount = {"documents_in": 30, "bytes_in": 12000, "documents_out": 20, "bytes_out": 10000}
    source = {"name": "articles", "kind": "folder", "locator": "texts", "licence": "CC0-1.0", "sha256": "ab" * 32}
    base = {"parameters": 11_933_184, "steps": STEPS, "tokens": 64 * STEPS, "epochs": 1.5, "flops": 1e10}
    baselines = {"kneser_ney_5": {"all": 2.5, "en": 2.4, "fr": 2.6}, "xz_given_training": {"all": 3.0}}
    topic = {"accuracy": 0.7, "interval": [0.6, 0.8], "majority": 0.2, "held_out": 90}
    level = {"accuracy": 0.25, "interval": [0.1, 0.4], "majority": 0.2, "held_out": 90}
    sample = {"task": "topic", "prompt": "What is it about?", "answer": "Geography", "expected": "Society"}
    return {
        "corpus/datasheet.json": {
            "sources": [source | {"bytes": 4096, "counts": {"encoding repaired": 3}}],
            "settings": {"near_duplicate": 0.8},
            "rules": [{"rule": "near_duplicate"} | amount],
            "languages": {"en": amounts, "fr": amounts},
            "notices": ["A fallback was used."],
        },
        "tokenizer/results.json": {
            "vocabulary": 4096,
            "bytes_per_token": {"en": 3.6, "fr": 3.3},
            "tokens": {"train": 2800, "validation": 2700},
        },
        "base/results.json": base
        | {"precision": "fp32", "context": 256, "bits_per_byte": {"all": 2.0, "en": 1.9, "fr": 2.1}}
        | {"baselines": baselines | {"xz_alone": {"all": 4.0}}},
        "sft/results.json": {
            "rows": {"train": {"topic": 900}, "held_out": {"topic": 90}},
            "supervised_tokens": 1200,
            "steps": STEPS,
            "flops": 2e9,
            "topic": {"en": topic, "fr": level},
            "description": {"en": {"chrf": 31.4, "baseline_chrf": 17.2, "held_out": 80}},
            "samples": [sample | {"language": "en"}, sample | {"language": "fr", "answer": "Society"}],
        },
    }


def write_run(run: Path, stages: int = 4, events: list[Event] | None = None, tail: str = "") -> Path:
    """A run in which the first stages have finished."""
    files = dict(list(results().items())[:stages])
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text("name: test\nseed: 1\n", encoding="utf-8")
    manifest = {"artefacts": dict.fromkeys([*files, "report/report.json"], "cd" * 32), "measurements": {}}
    for path, content in [*files.items(), ("manifest.json", manifest)]:
        (run / path).parent.mkdir(exist_ok=True)
        (run / path).write_text(json.dumps(content), encoding="utf-8")
    chosen = all_events() if events is None else events
    kept = [event for event in chosen if event.get("stage", "corpus") in STAGES[: stages + 1]]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in kept) + tail, encoding="utf-8")
    return run


class Page(HTMLParser):
    """What a browser would make of the page; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("span", "small", "td", "th"):
            self.text.append(" ")  # a browser sets these apart
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "quickstart", tail='{"stage": "sft", "ki')
    write_report(run)
    return run


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report" / "index.html").read_text(encoding="utf-8"))


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / "report" / name).read_bytes() for name in REPRODUCIBLE if (run / "report" / name).exists()}


def test_every_announced_file_is_written_and_no_other(run: Path) -> None:
    drawn = {"loss.svg", "bits_per_byte.svg", "learning_rate.svg"}
    assert {path.name for path in (run / "report").iterdir()} == {"report.json", *drawn, *MEASURED}
    assert {"report.json", *drawn} < set(REPRODUCIBLE)


def test_reproducible_files_depend_neither_on_the_clock_nor_on_the_folder(run: Path, tmp_path: Path) -> None:
    slow = write_run(tmp_path / "elsewhere", events=all_events(pace=3.7))
    write_report(slow)
    assert contents(slow) == contents(run)
    assert (slow / "report/cost.json").read_bytes() != (run / "report/cost.json").read_bytes()


def test_interrupted_run_has_the_reproducible_files_of_a_whole_one(run: Path, tmp_path: Path) -> None:
    machine, *rest = all_events()
    resumed = {"stage": "base", "kind": "resumed", "step": 20}
    killed = write_run(tmp_path / "killed", events=[machine, *training("base", 1, 27), resumed, *rest[28:]])
    broken = (
        (killed / "events.jsonl").read_text(encoding="utf-8").replace('{"stage": "base", "kind": "resumed"', "{\n", 1)
    )
    (killed / "events.jsonl").write_text(broken, encoding="utf-8")  # the kill also tore a line
    write_report(killed)
    assert contents(killed) == contents(run)


def test_a_reader_s_matplotlib_settings_change_nothing(run: Path, tmp_path: Path) -> None:
    import matplotlib

    other = write_run(tmp_path / "styled")
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "axes.facecolor": "red", "svg.fonttype": "path", "font.size": 30}
    ):
        write_report(other)
        assert matplotlib.rcParams["font.size"] == 30
    assert contents(other) == contents(run)


@given(st.lists(st.tuples(st.integers(0, STEPS), st.integers(0, STEPS)), max_size=4))
@settings(max_examples=200, deadline=None)
def test_event_log_of_any_interruptions_equals_that_of_none(kills: list[tuple[int, int]]) -> None:
    events, start = [], 0
    for a, b in kills:
        checkpoint, killed = max(start, min(a, b)), max(start, a, b)
        events += training("base", start + 1, killed)
        events.append({"stage": "base", "kind": "resumed", "step": checkpoint})
        start = checkpoint
    log, whole = EventLog([*events, *training("base", start + 1)]), EventLog(training("base"))
    assert log.curve("base", "loss") == whole.curve("base", "loss")
    assert log.evaluations() == whole.evaluations()
    assert log.samples("base") == whole.samples("base")
    assert log.resumed == [("base", event["step"]) for event in events if event["kind"] == "resumed"]


def test_report_json_holds_the_figures_and_no_clock_time(run: Path) -> None:
    figures = json.loads((run / "report/report.json").read_text(encoding="utf-8"))
    assert figures["base"]["bits_per_byte"]["fr"] == 2.1
    assert figures["sft"]["topic"]["en"]["interval"] == [0.6, 0.8]
    assert [row["step"] for row in figures["base"]["evaluations"]] == [10, 20, 30, 40]
    assert figures["base"]["last_loss"] == 2 + 6 / STEPS
    assert "second" not in json.dumps(figures)


def test_share_of_the_matrix_multiply_speed_is_flops_over_training_seconds_over_speed(run: Path, page: Page) -> None:
    cost = json.loads((run / "report/cost.json").read_text(encoding="utf-8"))
    assert cost["training"]["base"]["matmul_share"] == pytest.approx(1e10 / (STEPS * 0.5) / 1e9)
    assert cost["training"]["sft"]["matmul_share"] == pytest.approx(2e9 / (STEPS * 0.5) / 1e9)
    assert cost["training"]["base"]["tokens_per_second"] == pytest.approx(128)
    assert cost["seconds"] == 120
    assert "50.0 %" in page.words


def test_page_needs_nothing_but_itself(run: Path, page: Page) -> None:
    html = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "://" not in html and "@import" not in html and "//www" not in html
    assert not {"script", "link", "iframe", "img", "object", "base"} & {tag for tag, _ in page.tags}
    targets = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("href", "src")]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {str(target) for target in targets} <= {f"#{name}" for name in ids}
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in ids}


def test_page_can_be_read_by_a_screen_reader(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(tag == "table" for tag, _ in page.tags)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    labels = [str(a["aria-label"]) for a in drawings if a.get("role") == "img"]
    assert len(labels) == 5 and all(re.search(r"\d", label) for label in labels)
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in drawings)


def test_page_follows_light_and_dark_and_the_plots_with_it(run: Path) -> None:
    html = (run / "report" / "index.html").read_text(encoding="utf-8")
    light, dark = (block.split("}")[0] for block in html.split(":root {")[1:3])
    for name, value in COLOURS.items():
        assert f"--{name}: {value};" in light
        assert f"--{name}: #" in dark
        assert f"--{name}: {value};" not in dark
    drawings = re.findall(r'<svg role="img".*?</svg>', html, flags=re.DOTALL)
    assert len(drawings) == 5
    assert not re.findall(r"#[0-9a-f]{6}\b", "".join(drawings))


def test_honest_figures_stand_beside_their_rivals(page: Page) -> None:
    assert "11.9 million parameters, built from nothing but 5.00 kB of English and 5.00 kB of French text" in page.words
    assert "whose facts are wrong" in page.words
    assert (
        "20.0 % fewer bits than the 5-gram, 33.3 % fewer than xz with the training text, and 50.0 % fewer" in page.words
    )
    assert "English better than the majority class 70.0 % 60.0 to 80.0 20.0 % 90" in page.words
    assert "French no better than the majority class, as far as one can tell 25.0 %" in page.words
    assert "English better than the baseline 31.4 17.2 80" in page.words
    assert "A fallback was used." in page.words


def test_a_model_worse_than_its_rivals_is_called_worse(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    worse = results()["base/results.json"] | {"bits_per_byte": {"all": 5.0}}
    (run / "base/results.json").write_text(json.dumps(worse), encoding="utf-8")
    words = Page(write_report(run).read_text(encoding="utf-8")).words
    assert "100.0 % more bits than the 5-gram" in words and "25.0 % more than xz alone" in words


def test_samples_run_from_first_to_last_step_in_their_own_languages(page: Page) -> None:
    order = [page.words.index(f"continued {code} at {step}") for step in (10, 20, 30, 40) for code in ("en", "fr")]
    assert order == sorted(order)
    tongues = [attributes.get("lang") for tag, attributes in page.tags if tag == "blockquote"]
    assert set(tongues) == {"en", "fr"}
    assert "Expected Society" in page.words and "✓ exactly this" in page.words


def test_hashes_and_recipe_are_folded_in_and_the_report_does_not_list_itself(page: Page) -> None:
    assert "base/results.json " + "cd" * 32 in page.words
    assert "report/report.json" not in page.words
    assert "name: test seed: 1" in page.words


@pytest.mark.parametrize("stages", range(4))
def test_a_run_that_stopped_early_says_what_is_missing(tmp_path: Path, stages: int) -> None:
    run = write_run(tmp_path / "early", stages)
    path = write_report(run)
    words = Page(path.read_text(encoding="utf-8")).words
    assert "Not everything is here" in words
    for place, file in enumerate(results()):
        assert (f"no {file})" in words) == (place >= stages)
    assert json.loads((run / "report/report.json").read_text(encoding="utf-8"))["missing"] == list(STAGES[stages:])
    assert (run / "report/loss.svg").exists() == (stages >= 2)
    assert ("stopped at step 40" in words) == (stages in (2, 3))


def test_a_plot_that_lost_its_data_is_taken_away(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_report(run)
    write_run(run, events=[])
    write_report(run)
    assert not list((run / "report").glob("*.svg"))


def test_texts_of_a_run_never_become_markup(tmp_path: Path) -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, str):
            return value if value in ("en", "fr", "fp32") else HOSTILE
        if isinstance(value, list):
            return [poison(item) for item in value]
        return {key: poison(item) for key, item in value.items()} if isinstance(value, dict) else value

    keep = ("stage", "kind")
    events = [poison(e) | {key: e[key] for key in keep if key in e} for e in all_events()]
    events.append({"stage": HOSTILE, "kind": "stage_done", "seconds": 2})
    events.append({"stage": "base", "kind": "evaluation", "step": 99, "bits_per_byte": {HOSTILE: 3.0}})
    events.append({"stage": "base", "kind": "sample", "step": 99, "language": HOSTILE, "prompt": "\ud800", "text": "x"})
    events += [{"stage": stage, "kind": "notice", "text": HOSTILE} for stage in ("base", "corpus")]
    run = write_run(tmp_path / "<b>run", events=[])
    (run / "events.jsonl").write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    (run / "recipe.yaml").write_text(HOSTILE, encoding="utf-8")
    (run / "manifest.json").write_text(json.dumps({"artefacts": {HOSTILE: HOSTILE}}), encoding="utf-8")
    for path, content in results().items():
        (run / path).write_text(json.dumps(poison(content)), encoding="utf-8")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert not {"script", "b>run"} & {tag for tag, _ in page.tags}
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert page.words.count("<script>alert(1)</script>") > 20
    assert "{{ 7 * 7 }}" in page.words and "&amp;" in page.words


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 50) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["all", "en", "train", "x"]), inner),
    max_leaves=4,
)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_values_of_a_wrong_kind_never_stop_the_report(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = write_run(tmp_path_factory.mktemp("runs") / "odd")
    for path, content in results().items():
        odd = content | {key: data.draw(JSON) for key in data.draw(st.sets(st.sampled_from(list(content))))}
        (run / path).write_text(json.dumps(odd), encoding="utf-8")
    events = [e | {key: data.draw(JSON) for key in e if key != "kind"} for e in all_events()[::9]]
    (run / "events.jsonl").write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    Page(write_report(run).read_text(encoding="utf-8"))
    content = (run / "report/report.json").read_text(encoding="utf-8")
    assert isinstance(json.loads(content, parse_constant=lambda name: pytest.fail(name)), dict)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"is not a run .*cadran run RECIPE"):
            write_report(folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    run = write_run(tmp_path / "run")
    (run / "base/results.json").write_bytes(content)
    with pytest.raises(UserError, match=r"base.results\.json is damaged .*cadran run"):
        write_report(run)


def test_lines_that_are_no_event_are_left_aside(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", events=training("base"), tail='[1]\n7\n\n{"kind": "step"}\n\xff\n{"stage": "ba')
    assert gather(run).events.curve("base", "loss") == EventLog(training("base")).curve("base", "loss")


@given(st.lists(st.floats(0, 10), min_size=1, max_size=2000))
@settings(max_examples=50, deadline=None)
def test_a_thinned_curve_keeps_its_spikes(values: list[float]) -> None:
    curve = [(float(step), value) for step, value in enumerate(values)]
    thin = extremes(curve)
    assert len(thin) <= 600 and thin == sorted(set(thin)) and set(thin) <= set(curve)
    assert {min(values), max(values)} <= {value for _, value in thin}


def test_importing_the_report_loads_neither_plots_nor_templates() -> None:
    heavy = "{'matplotlib', 'jinja2', 'numpy', 'torch'}"
    command = f"import sys, cadran.recipe.report; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
