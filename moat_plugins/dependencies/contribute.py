"""What ``dependencies:``, ``base_image:`` and the build hooks come to in a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from moat_core.config import BadValue, check_image

if TYPE_CHECKING:
    from moat_core.config import Config
    from moat_core.plan import PlanBuilder, RunRequest

__all__ = ["add_to_plan"]


def add_to_plan(request: RunRequest, config: Config, plan: PlanBuilder) -> None:
    """Set the image of PLAN: a base as it is, or one with a Dockerfile, to be built once."""
    plan.claim("base_image", "dependencies", "hooks.post_build", "hooks.post_build_root")
    base = request.base_image or config.core.base_image
    if request.base_image is not None:
        try:
            check_image(request.base_image)
        except BadValue as error:
            plan.problem(f"{request.base_image!r} is no image: {error.reason}.", error.hint, where="base_image")
            return
    hooks = config.core.hooks
    if not (config.core.dependencies or request.dependencies or hooks.post_build or hooks.post_build_root):
        if base:
            plan.image = attrs.evolve(plan.image, base=base)
        return
    _add_build(request, config, plan, base)


def _add_build(request: RunRequest, config: Config, plan: PlanBuilder, base: str | None) -> None:
    from moat_plugins.dependencies.dockerfile import Hooks, choose_base, make_dockerfile
    from moat_plugins.dependencies.parse import resolve  # most runs want nothing of it

    dependencies, problems = resolve(config.core.dependencies, request.dependencies, plan.offered)
    for problem in problems:
        plan.problem(problem.message, problem.hint, where=problem.where)
    if problems:
        return
    plan.details["dependencies"] = listed = [str(each) for each in dependencies]
    hooks = Hooks(config.core.hooks.post_build_root, config.core.hooks.post_build)
    built = make_dockerfile(dependencies, hooks, plan.user, base)
    if built is None:
        plan.image = attrs.evolve(plan.image, base=choose_base(dependencies, base))
        return
    files = dict(plan.image.files) | dict(built.files)
    plan.image = attrs.evolve(plan.image, base=built.base, dockerfile=built.dockerfile, files=files)
    plan.note(f"an image of its own from {built.base}: {', '.join(listed) or 'the build hooks'}")
