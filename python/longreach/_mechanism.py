"""What the mechanisms are: their arguments, forms and costs, as the engine describes them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from longreach import _core


@dataclass(frozen=True)
class Argument:
    """A tensor that a mechanism reads or returns."""

    name: str
    #: The axes, in letters: B batch, T tokens, S keys, H heads, G groups of heads, D, K and V channels of a head.
    axes: tuple[str, ...]
    optional: bool
    about: str
    #: Whether it has a gradient.
    gradient: bool
    #: Other tensors that must be given with it.
    together: tuple[str, ...]

    @property
    def per_head(self) -> bool:
        """Whether its axes begin with batch, token and head, which ``layout="bhtd"`` swaps."""
        return len(self.axes) > 2 and self.axes[1] in ("T", "S") and self.axes[2] in ("H", "G", "H or 1")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a mechanism."""

    name: str
    #: The default as JSON; empty if the parameter is required.
    default: str
    about: str
    #: Values that it may have, if they are listed.
    choices: tuple[Any, ...] = ()
    #: Whether there are no others.
    closed: bool = False


@dataclass(frozen=True)
class Mechanism:
    """The description of a mechanism."""

    name: str
    family: str
    forms: tuple[str, ...]
    cost: str
    state: str
    paper: str
    note: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    parameters: tuple[Parameter, ...]
    example: str

    def __reduce__(self) -> tuple[Any, ...]:
        return mechanism, (self.name,)

    @property
    def fastest(self) -> str:
        """The form that computes whole sequences: the first other than the definition."""
        return next((form for form in self.forms if form != "naive"), "naive")

    @property
    def recurrent(self) -> bool:
        """Whether it has a state."""
        return any(output.name == "state" for output in self.outputs)


def mechanisms() -> list[Mechanism]:
    """All mechanisms.

    >>> "window" in [m.name for m in mechanisms()]
    True
    """
    return [mechanism(name) for name in _core.names()]


@functools.lru_cache(maxsize=None)
def mechanism(name: str) -> Mechanism:
    """The mechanism of this name; ``ValueError`` with the known names if there is none."""
    found = json.loads(_core.describe(name))
    family, _, own = found["path"].rpartition("/")
    return Mechanism(
        name=own,
        family=family,
        forms=tuple(found["forms"]),
        cost=found["cost"],
        state=found["state"],
        paper=found["paper"],
        note=found["note"],
        inputs=tuple(map(_argument, found["inputs"])),
        outputs=tuple(map(_argument, found["outputs"])),
        parameters=tuple(map(_parameter, found["parameters"])),
        example=found["example"],
    )


def _argument(found: dict[str, Any]) -> Argument:
    return Argument(
        name=found["name"],
        axes=tuple(found["shape"]),
        optional=found["optional"],
        about=found["about"],
        gradient=found["gradient"],
        together=tuple(found["with"]),
    )


def _parameter(found: dict[str, Any]) -> Parameter:
    # A value that several values of another parameter allow is listed with each. Lists cannot be hashed.
    choices = {json.dumps(choice["value"]): choice["value"] for choice in found["choices"]}
    return Parameter(found["name"], found["default"], found["about"], tuple(choices.values()), found["closed"])
