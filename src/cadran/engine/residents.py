"""Who has blocks: the answers under way, those that wait for blocks, and how they get and lose them.

The order is that of arrival, everywhere: the oldest answer gets what it needs, if need be from the youngest, so that it
always goes on; and whoever waits starts before whoever came later.
"""

from bisect import insort
from operator import attrgetter

from cadran.engine.answer import Answer, State
from cadran.engine.block_tables import BlockTables
from cadran.engine.kv_cache import BlockPool, PrefixTree
from cadran.engine.runner import Runner
from cadran.errors import UserError

_order = attrgetter("order")


class Residents:
    """Hands out the runner's blocks.

    Args:
        runner: whose blocks.

    Attributes:
        pool: counts them.
        tree: remembers what they hold.
        tables: which answer has which.
        waiting: answers without blocks; here and below in order of arrival.
        reading: those whose tokens are being read.
        running: those that grow.
        put_backs: how often an answer lost its blocks.
        block_size: positions in a block.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner, self.block_size = runner, runner.block_size
        self.pool = BlockPool(runner.blocks)
        self.tree = PrefixTree(self.pool, runner.block_size)
        self.tables = BlockTables(self.needed(runner.context))
        self.waiting: list[Answer] = []
        self.reading: list[Answer] = []
        self.running: list[Answer] = []
        self.put_backs = 0
        self._blocked: tuple[Answer, int, int] | None = None
        self._asked = 0

    def needed(self, positions: int) -> int:
        """How many blocks keep so many positions."""
        return -(-positions // self.block_size)

    def wait(self, answer: Answer) -> None:
        """An answer needs blocks."""
        answer.state = State.WAITING
        insort(self.waiting, answer, key=_order)

    def start(self, answer: Answer) -> bool:
        """Give the first of those that wait what the tree holds of it, if there is room for the rest.

        Returns:
            Whether it is being read now.
        """
        others = len(self.running) + len(self.reading)
        state = (answer, self.pool.available, others)
        if others and self._blocked == state:
            return False
        match = self.tree.match(answer.ids, answer.wanted - 1, answer.request.adapter)
        needed = self.needed(len(answer.ids)) - len(match.blocks)
        # One more for each that grows, or it would be put back as soon as it has started.
        if others and self.pool.available < needed + others + self._asked:
            for block in match.blocks if match.source is None else [*match.blocks, match.source]:
                self.pool.release(block)
            self._blocked = state
            return False
        blocks, positions = match.blocks, 0
        if match.source is not None:
            if (target := self.idle_block()) is not None:
                self._runner.copy(match.source, target, match.positions)
                blocks.append(target)
                positions = match.positions - self.block_size
            self.pool.release(match.source)
        answer.blocks, answer.kept, answer.borrowed = blocks, len(blocks) * self.block_size + positions, False
        self.waiting.remove(answer)
        answer.state = State.READING
        insort(self.reading, answer, key=_order)
        self.tables.open(answer)
        return True

    def run(self, answer: Answer) -> None:
        """All that was known of an answer was read, or it shares the blocks of one of which that is so."""
        if answer.state is State.READING:
            self.reading.remove(answer)
        else:
            self.tables.open(answer)
        answer.state = State.RUNNING
        insort(self.running, answer, key=_order)

    def grow(self, answer: Answer, positions: int) -> bool:
        """Give an answer blocks for so many positions, taking them from younger ones if need be.

        Returns:
            Whether it has them. If not it is the youngest: one that grows was put back, one that is being read keeps
            what it got.
        """
        while len(answer.blocks) * self.block_size < positions:
            block = self._block(answer)
            if block is None:
                self._yield(answer)
                return False
            self.tables.append(answer, block)
        return True

    def grow_idly(self, answer: Answer, positions: int) -> bool:
        """As ``grow``, from blocks that no answer has."""
        while len(answer.blocks) * self.block_size < positions:
            block = self.idle_block()
            if block is None:
                return False
            self.tables.append(answer, block)
        return True

    def own_tail(self, answer: Answer) -> bool:
        """Let an answer write behind a shared prompt: a last block filled in part is copied.

        Returns:
            Whether it may go on; if not, it was put back.
        """
        positions = answer.kept % self.block_size
        if positions:
            source = answer.blocks[-1]
            if self.pool.users[source] > 1:
                target = self._block(answer)
                if target is not None:
                    self._runner.copy(source, target, positions)
                    answer.blocks[-1] = target
                elif self._yield(answer):
                    return False
                else:
                    # Alone, and its memory is full to the last block: the tail is read again.
                    answer.blocks.pop()
                    answer.kept -= positions
                self.pool.release(source)
                self.tables.rewrite(answer)
        answer.borrowed = False
        return True

    def remember(self, answer: Answer, positions: int) -> None:
        """Enter what an answer's blocks hold into the tree."""
        self.tree.insert(answer.ids[:positions], answer.blocks, answer.request.adapter)
        self.tables.rewrite(answer)

    def leave(self, answer: Answer, remember: bool) -> None:
        """An answer is over.

        Args:
            answer: in any state.
            remember: whether what its blocks hold is sound.
        """
        match answer.state:
            case State.WAITING:
                self.waiting.remove(answer)
            case State.READING:
                self.reading.remove(answer)
            case State.RUNNING:
                self.running.remove(answer)
            case _:
                pass
        self._vacate(answer, remember)
        answer.state = State.OVER

    def borrow(self, blocks: int) -> list[int] | None:
        """Blocks for other work than answers, to be given back.

        Returns:
            So many, or None while there are not; fewer requests are begun until it is asked again with success.

        Raises:
            UserError: there never will be so many.
        """
        if blocks > self._runner.blocks:
            raise UserError(
                f"{blocks} blocks of {self.block_size} tokens are needed and there are {self._runner.blocks}; "
                "shorten the text or give the cache more memory"
            )
        lent: list[int] = []
        while len(lent) < blocks and (block := self.idle_block()) is not None:
            lent.append(block)
        if len(lent) < blocks:
            self.give_back(lent)
            self._asked = blocks
            return None
        self._asked = 0
        return lent

    def idle_block(self) -> int | None:
        """A block that no answer has, used once from now on; None when there is none."""
        block = self.pool.allocate()
        if block is None and self.tree.evict():
            block = self.pool.allocate()
        return block

    def give_back(self, blocks: list[int]) -> None:
        """What was borrowed is free again."""
        for block in blocks:
            self.pool.release(block)

    def _block(self, answer: Answer) -> int | None:
        """A block for an answer that has a place; None when it is the youngest and there is none."""
        while (block := self.idle_block()) is None:
            youngest = max([*self.running[-1:], *self.reading[-1:]], key=_order)
            if youngest is not answer:
                self._put_back(youngest)
            elif len(self.running) + len(self.reading) == 1 and self.tree.nodes:
                self.tree.clear()
            else:
                return None
        return block

    def _yield(self, answer: Answer) -> bool:
        """Put back an answer that can't grow, unless it is alone and will be able to when what was lent is back."""
        if answer.state is State.RUNNING and len(self.running) + len(self.reading) > 1:
            self._put_back(answer)
            return True
        return False

    def _put_back(self, answer: Answer) -> None:
        (self.running if answer.state is State.RUNNING else self.reading).remove(answer)
        self._vacate(answer, remember=True)
        self.wait(answer)
        self.put_backs += 1

    def _vacate(self, answer: Answer, remember: bool) -> None:
        if answer.blocks and remember:
            self.tree.insert(answer.ids[: answer.kept], answer.blocks, answer.request.adapter)
        for block in answer.blocks:
            self.pool.release(block)
        answer.blocks, answer.kept, answer.borrowed = [], 0, False
        self.tables.close(answer)
