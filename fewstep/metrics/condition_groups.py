"""How samples and reference images are compared part by part: by class, or by the group that a prompt belongs to."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.data.images import ImageSet
from fewstep.data.prompts import PromptTable

NONE = -1
"""The label of what belongs to no group."""


@dataclass(frozen=True)
class Groups:
    """Labels 0 … count − 1 of samples and real images.

    Attributes:
        names: of the labels; empty where nothing is compared part by part.
        count: of labels.
        reference: (m,) labels of the test images, and train: (l,) of the training images; −1 without.
        of_rows: (P,) labels by row of the table of prompts; None where conditions are the labels themselves.
    """

    names: tuple[str, ...]
    count: int
    reference: Tensor
    train: Tensor
    of_rows: Tensor | None = None

    def of(self, conditions: Tensor | None) -> Tensor | None:
        """Labels (n,) of what samples were asked for; None where there are none."""
        if conditions is None or self.of_rows is None:
            return conditions
        return self.of_rows[conditions] if self.names else None

    @property
    def labelled(self) -> bool:
        """Whether real images have labels too."""
        return bool(self.names) and (self.of_rows is None or bool((self.reference >= 0).all()))


def by_class(test: ImageSet, train: ImageSet, num_classes: int) -> Groups:
    """The images' classes."""
    return Groups(tuple(test.class_names), num_classes, test.labels, train.labels)


def by_prompt(prompts: PromptTable, test: ImageSet, train: ImageSet) -> Groups:
    """The groups of the prompts, and of the captions of the images."""
    of_rows = torch.from_numpy(np.append(prompts.group, NONE))      # row −1, of an image without a caption, is the last
    return Groups(prompts.groups, len(prompts.groups), of_rows[test.prompts], of_rows[train.prompts], of_rows[:-1])
