"""Which blocks of keys and values are in use, and which of them begin with the same tokens.

A block holds a fixed number of consecutive positions of a sequence. ``BlockPool`` counts who uses each of them;
``PrefixTree`` remembers the tokens that blocks hold, so that a sequence beginning like an earlier one reads only what
is new (the radix tree of Zheng et al. 2024, "SGLang", §3; here a node is one block, and reuse ends at any token, not
only at the end of a block). Neither knows the runner: what must be copied is said, and done by the caller.
"""

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


class BlockPool:
    """Reference counts of the blocks, and those that are free.

    Args:
        blocks: how many there are; they are numbered from 0.

    Attributes:
        users: of each block, the tree counted as one.
        cached: of each block, whether the tree is one of its users.
        idle: how many blocks the tree alone uses; giving them up costs only a later reading.
    """

    def __init__(self, blocks: int) -> None:
        self.users = [0] * blocks
        self.cached = bytearray(blocks)
        self.idle = 0
        self._free = list(range(blocks - 1, -1, -1))

    @property
    def free(self) -> int:
        """How many blocks nobody uses."""
        return len(self._free)

    @property
    def available(self) -> int:
        """How many blocks a sequence could get: the free and the idle ones."""
        return len(self._free) + self.idle

    def allocate(self) -> int | None:
        """A free block, used once from now on; None when there is none."""
        if not self._free:
            return None
        block = self._free.pop()
        self.users[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more user of a block that is in use."""
        if self.users[block] == 1 and self.cached[block]:
            self.idle -= 1
        self.users[block] += 1

    def release(self, block: int) -> None:
        """One user fewer; the block is free when it was the last."""
        users = self.users[block] - 1
        if users < 0:
            raise ValueError(f"block {block} is released more often than it was taken")
        self.users[block] = users
        if users == 0:
            self._free.append(block)
        elif users == 1 and self.cached[block]:
            self.idle += 1

    def cache(self, block: int) -> None:
        """The tree becomes a user of a block that somebody uses."""
        self.users[block] += 1
        self.cached[block] = 1

    def uncache(self, block: int) -> None:
        """The tree lets go of a block."""
        if self.users[block] == 1:
            self.idle -= 1
        self.cached[block] = 0
        self.users[block] -= 1
        if self.users[block] == 0:
            self._free.append(block)


@dataclass(frozen=True, slots=True)
class Match:
    """What the tree holds of a sequence. Whoever asked is now a user of all these blocks.

    Attributes:
        blocks: full ones, from the beginning of the sequence, to be used as they are.
        source: a block whose first ``positions`` continue them, to be copied and released; None where none does.
        positions: fewer than a block holds.
    """

    blocks: list[int]
    source: int | None = None
    positions: int = 0


class _Node:
    """One block in the tree. ``keys[i]``: tokens of ``children[i]``, sorted; none is a beginning of another."""

    __slots__ = ("block", "children", "keys", "parent", "queued", "tick", "tokens")

    def __init__(self, tokens: tuple[int, ...], block: int, parent: "_Node | None") -> None:
        self.tokens, self.block, self.parent = tokens, block, parent
        self.keys: list[tuple[int, ...]] = []
        self.children: list[_Node] = []
        self.tick = 0
        self.queued = False

    def nearest(self, key: tuple[int, ...]) -> "tuple[_Node | None, int]":
        """The child with the longest common beginning, and how long that is: a neighbour in the sorted order."""
        place = bisect_left(self.keys, key)
        best, longest = None, 0
        for i in (place, place - 1):
            if 0 <= i < len(self.keys) and (common := _common(self.keys[i], key)) > longest:
                best, longest = self.children[i], common
        return best, longest


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    most = min(len(left), len(right))
    if left[:most] == right[:most]:
        return most
    return next(i for i in range(most) if left[i] != right[i])


class PrefixTree:
    """The tokens that blocks hold, as a tree; leaves that nobody uses are given up, the longest unused first.

    Args:
        pool: where the blocks are counted.
        block_size: positions in a block.

    Attributes:
        nodes: how many blocks it holds.
    """

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self.nodes = 0
        self._pool, self._size = pool, block_size
        self._roots: dict[int, _Node] = {}
        self._clock = 0
        # Leaves by the time of last use as it was when they were queued; a later use is seen when they come up.
        self._leaves: list[tuple[int, int, _Node]] = []
        self._queued = 0

    def match(self, tokens: Sequence[int], most: int, adapter: int = 0) -> Match:
        """The longest beginning of a sequence that is here.

        Args:
            tokens: of the sequence.
            most: how many of its first tokens may be taken from here.
            adapter: that it was read with, 0 for none; others have other keys and values.
        """
        self._clock += 1
        node, depth = self._root(adapter), 0
        blocks: list[int] = []
        while depth < most:
            child, common = node.nearest(tuple(tokens[depth : min(depth + self._size, most)]))
            if child is None:
                break
            child.tick = self._clock
            self._pool.share(child.block)
            if common < self._size:
                return Match(blocks, child.block, common)
            blocks.append(child.block)
            node, depth = child, depth + self._size
        return Match(blocks)

    def insert(self, tokens: Sequence[int], blocks: list[int], adapter: int = 0) -> None:
        """Remember what the blocks of a sequence hold; the last may be filled in part, and be written on behind that.

        Where a full block with the same tokens is here already, the sequence is given that one instead of its own.

        Args:
            tokens: of the positions kept, of the sequence from its beginning.
            blocks: that hold them; changed in place.
            adapter: that they were read with, 0 for none.
        """
        self._clock += 1
        node, pool = self._root(adapter), self._pool
        for number in range(-(-len(tokens) // self._size)):
            key = tuple(tokens[number * self._size : (number + 1) * self._size])
            block = blocks[number]
            place = bisect_left(node.keys, key)
            if place < len(node.keys) and node.keys[place][: len(key)] == key:
                child = node.children[place]
                # Every block above one that a sequence uses must be the sequence's own, or it could never be given up.
                if len(key) == self._size and child.block != block:
                    pool.share(child.block)
                    pool.release(block)
                    blocks[number] = child.block
            elif place and key[: len(node.keys[place - 1])] == node.keys[place - 1]:
                # A block filled in part that ours goes on from: a leaf, because only full blocks have followers.
                child = node.children[place - 1]
                if child.block != block:
                    pool.cache(block)
                    pool.uncache(child.block)
                    child.block = block
                node.keys[place - 1] = child.tokens = key
            else:
                child = _Node(key, block, node)
                pool.cache(block)
                node.keys.insert(place, key)
                node.children.insert(place, child)
                self.nodes += 1
            child.tick = self._clock
            node = child
        if node.parent is not None and not node.children:
            self._queue(node)

    def evict(self) -> bool:
        """Give up the block unused for the longest time, of those that the tree alone uses and nothing hangs on.

        Returns:
            Whether a block became free.
        """
        used = []
        freed = False
        while self._pool.idle and self._leaves and not freed:
            tick, _, node = heapq.heappop(self._leaves)
            node.queued = False
            if node.parent is None or node.children:
                continue
            if node.tick != tick:
                self._queue(node)
            elif self._pool.users[node.block] > 1:
                used.append(node)
            else:
                self._remove(node)
                freed = True
        for node in used:
            # In use is recently used, and comes up again only after all others.
            node.tick = self._clock
            self._queue(node)
        return freed

    def clear(self) -> None:
        """Forget everything."""
        for adapter in list(self._roots):
            self.forget(adapter)
        self._leaves = []

    def forget(self, adapter: int) -> None:
        """Forget what was read with an adapter."""
        stack = self._root(adapter).children
        del self._roots[adapter]
        while stack:
            node = stack.pop()
            stack.extend(node.children)
            node.parent = None
            self._pool.uncache(node.block)
            self.nodes -= 1

    def _root(self, adapter: int) -> _Node:
        return self._roots.setdefault(adapter, _Node((), -1, None))

    def _queue(self, leaf: _Node) -> None:
        if not leaf.queued:
            leaf.queued = True
            self._queued += 1
            heapq.heappush(self._leaves, (leaf.tick, self._queued, leaf))

    def _remove(self, leaf: _Node) -> None:
        parent = leaf.parent
        assert parent is not None
        place = bisect_left(parent.keys, leaf.tokens)
        del parent.keys[place], parent.children[place]
        leaf.parent = None
        self._pool.uncache(leaf.block)
        self.nodes -= 1
        if parent.parent is not None and not parent.children:
            parent.tick = max(parent.tick, leaf.tick)
            self._queue(parent)
