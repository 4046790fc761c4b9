"""From what was asked for (`RunRequest`) to what will be (`Plan`), by way of `PlanBuilder`. Pure."""

from moat_core.plan.builder import DEFAULT_IMAGE, PlanBuilder
from moat_core.plan.claims import check_honours, find_demands, list_demands
from moat_core.plan.environment import ENV_PREFIX, ROOT_PATH, hide_env, make_env, reveal_env
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
    "ENV_PREFIX",
    "PROXY_ARGS",
    "READY",
    "ROOT_PATH",
    "TRUST_BUNDLE",
    "TRUST_ENV",
    "TRUST_EXTRAS",
    "ConfigChoice",
    "Note",
    "Plan",
    "PlanBuilder",
    "RunRequest",
    "as_text",
    "check_honours",
    "find_demands",
    "finish_image",
    "hide_env",
    "hold_init",
    "image_tag",
    "list_demands",
    "make_env",
    "make_init",
    "make_plan",
    "offered_dependencies",
    "random_name",
    "raw_words",
    "reveal_env",
    "runtimes",
    "trust_script",
    "word",
]
