"""Things that captions name, and whether a caption leaves it open that a thing is there.

People who caption a photograph name what stands out, never all there is. A question about a thing that no caption names
is answered with "no" only for things that captions seldom pass over (animals, vehicles, large objects, settings);
clothes, trees or walls are not in the list. Where a caption has a wider word (`animal`, `vehicle`, `someone`), things
that it may stand for are neither there nor absent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

__all__ = ["THINGS", "Common", "Named", "Thing", "named_in", "phrase"]

_WORD = re.compile(r"[a-z]+")


class Thing(NamedTuple):
    """What a question may ask about.

    Attributes:
        words: Each of them names it.
        open: Wider words, each of which leaves it open whether it is there.
        mass: Whether it takes no article.
    """

    words: frozenset[str]
    open: frozenset[str]
    mass: bool


class Named(NamedTuple):
    """What the captions of an image tell, each in the order of `THINGS`.

    Attributes:
        there: Things that a caption names.
        absent: Things that no caption names, nor a wider word that may stand for them.
    """

    there: tuple[str, ...]
    absent: tuple[str, ...]


_ANIMAL = "animal animals pet pets creature creatures wildlife"
_VEHICLE = "vehicle vehicles traffic automobile automobiles wheeler atv"
_BOARD = "board boards boarder"
_PERSON = (
    "person people someone somebody adult adults crowd group family player players climber climbers hiker hikers rider "
    "riders skier skiers swimmer swimmers biker bikers cyclist cyclists bicyclist bicyclists surfer surfers dancer "
    "dancers individual individuals they couple team pedestrian pedestrians onlookers spectators teenager teenagers "
    "teen teens youth youths friend friends snowboarder skateboarder runner runners worker workers"
)
_CHILD = "child children kid kids toddler toddlers baby infant babies"
_WATER = "water waters wet swim swims swimming swimmer splash splashes splashing wave waves surf"
_LIST = f"""
man: man men guy guys gentleman | {_PERSON} male males boy boys youth he his him
woman: woman women lady ladies | {_PERSON} female females girl girls she her
boy: boy boys | {_PERSON} {_CHILD} male males man men guy young he his him
girl: girl girls | {_PERSON} {_CHILD} female females woman women lady young she her
baby: baby babies infant infants toddler toddlers | {_PERSON} child children kid kids boy girl boys girls
dog: dog dogs puppy puppies terrier terriers retriever greyhound greyhounds poodle bulldog collie labrador dalmatian \
husky hound dachshund | {_ANIMAL}
cat: cat cats kitten kittens | {_ANIMAL}
horse: horse horses pony ponies | {_ANIMAL} rider riders
bird: bird birds duck ducks seagull seagulls gull goose geese pigeon pigeons swan parrot eagle hawk flamingo | {_ANIMAL}
cow: cow cows cattle bull bulls calf | {_ANIMAL} herd
sheep: sheep lamb lambs | {_ANIMAL} herd
car: car cars jeep van vans suv taxi taxis cab | {_VEHICLE} truck racer race
truck: truck trucks pickup lorry | {_VEHICLE} car van
bus: bus buses | {_VEHICLE} van
train: train trains subway tram locomotive | {_VEHICLE} station track tracks
boat: boat boats canoe canoes kayak kayaks ship ships raft rafts sailboat sailboats rowboat ferry yacht | {_VEHICLE} \
kayaker kayaking canoeing rafting paddle paddles paddling vessel
bicycle: bicycle bicycles bike bikes biking bmx | {_VEHICLE} biker bikers cyclist cyclists bicyclist bicyclists
motorcycle: motorcycle motorcycles motorbike motorbikes motocross dirtbike scooter | {_VEHICLE} bike bikes biker bikers
airplane: airplane airplanes plane planes aircraft jet helicopter | flying
skateboard: skateboard skateboards skateboarder skateboarding | {_BOARD} skater skaters trick ramp
surfboard: surfboard surfboards surfer surfers surfing | {_BOARD} surf wave waves
snowboard: snowboard snowboards snowboarder snowboarding | {_BOARD} snow
ski: ski skis skier skiers skiing | snow pole poles slope
sled: sled sleds sledding sledge toboggan | snow sliding
ball: ball balls football basketball baseball soccer volleyball tennis softball golf | toy toys game player players \
object
frisbee: frisbee frisbees disc | toy object
kite: kite kites | toy flying string
guitar: guitar guitars | instrument instruments band musician musicians music
umbrella: umbrella umbrellas parasol |
balloon: balloon balloons |
bench: bench benches | seat seats sitting sit sits seated
chair: chair chairs | seat seats sitting sit sits seated furniture
table: table tables desk picnic | furniture meal restaurant eating
bed: bed beds mattress bunk | furniture
sofa: sofa sofas couch | furniture
tent: tent tents | camp camping
swing: swing swings swinging | playground
slide: slide slides sliding | playground
trampoline: trampoline trampolines | jump jumping jumps bounce bouncing
fountain: fountain fountains sprinkler | spray water
bridge: bridge bridges | crossing
fence: fence fences railing | barrier
statue: statue statues sculpture |
pool: pool pools | {_WATER}
beach: beach beaches shore seashore shoreline | sand sandy ocean sea {_WATER}
mountain: mountain mountains mountaintop mountainside peak | hill hills cliff rock rocks rocky climb climber climbing
snow: snow snowy snowball |  winter ice ski skiing skier slope sled snowboard cold mountain
street: street streets road roads sidewalk pavement crosswalk | city car cars traffic path
playground: playground playgrounds | park swing slide gym
forest: forest woods jungle wooded | tree trees path trail
flag: flag flags | banner banners
"""
_MASS = frozenset({"snow"})


def _read(text: str) -> dict[str, Thing]:
    found = {}
    for line in text.strip().splitlines():
        name, _, rest = line.partition(":")
        words, _, wider = rest.partition("|")
        found[name] = Thing(frozenset(words.split()), frozenset(wider.split()), name in _MASS)
    return found


THINGS: dict[str, Thing] = _read(_LIST)
"""Every thing by its name."""


def phrase(name: str) -> str:
    """A thing with its article: `a dog`, `an airplane`, `snow`."""
    if THINGS[name].mass:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def named_in(captions: Iterable[str]) -> Named:
    """What the captions of one image name, and what none of them does.

    Args:
        captions: All captions of the image.
    """
    words = {word for caption in captions for word in _WORD.findall(caption.lower())}
    there = tuple(name for name, thing in THINGS.items() if words & thing.words)
    absent = tuple(name for name, thing in THINGS.items() if not words & (thing.words | thing.open))
    return Named(there, absent)


class Common:
    """How often things are named, alone and together: what POPE's popular and adversarial questions are chosen by.

    Args:
        images: What the captions of each image name.
    """

    def __init__(self, images: Iterable[Named]) -> None:
        self.alone: Counter[str] = Counter()
        self.absent: Counter[str] = Counter()
        self.together: Counter[tuple[str, str]] = Counter()
        for named in images:
            self.alone.update(named.there)
            self.absent.update(named.absent)
            self.together.update((min(pair), max(pair)) for pair in combinations(named.there, 2))

    def odds(self, name: str) -> float:
        """How often a thing is named for once absent; offered by this weight, it is wrong as often as it is right."""
        return self.alone[name] / max(self.absent[name], 1)

    def popular(self, absent: Sequence[str]) -> list[str]:
        """Things in the order of how often they are named anywhere, the most first; those never named are left out."""
        return [name for name in sorted(absent, key=lambda name: (-self.alone[name], name)) if self.alone[name]]

    def adversarial(self, absent: Sequence[str], there: Sequence[str]) -> list[str]:
        """Named things in the order of how often that is together with one that is there, then of `popular`."""
        counts = {name: [self.together[min(name, one), max(name, one)] for one in there] for name in absent}
        return sorted(self.popular(absent), key=lambda name: -max(counts[name], default=0))
