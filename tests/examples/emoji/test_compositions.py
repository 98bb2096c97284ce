import unicodedata
from collections import Counter

from examples.emoji.compositions import COLOURS, LAYOUTS, OBJECTS, Composition, all_compositions, character, spread


def test_every_object_is_one_character_of_its_own():
    characters = [character(number) for number in range(len(OBJECTS))]
    assert len(set(characters)) == len(OBJECTS) == len(set(OBJECTS)) >= 100
    assert all(unicodedata.name(one).lower() == name for one, name in zip(characters, OBJECTS, strict=True))


def test_captions_say_what_is_shown_and_no_two_are_alike():
    every = all_compositions()
    assert len({one.caption for one in every}) == len(every) == len(OBJECTS) * len(COLOURS) * len(LAYOUTS)
    colours, places = list(COLOURS), list(LAYOUTS)

    def caption(name: str, colour: str, layout: str) -> str:
        return Composition(OBJECTS.index(name), colours.index(colour), places.index(layout)).caption

    assert caption("red apple", "blue", "large") == "a large red apple on a blue background"
    assert caption("banana", "orange", "left") == "a small banana on the left of an orange background"
    assert caption("grapes", "white", "right") == "small grapes on the right of a white background"


def test_each_object_lacks_one_colour_and_colours_are_lacking_about_alike():
    held_out = {(one.object, one.colour) for one in all_compositions() if one.held_out}
    assert len(held_out) == len(OBJECTS) == len({number for number, _ in held_out})
    counts = Counter(colour for _, colour in held_out)
    assert set(counts) == set(range(len(COLOURS))) and max(counts.values()) - min(counts.values()) <= 1


def test_spread_is_keyed_and_even():
    every = all_compositions(3)
    chosen = spread(every, 2 * len(every) + 5, 7, "test")
    assert chosen == spread(every, 2 * len(every) + 5, 7, "test") != spread(every, 2 * len(every) + 5, 8, "test")
    assert chosen[: len(every)] != chosen[len(every) : 2 * len(every)]
    assert set(Counter(chosen).values()) == {2, 3} and chosen[:20] == spread(every, 20, 7, "test")
