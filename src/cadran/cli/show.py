"""How long work is shown: one progress bar, a line per finished stage, notices as they come."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cadran.cli.bar import Bar


class Show(Bar):
    """Listens to a run and draws it.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<9}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}", markup=False),
            console=console,
        )

    def event(self, event: dict[str, Any]) -> None:
        """Draw an event of a run."""
        kind, stage = event["kind"], event.get("stage", "")
        if kind == "begin":
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task("", total=None, stage=stage)
        elif kind == "unchanged":
            self._line(stage, "unchanged")
        elif kind == "stage_done":
            self._line(stage, f"done in {event['seconds']:.0f} s")
        elif kind == "notice":
            self._line(stage, event["text"])
        elif kind == "resumed":
            self._line(stage, f"goes on after step {event['step']}")
        elif kind == "evaluation":
            bits = "  ".join(f"{name} {value:.3f}" for name, value in sorted(event["bits_per_byte"].items()))
            self._line(stage, f"step {event['step']}: bits per byte  {bits}")
        elif kind == "examination":
            figures = ((name.removeprefix("held_out_"), value) for name, value in event["figures"].items())
            found = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures)
            self._line(stage, f"step {event['step']}, held-out rows: {found}")
        elif kind == "examples":
            self._examples(event["examples"])
        elif kind == "sample":
            text = " ".join(f"{event['prompt']}▸{event['text']}".split())
            self._line(stage, text if len(text) <= 200 else f"{text[:199]}…")

    def _examples(self, examples: list[dict[str, Any]]) -> None:
        """Rows as the model reads them: what it learns is coloured, and without colours in brackets."""
        for example in examples:
            text = Text()
            for piece in example["tokens"]:
                learnt, plain = piece["supervised"], self.console.no_color or not self.console.is_terminal
                shown = f"[[{piece['text']}]]" if learnt and plain else piece["text"]
                text.append(shown, "black on green" if learnt else None)
            self.console.print(f"\n{example['heading']}", markup=False, highlight=False)
            self.console.print(text, soft_wrap=True)
        self.console.print()

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, description=doing, completed=done, total=total)

    def _line(self, stage: str, text: str) -> None:
        self.console.print(f"{stage:<9} {text}", markup=False, highlight=False, soft_wrap=True)
