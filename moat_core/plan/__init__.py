"""From what was asked for (`RunRequest`) to what will be (`Plan`), by way of `PlanBuilder`. Pure."""

from moat_core.plan.builder import DEFAULT_IMAGE, PlanBuilder
from moat_core.plan.gate import hold_init, word
from moat_core.plan.image import PROXY_ARGS, finish_image, image_tag
from moat_core.plan.init import READY, make_init
from moat_core.plan.make import make_plan, offered_dependencies, runtimes
from moat_core.plan.names import random_name
from moat_core.plan.plan import Note, Plan
from moat_core.plan.raw import as_text, raw_words
from moat_core.plan.request import ConfigChoice, RunRequest
from moat_core.plan.trust import TRUST_BUNDLE, TRUST_ENV, TRUST_EXTRAS, trust_script

__all__ = [
    "DEFAULT_IMAGE",
    "PROXY_ARGS",
    "READY",
    "TRUST_BUNDLE",
    "TRUST_ENV",
    "TRUST_EXTRAS",
    "ConfigChoice",
    "Note",
    "Plan",
    "PlanBuilder",
    "RunRequest",
    "as_text",
    "finish_image",
    "hold_init",
    "image_tag",
    "make_init",
    "make_plan",
    "offered_dependencies",
    "random_name",
    "raw_words",
    "runtimes",
    "trust_script",
    "word",
]
