"""The page: one HTML file without scripts or addresses, drawn from the templates beside this file.

The templates say what stands where; this file prepares what they cannot compute themselves. Every text of the run is
escaped by the template engine: only the plots, which are drawn here, enter as markup.
"""

from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from cadran.recipe.report import wording
from cadran.recipe.report.comparison import comparisons
from cadran.recipe.report.cost import cost
from cadran.recipe.report.data import Record, RunData, branch, dig, number, rows
from cadran.recipe.report.events import Event
from cadran.recipe.report.examples import rendered, row_counts
from cadran.recipe.report.healthy import healthy
from cadran.recipe.report.order import RESULTS, TRAINED
from cadran.recipe.report.panels import headlines, panels
from cadran.recipe.report.plots import Plot, embed
from cadran.recipe.report.training_plots import BASELINES

_STEPS_SHOWN = 6
_CHATS_SHOWN = 3
_QUESTIONS_SHOWN = 8
_STYLES = ("page.css", "alignment.css")
_GENERAL = (
    ("loss", "Loss"),
    ("bits_per_byte", "Bits per byte of held-out text"),
    ("learning_rate", "Learning rate"),
    ("speed", "Tokens per second"),
    ("time_per_stage", "Time per stage"),
)
_CODES_FIRST = ("en", "fr")


def render(data: RunData, plots: dict[str, Plot]) -> str:
    """The whole page.

    Args:
        data: what the run holds.
        plots: the drawings, by name; a missing one leaves no gap.

    Returns:
        HTML that needs no other file, in English, with samples in their own languages.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("cadran.recipe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": wording.count,
        "rounded": wording.rounded,
        "size": wording.size,
        "decimal": wording.decimal,
        "percent": wording.percent,
        "duration": wording.duration,
        "operations": wording.operations,
        "plain": wording.plain,
        "language": wording.language_name,
        "stage": wording.stage_name,
        "rule": wording.rule_name,
    }
    environment.globals |= {"number": number, "branch": branch, "rows": rows, "dig": dig, "healthy": healthy}
    folder = files("cadran.recipe.report").joinpath("templates")
    style = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _STYLES)
    return environment.get_template("page.html").render(
        data=data,
        style=Markup(style),
        plots={name: Markup(embed(plot, name)) for name, plot in plots.items()},
        cost=cost(data),
        result_files=RESULTS,
        trained=TRAINED,
        rivals=_rivals(data),
        main_languages=_main_languages(data),
        topic=_topic(data),
        description=_description(data),
        base_samples=_sample_steps(data, "base"),
        sft_samples=_sample_steps(data, "sft"),
        chats=_chats(data),
        chats_shown=_CHATS_SHOWN,
        notices=_notices(data),
        general=[(name, title) for name, title in _GENERAL if name in plots],
        comparisons=comparisons(data),
        questions_shown=_QUESTIONS_SHOWN,
        panels=panels(data),
        headlines=headlines(data),
        row_counts=row_counts(data),
        examples=rendered(data),
        **{stage: data.results.get(stage, {}) for stage in RESULTS},
    )


def by_language(record: Record) -> list[tuple[str, Any]]:
    """The entries of an object whose keys are language codes: "all", English and French first, then the others."""
    first = [code for code in ("all", *_CODES_FIRST) if code in record]
    return [(code, record[code]) for code in [*first, *sorted(set(record) - set(first))]]


def _main_languages(data: RunData) -> list[tuple[str, float]]:
    """Languages with at least a hundredth of the training text, each with its bytes; strays are for the data sheet."""
    languages = branch(data.results.get("corpus"), "languages")
    sizes = {code: number(record, "train", "bytes") or 0 for code, record in languages.items()}
    return [(code, size) for code, size in by_language(sizes) if size and size >= 0.01 * sum(sizes.values())]


def _rivals(data: RunData) -> Record:
    """Bits per byte of the model and of the three compressors: rows, columns (languages), and who is better."""
    base = data.results.get("base", {})
    entries = [("model", branch(base, "bits_per_byte"))]
    entries += [(key, branch(base, "baselines", key)) for key, _ in BASELINES]
    present = [(key, record) for key, record in entries if record]
    languages = {code: None for _, record in present for code in record}
    most = max((value for _, record in present if (value := number(record, "all"))), default=0.0)
    model = number(base, "bits_per_byte", "all")
    return {
        "languages": [code for code, _ in by_language(languages)],
        "rows": [
            {
                "key": key,
                "bits": {code: number(record, code) for code in languages},
                "width": 100 * (number(record, "all") or 0.0) / most if most else 0.0,
                "saved": 1 - model / other if key != "model" and model and (other := number(record, "all")) else None,
            }
            for key, record in present
        ],
    }


def _topic(data: RunData) -> list[Record]:
    """Topic accuracy per language, each with what its interval says about the majority class."""
    lines = []
    for code, record in by_language(branch(data.results.get("sft"), "topic")):
        interval, majority = dig(record, "interval"), number(record, "majority")
        bounds = dict(zip(("low", "high"), interval, strict=False)) if isinstance(interval, list) else {}
        low, high = number(bounds, "low"), number(bounds, "high")
        verdict = ""
        if majority is not None and low is not None and high is not None:
            verdict = "above" if low > majority else "below" if high < majority else "level"
        line: Record = {key: number(record, key) for key in ("accuracy", "majority", "held_out")}
        lines.append(line | {"language": code, "low": low, "high": high, "verdict": verdict})
    return lines


def _description(data: RunData) -> list[Record]:
    """chrF of the descriptions per language, beside the baseline."""
    lines = []
    for code, record in by_language(branch(data.results.get("sft"), "description")):
        line: Record = {key: number(record, key) for key in ("chrf", "baseline_chrf", "held_out")}
        score, baseline = line["chrf"], line["baseline_chrf"]
        verdict = "" if score is None or baseline is None else "better" if score > baseline else "no better"
        lines.append(line | {"language": code, "verdict": verdict})
    return lines


def _sample_steps(data: RunData, stage: str) -> Record:
    """Some of the steps at which samples were written, the first and the last among them, by language."""
    by_step: dict[int, list[Event]] = {}
    for sample in data.events.samples(stage):
        by_step.setdefault(sample["step"], []).append(sample)
    steps = list(by_step)
    bits = dict(data.events.bits_per_byte("all")) if stage == "base" else {}
    shown = _spread(steps, _STEPS_SHOWN)
    return {
        "of": len(steps),
        "steps": [{"step": s, "bits": bits.get(s), "languages": _grouped(by_step[s])} for s in shown],
    }


def _spread(steps: list[int], most: int) -> list[int]:
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _grouped(samples: Iterable[Event]) -> list[tuple[str, list[Record]]]:
    groups: Record = {}
    for sample in samples:
        prompt, text = str(sample.get("prompt") or ""), str(sample.get("text") or "")
        written = {"prompt": prompt, "text": text.removeprefix(prompt)}
        groups.setdefault(str(sample.get("language") or "und"), []).append(written)
    return by_language(groups)


def _chats(data: RunData) -> list[tuple[str, list[Record]]]:
    """Answers of the finished model, by language; the first of each task, then the second of each, and so on."""
    groups: Record = {}
    rounds: Counter[tuple[str, str]] = Counter()
    for sample in rows(data.results.get("sft"), "samples"):
        if "answer" not in sample:
            continue  # several models answered it: it stands with the comparisons
        texts = {key: str(sample.get(key) or "") for key in ("task", "prompt", "answer", "expected")}
        same = bool(texts["expected"]) and texts["answer"].strip() == texts["expected"].strip()
        language = str(sample.get("language") or "und")
        rounds[language, texts["task"]] += 1
        turn = rounds[language, texts["task"]]
        groups.setdefault(language, []).append(texts | {"same": same, "turn": turn})
    return by_language({code: sorted(chats, key=lambda chat: chat["turn"]) for code, chats in groups.items()})


def _notices(data: RunData) -> list[str]:
    """What the reader must know before the figures; what was said during a training is told with its cost."""
    sheet = dig(data.results.get("corpus"), "notices")
    said = [str(text) for text in sheet] if isinstance(sheet, list) else []
    return list(dict.fromkeys([*said, *(text for stage, text in data.events.notices if stage not in TRAINED)]))
