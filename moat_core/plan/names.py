"""Names for runs that were given none."""

from __future__ import annotations

import secrets

__all__ = ["random_name"]

_ADJECTIVES = (
    "able amber ample apt arctic avid azure balmy bold brave breezy brisk calm candid cheery chief civic clear clever "
    "cosy crisp curly dapper daring deft dusky eager early earnest fair fancy fleet fond frank fresh gentle giddy glad "
    "golden grand handy happy hardy hazel honest humble ideal ivory jolly keen kind late lively loyal lucid lucky lunar "
    "mellow merry mild misty modest mossy neat nimble noble novel olive patient plucky polite proud quick quiet rapid "
    "ready rosy royal rustic sandy serene sharp shy silent silver sleek smart snowy solar solid spry stable sunny sure "
    "swift tidy tranquil trusty upbeat vivid warm wise witty young zesty"
).split()
_ANIMALS = (
    "ant auk badger bat bear beaver bee bison boar bream bunting camel carp cat civet clam cod colt coot coyote crab "
    "crane cricket crow deer dingo dodo dove duck eagle eel egret elk emu falcon ferret finch fox frog gecko goat goose "
    "grouse gull hare hawk heron horse ibex ibis iguana jackal jay kite kiwi koala lark lemur lion llama lynx magpie "
    "marten mole moose moth mouse mule newt okapi orca otter owl ox panda parrot perch pigeon pike plover pony puffin "
    "quail rabbit raven robin rook salmon seal shrew skunk sloth snail snipe sparrow squid stoat stork swan tapir tern "
    "thrush tiger toad trout turtle viper vole walrus wasp weasel whale wolf wombat wren yak zebra"
).split()


def random_name() -> str:
    """Return ``adjective-animal``, a DNS label."""
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_ANIMALS)}"
