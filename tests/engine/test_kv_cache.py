"""Blocks are counted, and prefixes found, as a simple list of sequences would have it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.engine.kv_cache import BlockPool, PrefixTree, _Node

SIZE = 3


def nodes(tree: PrefixTree) -> list[_Node]:
    """All nodes but the root."""
    found: list[_Node] = []
    stack = list(tree._root(0).children)
    while stack:
        node = stack.pop()
        found.append(node)
        stack += node.children
    return found


def enter(tree: PrefixTree, pool: BlockPool, tokens: list[int]) -> list[int]:
    """Enter a sequence that is over; returns the blocks it had in the end."""
    blocks = [block for _ in range(-(-len(tokens) // SIZE)) if (block := pool.allocate()) is not None]
    tree.insert(tokens, blocks)
    for block in blocks:
        pool.release(block)
    return blocks


def found(tree: PrefixTree, pool: BlockPool, tokens: list[int], most: int | None = None) -> int:
    """How many tokens are matched."""
    match = tree.match(tokens, len(tokens) if most is None else most)
    for block in match.blocks if match.source is None else [*match.blocks, match.source]:
        pool.release(block)
    return len(match.blocks) * SIZE + match.positions


def test_a_block_is_free_when_its_last_user_has_left() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    assert block == 0 and pool.free == 0 and pool.allocate() is None
    pool.share(block)
    pool.release(block)
    assert pool.free == 0
    pool.release(block)
    assert pool.free == 1
    with pytest.raises(ValueError, match="more often"):
        pool.release(block)


def test_a_prefix_is_found_to_the_token_and_full_blocks_are_shared_by_reference() -> None:
    pool = BlockPool(10)
    tree = PrefixTree(pool, SIZE)
    blocks = enter(tree, pool, [1, 2, 3, 4, 5, 6, 7])
    match = tree.match([1, 2, 3, 4, 5, 9], 6)
    assert (match.blocks, match.source, match.positions) == ([blocks[0]], blocks[1], 2)
    assert pool.users[blocks[0]] == pool.users[blocks[1]] == 2 and pool.idle == 1


def test_no_more_is_matched_than_was_asked_for() -> None:
    pool = BlockPool(10)
    tree = PrefixTree(pool, SIZE)
    enter(tree, pool, [1, 2, 3, 4, 5, 6])
    assert [found(tree, pool, [1, 2, 3, 4, 5, 6], most) for most in range(7)] == list(range(7))


def test_a_sequence_that_goes_on_takes_the_place_of_its_beginning() -> None:
    pool = BlockPool(10)
    tree = PrefixTree(pool, SIZE)
    enter(tree, pool, [1, 2, 3, 4])
    enter(tree, pool, [1, 2, 3, 4, 5])
    assert tree.nodes == 2 and pool.free == 8


def test_equal_full_blocks_are_kept_once() -> None:
    pool = BlockPool(10)
    tree = PrefixTree(pool, SIZE)
    first = enter(tree, pool, [1, 2, 3, 4, 5, 6])
    second = enter(tree, pool, [1, 2, 3, 4, 5, 7])
    assert second[0] == first[0] and tree.nodes == 3 and pool.free == 7


def test_the_leaf_unused_for_the_longest_time_goes_first_and_parents_after_their_children() -> None:
    pool = BlockPool(4)
    tree = PrefixTree(pool, SIZE)
    enter(tree, pool, [1, 1, 1, 2, 2, 2])
    enter(tree, pool, [3, 3, 3])
    enter(tree, pool, [4, 4, 4])
    assert found(tree, pool, [1, 1, 1, 2, 2, 2]) == 6
    assert tree.evict() and found(tree, pool, [3, 3, 3]) == 0
    assert tree.evict() and found(tree, pool, [4, 4, 4]) == 0
    assert tree.evict() and found(tree, pool, [1, 1, 1, 2, 2, 2]) == 3
    assert tree.evict() and not tree.evict() and pool.free == 4


def test_what_is_in_use_is_not_given_up() -> None:
    pool = BlockPool(4)
    tree = PrefixTree(pool, SIZE)
    enter(tree, pool, [1, 1, 1])
    enter(tree, pool, [2, 2, 2])
    match = tree.match([1, 1, 1, 5], 4)
    assert tree.evict() and not tree.evict()
    assert found(tree, pool, [1, 1, 1]) == 3
    pool.release(match.blocks[0])
    assert tree.evict() and pool.free == 4


def test_an_old_leaf_in_use_stays_when_a_younger_idle_one_can_go() -> None:
    pool = BlockPool(4)
    tree = PrefixTree(pool, SIZE)
    enter(tree, pool, [1, 1, 1])
    tree.match([1, 1, 1, 5], 4)
    enter(tree, pool, [2, 2, 2])
    assert tree.evict() and pool.free == 3
    assert found(tree, pool, [1, 1, 1]) == 3 and found(tree, pool, [2, 2, 2]) == 0


sequences = st.lists(st.integers(0, 2), min_size=1, max_size=14)


@given(st.lists(st.tuples(sequences, st.integers(0, 3)), max_size=25), st.lists(sequences, max_size=5))
def test_the_longest_common_beginning_is_found_and_no_block_is_lost(
    entered: list[tuple[list[int], int]], asked: list[list[int]]
) -> None:
    pool = BlockPool(400)
    tree = PrefixTree(pool, SIZE)
    known: list[list[int]] = []
    for tokens, evictions in entered:
        enter(tree, pool, tokens)
        known.append(tokens)
        for _ in range(evictions):
            tree.evict()
        if evictions:
            # What is left is what the tree says; only that nothing is invented can be told.
            known = [tokens[: found(tree, pool, tokens)] for tokens in known]
    for tokens in [*asked, *known]:
        longest = max((common(tokens, other) for other in known), default=0)
        assert found(tree, pool, tokens) == longest
    held = nodes(tree)
    assert len(held) == tree.nodes == len({node.block for node in held}) == pool.idle == 400 - pool.free
    for node in held:
        assert node.keys == sorted(node.keys) == [child.tokens for child in node.children]
        assert not node.children or len(node.tokens) == SIZE
    while tree.evict():
        pass
    assert pool.free == 400 and tree.nodes == 0


def common(left: list[int], right: list[int]) -> int:
    """Length of the longest common beginning."""
    length = 0
    while length < min(len(left), len(right)) and left[length] == right[length]:
        length += 1
    return length
