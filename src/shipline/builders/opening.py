"""The nodes of a builder, opened at once: a build goes on with those that answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from shipline.builders.instances import Builder, Node
from shipline.builders.nodes import facts_of, open_node
from shipline.builders.solving import OpenNode
from shipline.errors import BuilderError, Cancelled
from shipline.events import Step
from shipline.tasks import TaskGroup, check, on_cancel

_LATE_S = 3.0  # that a node may take longer than the first one
_CLOSE_S = 5.0
_AGAIN_S = 0.1

Enough = Callable[[Sequence[OpenNode]], bool]
"""Whether a build can do without further nodes."""


@contextmanager
def open_nodes(
    builder: Builder, environment: Mapping[str, str], key: str, step: Step, enough: Enough
) -> Iterator[list[OpenNode]]:
    """The nodes that answer, in the builder's order, inside the block, for a build with that `key`;
    each that does not is a warning. Once there are `enough`, the others have three seconds from the
    first answer; until then they have as long as connecting may take. Raises BuilderError if none
    answers.
    """
    opening = _Opening(builder, environment, key, step)
    with TaskGroup() as group:
        try:
            for node in builder.nodes:
                group.start(opening.hold, node)
            yield opening.wait(step, enough)
        finally:
            opening.release()
            group.scope.cancel()  # for those that are still connecting


class _Opening:
    """Nodes as they answer. Each has a thread, in which its connection begins and ends."""

    def __init__(
        self, builder: Builder, environment: Mapping[str, str], key: str, step: Step
    ) -> None:
        self._builder, self._environment, self._key, self._step = builder, environment, key, step
        self._changed = threading.Condition()
        self._found: dict[str, OpenNode] = {}
        self._failures: dict[str, BuilderError] = {}
        self._open = 0
        self._released = False

    def hold(self, node: Node) -> None:
        """Connect to a daemon, which is started if need be, and keep the connection until all are
        released.
        """
        try:
            with open_node(
                self._builder, node, self._environment, self._key, self._step
            ) as control:
                load = control.running() if len(self._builder.nodes) > 1 else 0
                self._keep(OpenNode(node, facts_of(control), control, load))
        except BuilderError as error:
            with self._changed:
                self._failures.setdefault(node.name, error)
        except Cancelled:
            if not self._released:
                raise
        finally:
            with self._changed:
                self._open -= node.name in self._found
                self._changed.notify_all()

    def _keep(self, found: OpenNode) -> None:
        with on_cancel(self._wake), self._changed:
            if self._released:
                return
            self._found[found.node.name] = found
            self._open += 1
            self._changed.notify_all()
            while not self._released:
                check()
                self._changed.wait()

    def wait(self, step: Step, enough: Enough) -> list[OpenNode]:
        """The nodes that answered, once they do."""
        nodes, late_at = self._builder.nodes, 0.0
        with on_cancel(self._wake), self._changed:
            while True:
                check()
                answered = [self._found[one.name] for one in nodes if one.name in self._found]
                if len(answered) + len(self._failures) == len(nodes):
                    break
                if answered and not late_at:
                    late_at = time.monotonic() + _LATE_S
                if answered and time.monotonic() > late_at and enough(answered):
                    break
                self._changed.wait(_AGAIN_S)
        if not answered:
            raise next(
                iter(self._failures.values()),
                BuilderError(f"the builder {self._builder.name} has no nodes", code="builder-node"),
            )
        for node in nodes:
            if node.name not in self._found:
                error = self._failures.get(node.name)
                why = error.message if error else f"it has not answered for {_LATE_S:g} seconds"
                step.warn(f"the node {node.name} is left out: {why}")
        return answered

    def release(self) -> None:
        """Let all connections close."""
        with self._changed:
            self._released = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._open, _CLOSE_S)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
