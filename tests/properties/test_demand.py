"""Waiting pods and empty nodes: whatever fits on what, no pod keeps two nodes, and all looks agree."""

from __future__ import annotations

import itertools

from builders import occupant
from hypothesis import given
from hypothesis import strategies as st

from trainingrun_operator.core.demand import kept

PODS = st.sampled_from([occupant(f"p{number}") for number in range(4)])
FITTING = st.dictionaries(
    st.sampled_from([f"n{number}" for number in range(5)]), st.lists(PODS, unique=True, max_size=4).map(tuple)
)


def most(fitting):
    """The most nodes that can be kept, by trying everything."""
    choices = [(None, *pods) for pods in fitting.values()]
    chosen = ([pod for pod in one if pod is not None] for one in itertools.product(*choices))
    return max(len(pods) for pods in chosen if len(set(pods)) == len(pods))


@given(FITTING)
def test_as_many_nodes_as_possible_are_kept_and_each_by_a_pod_of_its_own(fitting):
    keeps = kept(fitting)
    assert all(pod in fitting[node] for node, pod in keeps.items())
    assert len(set(keeps.values())) == len(keeps) == most(fitting)


@given(FITTING, st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_are_looked_at_does_not_matter(fitting, dice):
    nodes = sorted(fitting)
    dice.shuffle(nodes)
    assert kept({node: fitting[node] for node in nodes}) == kept(fitting)


@given(FITTING.filter(bool))
def test_a_node_that_is_kept_stays_so_whatever_nodes_follow(fitting):
    without = {node: pods for node, pods in fitting.items() if node != max(fitting)}
    assert kept(without).keys() <= kept(fitting).keys()
