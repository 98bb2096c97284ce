"""What a picture shows and how that is said: an object, a size and place, a background colour."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.diffusion.randomness import Permutation

OBJECTS = (
    "red apple", "banana", "cat face", "rocket", "sunflower", "automobile", "penguin", "christmas tree", "hamburger",
    "blue heart", "octopus", "guitar", "snowman", "umbrella", "house building", "frog face", "green apple", "grapes",
    "watermelon", "tangerine", "lemon", "pineapple", "pear", "peach", "cherries", "strawberry", "tomato", "aubergine",
    "ear of maize", "hot pepper", "broccoli", "carrot", "avocado", "mushroom", "slice of pizza", "french fries",
    "doughnut", "cookie", "shortcake", "soft ice cream", "lollipop", "wine glass", "beer mug", "baby bottle",
    "birthday cake", "jack-o-lantern", "evergreen tree", "palm tree", "cactus", "tulip", "rose", "four leaf clover",
    "maple leaf", "rainbow", "sun with face", "crescent moon", "glowing star", "fire", "droplet", "dog face",
    "mouse face", "rabbit face", "cow face", "tiger face", "pig face", "bear face", "panda face", "monkey face",
    "chicken", "hatching chick", "fish", "tropical fish", "spouting whale", "turtle", "snail", "lady beetle",
    "honeybee", "butterfly", "elephant", "ghost", "extraterrestrial alien", "skull", "alien monster", "grinning face",
    "broken heart", "gem stone", "crown", "top hat", "t-shirt", "dress", "high-heeled shoe", "electric light bulb",
    "bomb", "bell", "key", "lock", "trophy", "balloon", "wrapped present", "soccer ball", "basketball and hoop",
    "billiards", "game die", "artist palette", "alarm clock", "camera", "television", "mobile phone", "closed book",
    "bus", "fire engine", "sailboat", "bicycle", "tent", "anchor", "octagonal sign",
)  # fmt: skip
"""Names in Unicode of the objects, each one character. The first ones differ much, for trials with few."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49), "orange": (245, 145, 35), "yellow": (250, 220, 80), "green": (60, 170, 80),
    "blue": (50, 100, 215), "purple": (140, 70, 180), "black": (25, 25, 28), "white": (245, 245, 245),
}  # fmt: skip
"""Backgrounds, in sRGB 0…255."""

LAYOUTS = ("large", "left", "right")
"""large: it fills the picture. left, right: half as large, in that half."""

_PLURAL = ("grapes", "cherries", "french fries", "billiards", "fire", "broccoli")


@dataclass(frozen=True, order=True)
class Composition:
    """What a picture shows, by numbers in OBJECTS, COLOURS and LAYOUTS."""

    object: int
    colour: int
    layout: int

    @property
    def caption(self) -> str:
        """In words: "a large red apple on a blue background", "a small red apple on the left of a blue background"."""
        name = OBJECTS[self.object]
        size = "large" if LAYOUTS[self.layout] == "large" else "small"
        place = "" if size == "large" else f"the {LAYOUTS[self.layout]} of "
        article = "" if name in _PLURAL else "a "
        colour = list(COLOURS)[self.colour]
        return f"{article}{size} {name} on {place}{'an' if colour[0] in 'aeiou' else 'a'} {colour} background"

    @property
    def held_out(self) -> bool:
        """Whether training data have no picture of this object on this colour: each object lacks one colour."""
        return self.colour == int(_LACKING[self.object])


_LACKING = Permutation(len(OBJECTS), 0, "emoji-held-out")(range(len(OBJECTS))) % len(COLOURS)


def character(number: int) -> str:
    """The character of object `number`."""
    return unicodedata.lookup(OBJECTS[number].upper())


def all_compositions(objects: int = len(OBJECTS)) -> list[Composition]:
    """Every composition of the first `objects` objects, in order."""
    return [
        Composition(one, colour, layout)
        for one in range(objects)
        for colour in range(len(COLOURS))
        for layout in range(len(LAYOUTS))
    ]


def spread(compositions: Sequence[Composition], count: int, seed: int, purpose: str) -> list[Composition]:
    """`count` compositions in a keyed order, each as often as the others but for one."""
    chosen: list[Composition] = []
    epoch = 0
    while len(chosen) < count:
        order = Permutation(len(compositions), seed, purpose, epoch)(range(len(compositions)))
        chosen += [compositions[k] for k in order[: count - len(chosen)].tolist()]
        epoch += 1
    return chosen
