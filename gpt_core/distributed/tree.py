"""Sums in one fixed binary tree, so that their bits do not depend on the number of ranks.

The leaves of a sum over n terms are numbered from 0. A node is a range of leaves; it is the sum of its two halves, of
which the left one has the largest power of two of leaves below the number of its own. Each rank owns adjacent leaves.
It sums the nodes that it owns completely; the sums of the other nodes follow from those of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Node(NamedTuple):
    """Node of the tree: the leaves from `first` to before `stop`."""

    first: int
    stop: int

    @property
    def halves(self) -> tuple[Node, Node]:
        """The two nodes whose sum this one is."""
        middle = self.first + (1 << (self.stop - self.first - 1).bit_length() - 1)
        return Node(self.first, middle), Node(middle, self.stop)

    def contains(self, other: Node) -> bool:
        """Return True if all leaves of the other node are leaves of this one."""
        return self.first <= other.first and other.stop <= self.stop


def leaves_of_rank(rank: int, size: int, leaves: int) -> Node:
    """Return the range of leaves that a rank owns: the numbers of leaves of two ranks differ by at most one."""
    return Node(rank * leaves // size, (rank + 1) * leaves // size)


def owned_nodes(leaves: int, owned: Node) -> list[Node]:
    """Return the largest nodes of the tree within a range of leaves, from left to right."""

    def within(node: Node) -> list[Node]:
        if owned.contains(node):
            return [node]
        if node.stop <= owned.first or owned.stop <= node.first:
            return []
        return [found for half in node.halves for found in within(half)]

    return within(Node(0, leaves))


def sums_at_once(leaves: int) -> int:
    """Return how many nodes exist at once while all leaves are added one after the other (`merges`).

    A leaf that completes a node does not count: it is added to the left half of this node.
    """
    return max(1, leaves.bit_length() - 1)


def merges(leaves: int, owned: Node) -> list[int]:
    """Return for each leaf of a range how many sums of two nodes are complete with it.

    A stack of nodes to which leaf after leaf is added, and whose top two nodes are replaced by their sum this many
    times after each leaf, ends as `owned_nodes`, and never holds more nodes than the tree is high.
    """
    stack = [len(owned_nodes(leaves, Node(owned.first, stop))) for stop in range(owned.first, owned.stop + 1)]
    return [before + 1 - after for before, after in pairwise(stack)]


def tree_sum(leaves: int, sums: Mapping[Node, T], add: Callable[[T, T], T]) -> T:
    """Return the sum over all leaves from the sums of nodes that contain each leaf once.

    Args:
        leaves: Number of leaves.
        sums: Sum of each of those nodes.
        add: Returns the sum of the left and the right half of a node; it may change the left one.
    """

    def total(node: Node) -> T:
        if node in sums:
            return sums[node]
        left, right = node.halves
        return add(total(left), total(right))

    return total(Node(0, leaves))
