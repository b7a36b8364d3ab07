"""The conversation of ``cadran chat``: a prompt, streamed answers, a few commands."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from cadran.engine.engine import Engine, Message
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError

if TYPE_CHECKING:
    from cadran.cli.remote_model import RemoteModel

HELP = """/reset             forget the conversation
/temperature 0.9   how varied (0 is always the likeliest)
/top-p 0.9         keep the likeliest tokens up to this share
/seed 7            of the random numbers
/system TEXT       begin again with a system message
/help              this list
/quit              leave (so does Ctrl-D)"""


class Conversation:
    """Messages so far and how the next answer is drawn.

    Args:
        engine: the model, here or behind a server.
        params: how to choose tokens.
        system: a system message, or None.
        console: where to write.
        stop: texts that end an answer.
    """

    def __init__(
        self,
        engine: "Engine | RemoteModel",
        params: SamplingParams,
        system: str | None,
        console: Console,
        stop: Sequence[str] = (),
    ) -> None:
        self.engine, self.params, self.console, self.stop = engine, params, console, stop
        self.system = system
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def run(self, name: str) -> None:
        """Read and answer until the end of the input."""
        if sys.stdin.isatty():
            self.console.print(f"{name}: {self.engine.context} tokens of context. /help lists commands, Ctrl-D leaves.")
            if not self.engine.chats:
                self.console.print("This is a base model: it continues what you write instead of answering.")
            if reason := self.engine.runner_reason:
                self.console.print(f"It runs in torch: {reason}", style="dim", markup=False)
        while True:
            try:
                line = input("› " if sys.stdin.isatty() else "").strip()
            except (EOFError, KeyboardInterrupt):
                self.console.print()
                return
            if not line:
                continue
            try:
                if line.startswith("/"):
                    if not self.command(line):
                        return
                else:
                    self.say(line)
            except UserError as error:
                self.console.print(str(error), markup=False)

    def command(self, line: str) -> bool:
        """Do a line that begins with a slash; False when it means to leave.

        Raises:
            UserError: an unknown command or a value out of range.
        """
        word, _, value = line[1:].partition(" ")
        try:
            match word:
                case "quit" | "exit" | "bye":
                    return False
                case "help":
                    self.console.print(HELP, markup=False)
                case "reset":
                    self.reset()
                    self.console.print("forgotten")
                case "system":
                    self.system = value.strip() or None
                    self.reset()
                case "temperature":
                    self.params = replace(self.params, temperature=float(value))
                case "top-p" | "top_p":
                    self.params = replace(self.params, top_p=float(value))
                case "seed":
                    self.params = replace(self.params, seed=int(value))
                case _:
                    raise UserError(f"there is no command /{word}; type /help for the list")
        except ValueError as error:
            raise UserError(f"{value!r} is no number; type for example /{word} 0.8") from error
        return True

    def say(self, text: str) -> str:
        """Send a message and stream the answer; Ctrl-C cuts the answer short and keeps what was said."""
        self.messages.append({"role": "user", "content": text})
        said = ""
        try:
            if self.engine.chats:
                answer = self.engine.chat(self.messages, self.params, stop=self.stop)
            else:
                answer = self.engine.generate(text, self.params, stop=self.stop)
            try:
                for event in answer:
                    said += event.text
                    print(event.text, end="", flush=True)
            except KeyboardInterrupt:
                answer.close()
        except UserError:
            self.messages.pop()
            raise
        print()
        self.messages.append({"role": "assistant", "content": said})
        return said
