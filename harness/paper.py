"""The tables and figures of the PureGen paper: which study repeats each, or why none does."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "arXiv:2405.18627"


@dataclass(frozen=True, slots=True)
class Item:
    """A table or figure.

    Attributes:
        name: As it is called there.
        shows: What it holds.
        instead: Empty where ``paper/…`` repeats it; otherwise why no study does, and what does.
    """

    name: str
    shows: str
    instead: str = ""

    @property
    def study(self) -> str:
        """The name that its study has, whether there is one or not.

        >>> Item("Table 1", "").study
        'paper/table_1'
        """
        return f"paper/{self.name.lower().replace(' ', '_').replace('.', '')}".replace(
            "_e11", "_e1"
        )


ITEMS = (
    Item("Table 1", "core results: eight settings, six defenses"),
    Item("Table 2", "MobileNetV2, DenseNet-121 and HLB; NTGA"),
    Item("Table 3", "generators trained on poisoned images"),
    Item("Table 4", "PureGen-Naive, -Reps and -Filt against stronger poisons"),
    Item("Table 5", "seconds of a training under each defense"),
    Item("Table 6", "hours of computing for Table 1",
         "it is no experiment: the seconds of each stage stand in the report of paper/table_1"),
    Item("Table 7", "from scratch in 80 epochs"),
    Item("Table 8", "MobileNetV2 in full"),
    Item("Table 9", "DenseNet-121 in full"),
    Item("Table 10", "stronger poisons in full"),
    Item("Table 11", "an attacker that knows the energy network"),
    Item("Table 12", "noise predictors that others trained"),
    Item("Table 13", "three seeds of two settings"),
    Item("Appendix E.1.1", "core results on CIFAR-10 with every version of each baseline"),
    Item("Figure 1", "energies of clean, poisoned and purified images (the rest is a drawing)"),
    Item("Figure 2", "noise predictors trained on part of the noise levels"),
    Item("Figure 3", "distances between clean, poisoned and purified images by steps"),
    Item("Figure 4", "generators trained further and further from the defended images"),
    Item("Figure 5", "images after more and more Langevin steps"),
    Item("Figure 6", "the distances of Figure 3 at eps 16"),
    Item("Figure 7", "energies at eps 16"),
    Item("Figure 8", "PureGen-Reps: repetitions and steps"),
    Item("Figure 9", "PureGen-Naive: Langevin steps and time steps"),
    Item("Figure 10", "PureGen-Filt: the share that is purified, and steps"),
    Item("Figure 11", "which pixels victims look at",
         "no table comes of it: `puregen-bench explain STUDY --attack …` draws the maps"),
    Item("Figure 12", "a visible trigger of eps 64, purified"),
)  # fmt: skip


def without_study() -> tuple[Item, ...]:
    """Return the tables and figures that no study repeats."""
    return tuple(item for item in ITEMS if item.instead)
