"""The things that the demo draws, and the words for them."""

from __future__ import annotations

from typing import NamedTuple


class Concept(NamedTuple):
    """A thing of the Fluent emoji set.

    Attributes:
        code: its Unicode code points as the picture package's file names have them.
        names: noun phrases without an article; the first one is the concept's name.
    """

    code: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.names[0]


def _concept(code: str, *names: str) -> Concept:
    return Concept(code, names)


CONCEPTS: tuple[Concept, ...] = (
    _concept("1f98a", "fox", "fox face", "red fox"),
    _concept("1f43c", "panda", "panda bear", "panda face"),
    _concept("1f438", "frog", "frog face", "green frog"),
    _concept("1f981", "lion", "lion face", "lion head"),
    _concept("1f437", "pig", "pig face", "piglet"),
    _concept("1f424", "chick", "baby chick", "baby bird"),
    _concept("1f427", "penguin", "baby penguin"),
    _concept("1f989", "owl", "brown owl"),
    _concept("1f419", "octopus", "orange octopus"),
    _concept("1f980", "crab", "red crab"),
    _concept("1f420", "tropical fish", "fish", "aquarium fish"),
    _concept("1f433", "whale", "spouting whale", "blue whale"),
    _concept("1f98b", "butterfly", "monarch butterfly"),
    _concept("1f41e", "ladybug", "ladybird", "lady beetle"),
    _concept("1f41d", "bee", "honeybee", "bumblebee"),
    _concept("1f40c", "snail", "garden snail"),
    _concept("1f422", "turtle", "green turtle", "tortoise"),
    _concept("1f984", "unicorn", "unicorn face", "unicorn head"),
    _concept("1f428", "koala", "koala bear", "koala face"),
    _concept("1f34e", "apple", "red apple"),
    _concept("1f34c", "banana", "ripe banana"),
    _concept("1f353", "strawberry", "ripe strawberry"),
    _concept("1f349", "watermelon", "slice of watermelon", "watermelon slice"),
    _concept("1f347", "bunch of grapes", "grape bunch", "cluster of grapes"),
    _concept("1f34d", "pineapple", "ripe pineapple"),
    _concept("1f352", "pair of cherries", "cherry", "cherry pair"),
    _concept("1f34b", "lemon", "ripe lemon"),
    _concept("1f955", "carrot", "orange carrot"),
    _concept("1f951", "avocado", "half avocado", "halved avocado"),
    _concept("1f344", "mushroom", "toadstool", "red mushroom"),
    _concept("1f355", "slice of pizza", "pizza", "pizza slice"),
    _concept("1f354", "hamburger", "burger", "cheeseburger"),
    _concept("1f369", "doughnut", "donut", "chocolate doughnut"),
    _concept("1f9c1", "cupcake", "pink cupcake", "muffin"),
    _concept("1f36a", "cookie", "chocolate chip cookie", "biscuit"),
    _concept("1f366", "ice cream", "ice cream cone", "soft ice"),
    _concept("1f382", "birthday cake", "cake", "cake with candles"),
    _concept("1f33b", "sunflower", "sunflower blossom"),
    _concept("1f337", "tulip", "pink tulip", "tulip flower"),
    _concept("1f335", "cactus", "green cactus", "desert cactus"),
    _concept("1f341", "maple leaf", "red maple leaf", "autumn leaf"),
    _concept("1f384", "christmas tree", "decorated tree", "decorated christmas tree"),
    _concept("1f340", "four leaf clover", "clover", "lucky clover"),
    _concept("1f680", "rocket", "space rocket", "spaceship"),
    _concept("1f697", "car", "red car", "automobile"),
    _concept("1f68c", "bus", "yellow bus", "school bus"),
    _concept("1f681", "helicopter", "orange helicopter"),
    _concept("26f5", "sailboat", "sailing boat", "yacht"),
    _concept("1f388", "balloon", "red balloon", "party balloon"),
    _concept("26bd", "soccer ball", "football", "soccer football"),
    _concept("1f3c0", "basketball", "orange basketball"),
    _concept("1f3b8", "guitar", "electric guitar", "rock guitar"),
    _concept("1f3c6", "trophy", "gold trophy", "winner's cup"),
    _concept("1f451", "crown", "golden crown", "king's crown"),
    _concept("1f48e", "gem", "diamond", "gem stone", "blue gem"),
    _concept("1f514", "bell", "golden bell"),
    _concept("1f4a1", "light bulb", "bulb", "electric bulb"),
    _concept("2602-fe0f", "umbrella", "purple umbrella", "open umbrella"),
    _concept("23f0", "alarm clock", "clock", "red alarm clock"),
    _concept("1f4f7", "camera", "photo camera"),
    _concept("1f381", "gift", "present", "wrapped gift", "gift box"),
    _concept("1f3e0", "house", "home", "cottage"),
    _concept("2b50", "star", "yellow star", "golden star"),
    _concept("2764-fe0f", "heart", "red heart", "love heart"),
    _concept("1f31e", "sun", "smiling sun", "sun with a face"),
    _concept("1f319", "moon", "crescent moon", "half moon"),
    _concept("26c4", "snowman", "snowman with a scarf"),
    _concept("1f47b", "ghost", "white ghost", "spooky ghost"),
    _concept("1f916", "robot", "robot face", "robot head"),
    _concept("1f383", "pumpkin", "halloween pumpkin", "jack o lantern"),
    _concept("1f47d", "alien", "green alien", "alien face"),
    _concept("1f9f8", "teddy bear", "teddy", "toy bear"),
)
