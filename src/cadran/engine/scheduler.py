"""Many requests, one forward pass at a time: which tokens are read next, and what comes of them.

A step deals out a budget of tokens: first to the answers that grow, then to prompts in order of arrival, so that pieces
of prompts, decoding and the verification of guesses are one case (Yu et al. 2022, "Orca", §3; Agrawal et al. 2024,
"Sarathi-Serve", §4). When blocks run out the youngest answer is put back and read again later. None of this is visible
in what is answered: an answer's tokens depend on its request alone.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from cadran.engine.answer import Answer, Logits, State
from cadran.engine.block_tables import Piece
from cadran.engine.depth import Depth, PassCost
from cadran.engine.plan import Planner
from cadran.engine.prefix_file import load_prefix, save_prefix
from cadran.engine.request import Produced, Request, Scored, check_asked
from cadran.engine.residents import Residents
from cadran.engine.runner import Runner
from cadran.engine.speculation import DrafterOf, PromptLookup
from cadran.errors import UserError


@dataclass(slots=True)
class Counters:
    """What happened since the scheduler was made, in tokens.

    Attributes:
        read: by the runner.
        cached: of prompts, that were not read because their keys and values were there.
        drafted: guesses read.
        accepted: of them, right.
    """

    read: int = 0
    cached: int = 0
    drafted: int = 0
    accepted: int = 0


class _Task:
    """A request under way. ``cached``: of its prompt, not read; ``left``: answers that are not over."""

    __slots__ = ("answers", "cached", "depth", "left", "told")

    def __init__(self, answers: list[Answer]) -> None:
        self.answers, self.left = answers, len(answers)
        self.cached: int | None = None
        self.told = False
        self.depth = Depth()


class Scheduler:
    """Owns the runner's blocks; one thread calls it.

    Args:
        runner: the model.
        budget: most tokens of a step, at least one.
        drafter: makes the guesses of each answer; None guesses only where a request brings a guess.
        burst_seconds: about how long the runner may decode without coming back.
        cost: of passes, measured from then on.

    Attributes:
        counters: what happened so far.
        residents: who has which blocks.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        budget: int = 512,
        drafter: DrafterOf | None = None,
        burst_seconds: float = 0.045,
        cost: PassCost | None = None,
    ) -> None:
        if budget < 1:
            raise UserError(f"the budget of a step is {budget} tokens; give a positive number")
        self.counters = Counters()
        self.residents = Residents(runner)
        self._runner, self._drafter, self._cost = runner, drafter, cost or PassCost()
        self._planner = Planner(self.residents, self._cost, budget, burst_seconds, runner.vocabulary)
        self._tasks: dict[int, _Task] = {}
        self._serial = 0
        self._news: list[Produced] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and there is nothing to tell."""
        return not self._tasks and not self._news

    @property
    def free_blocks(self) -> int:
        """Blocks that a request could get, those included that only remember prefixes."""
        return self.residents.pool.available

    @property
    def running(self) -> int:
        """How many answers have blocks."""
        return len(self.residents.running) + len(self.residents.reading)

    @property
    def waiting(self) -> int:
        """How many requests, or answers that were put back, have none."""
        return len(self.residents.waiting)

    def add(self, request: Request) -> None:
        """Begin a request.

        Raises:
            UserError: it can never fit, or asks for what there is not; both numbers are named.
            ValueError: one with its id is under way.
        """
        runner, length = self._runner, len(request.prompt)
        if request.id in self._tasks:
            raise ValueError(f"a request with the id {request.id} is under way")
        check_asked(request.prompt, request.answers, request.top, runner.context, runner.vocabulary)
        limit = min(length + request.params.max_tokens, runner.context)
        # The last token is never read.
        needed = self.residents.needed(limit - 1)
        if needed > runner.blocks:
            raise UserError(
                f"prompt and answer need {needed} blocks of {runner.block_size} tokens and there are {runner.blocks}; "
                "shorten the prompt, ask for fewer tokens or give the cache more memory"
            )
        self._serial += 1
        answers = [Answer(request, index, self._serial, limit) for index in range(request.answers)]
        self._tasks[request.id] = _Task(answers)
        # The first reads the prompt for all.
        self.residents.wait(answers[0])

    def cancel(self, id: int) -> None:
        """Drop a request; its blocks are free at once. The next step says ``cancelled`` of its answers."""
        task = self._tasks.get(id)
        for answer in task.answers if task is not None else ():
            if answer.state is not State.OVER:
                answer.finish, answer.held = "cancelled", 0
                self._conclude(answer, self._news)

    def finish(self, id: int, answer: int) -> None:
        """End one answer whose text has come to an end; its blocks are free at once, and nothing more is said of it."""
        task = self._tasks.get(id)
        if task is None or task.answers[answer].state is State.OVER:
            return
        task.answers[answer].dropped = True
        if task.answers[0].complete:
            self._end(task.answers[answer])
        elif all(other.dropped for other in task.answers):
            # Before, the first one reads the prompt for the others even when nobody wants to hear of it.
            for other in task.answers:
                self._end(other)

    def step(self) -> list[Produced]:
        """One forward pass, or several where nothing but decoding is to be done.

        Returns:
            What it brought, one entry for an answer.

        Raises:
            Exception: what the runner raises; the scheduler is then to be thrown away.
        """
        pieces = self._planner.plan(self._begin)
        news, self._news = self._news, []
        if not pieces:
            return news
        for piece in pieces:
            answer = piece.answer
            if piece.drafts or piece.count > 1 or not answer.plain or answer.state is not State.RUNNING:
                answers = self._read(pieces)
                break
        else:
            answers = [piece.answer for piece in pieces]
            self._decode(answers)
        for answer in answers:
            if answer.fresh or answer.finish is not None:
                self._conclude(answer, news)
        return news

    def borrow(self, blocks: int) -> list[int] | None:
        """Blocks for other work with the runner; see ``Residents.borrow``."""
        return self.residents.borrow(blocks)

    def give_back(self, blocks: list[int]) -> None:
        """What was borrowed is free again."""
        self.residents.give_back(blocks)

    def forget(self, adapter: int) -> None:
        """An adapter is about to go: who is answered with it is cancelled, and what was read with it is forgotten."""
        for id, task in list(self._tasks.items()):
            if task.answers[0].request.adapter == adapter:
                self.cancel(id)
        self.residents.tree.forget(adapter)

    def save(self, path: Path, ids: tuple[int, ...], model: str) -> int:
        """Write what is known of the beginning of a sequence to a file; see ``prefix_file.save_prefix``."""
        return save_prefix(path, self._runner, self.residents, ids, model)

    def load(self, path: Path, model: str) -> int:
        """Remember what a file holds; see ``prefix_file.load_prefix``."""
        return load_prefix(path, self._runner, self.residents, model)

    def _begin(self, answer: Answer) -> bool:
        """Start the first of those that wait; False when there is no room."""
        answer.begin()
        if answer.failed:
            for other in self._spoiled(answer):
                self._conclude(other, self._news)
            return True
        if not self.residents.start(answer):
            return False
        task = self._tasks[answer.request.id]
        if task.cached is None:
            task.cached = min(answer.kept, len(answer.request.prompt))
            self.counters.cached += task.cached
        return True

    def _decode(self, answers: list[Answer]) -> None:
        """Answers that only grow: the runner chooses, several times if nothing else is to be done."""
        steps = self._planner.burst(answers)
        batch = self.residents.tables.decoding(answers)
        start = perf_counter()
        samplers = [answer.sampler for answer in answers if answer.sampler is not None]
        taken = self._runner.burst(batch, samplers, [answer.request.stop_ids for answer in answers], steps)
        self._cost.record(len(answers), (perf_counter() - start) / len(taken))
        self.counters.read += len(answers) * len(taken)
        for answer, tokens in zip(answers, taken.T.tolist(), strict=True):
            for token in tokens:
                if token < 0:
                    answer.fail("the model gave logits that are not numbers; its weights are damaged, get them again")
                    break
                answer.kept += 1
                if token in answer.stops:
                    answer.finish = "stop"
                    break
                answer.ids.append(token)
                answer.fresh.append(Scored(token))
            if answer.finish is None and len(answer.ids) >= answer.limit:
                answer.finish = "length"

    def _read(self, pieces: list[Piece]) -> list[Answer]:
        """Any pieces; returns the answers that something may have come of."""
        batch = self.residents.tables.reading(pieces)
        reading = False
        touched: list[Answer] = []
        start = perf_counter()
        logits = self._runner.step(batch)
        row = 0
        for piece in pieces:
            answer, rows, first = piece.answer, logits[row : row + piece.rows], piece.first
            row += piece.rows
            reading = reading or answer.state is State.READING
            answer.kept += piece.count
            if answer.complete:
                self._advance(piece, rows, first)
                touched.append(answer)
            else:
                touched += self._open(answer, rows, first)
        if not reading:
            self._cost.record(len(batch.ids), perf_counter() - start)
        self.counters.read += len(batch.ids)
        return touched

    def _advance(self, piece: Piece, rows: Logits, first: int) -> None:
        answer, drafted = piece.answer, len(piece.drafts)
        if answer.state is State.READING and answer.kept == len(answer.ids):
            self.residents.run(answer)
        stood = answer.advance(rows, first, piece.drafts)
        answer.kept += stood
        if drafted:
            self.counters.drafted += drafted
            self.counters.accepted += stood
            if answer.depth is not None:
                # What was guessed beyond the end was neither right nor wrong.
                answer.depth.update(drafted if answer.finish is None else stood, stood, len(answer.ids))

    def _open(self, lead: Answer, rows: Logits, first: int) -> list[Answer]:
        """A piece of a prompt was read; when it was the last, all answers to it begin."""
        lead.settle(rows, first)
        if lead.failed:
            return self._spoiled(lead)
        if lead.kept < len(lead.ids):
            return []
        length, opening = len(lead.ids), list(lead.fresh)
        lead.complete = True
        lead.advance(rows, first)
        if not lead.failed:
            self.residents.remember(lead, length)
        task = self._tasks[lead.request.id]
        for answer in task.answers:
            if answer is not lead and not answer.dropped:
                answer.fork(lead, length, opening, self.residents.pool.share)
                answer.advance(rows, first)
            if answer is lead or not answer.dropped:
                self.residents.run(answer)
            if self._drafter is not None:
                answer.drafter, answer.depth = self._drafter(answer.request), task.depth
            elif answer.request.guess:
                answer.drafter, answer.depth = PromptLookup.of(answer.request), task.depth
        for answer in task.answers:
            if answer.dropped:
                self._end(answer)
        return [answer for answer in task.answers if not answer.dropped]

    def _spoiled(self, lead: Answer) -> list[Answer]:
        """The prompt cannot be read, so no answer to it can be given."""
        answers = self._tasks[lead.request.id].answers if not lead.complete else [lead]
        for answer in answers:
            answer.fail(lead.message or "")
        return answers

    def _conclude(self, answer: Answer, news: list[Produced]) -> None:
        """Tell what is new of an answer, and end it when it is over."""
        task, over = self._tasks[answer.request.id], answer.over
        prompt: tuple[Scored, ...] = ()
        if not task.told and answer.request.prompt_logprobs and task.answers[0].complete:
            prompt = tuple(task.answers[0].scored)
        if not answer.dropped and (answer.fresh or over):
            news.append(
                Produced(
                    answer.request.id,
                    answer.index,
                    tuple(answer.fresh),
                    answer.finish if over else None,
                    answer.message if over else None,
                    prompt,
                    0 if answer.reported else task.cached or 0,
                )
            )
            answer.reported = task.told = True
        answer.fresh = []
        if over:
            self._end(answer)

    def _end(self, answer: Answer) -> None:
        if answer.state is State.OVER:
            return
        self.residents.leave(answer, remember=not answer.failed)
        if answer.drafter is not None:
            answer.drafter.close()
        task = self._tasks[answer.request.id]
        task.left -= 1
        if not task.left:
            del self._tasks[answer.request.id]
