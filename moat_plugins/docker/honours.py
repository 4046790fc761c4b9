"""What a Docker engine does of a plan, a name for each: where, is said beside it. See `moat_core.plan.claims`.

What is not here a run is refused for. So a name comes here together with what does it, and a test of that.
"""

from __future__ import annotations

__all__ = ["HONOURS"]

HONOURS = frozenset(
    {
        # container.py: the body of POST /containers/create
        *("capabilities", "privileged", "oci_runtime", "network", "dns", "hosts", "ports", "groups", "working_dir"),
        *("limits.memory_bytes", "limits.cpus", "limits.pids"),
        *("mounts", "mounts.read_only", "tmpfs", "tmpfs.size_bytes", "tmpfs.options"),
        *("tty", "size", "stdin", "keep"),
        # by `moat_core.plan.make_init`, which is the container's command
        *("command", "env", "init_steps", "init_steps.order", "init_steps.as_user", "init_steps.inline"),
        *("init_steps.env", "user.uid", "user.gid", "user.name", "user.home"),
        # images.py
        *("image", "image.dockerfile", "image.tag", "image.files", "image.build_args", "image.trust", "rebuild"),
        # network.py, volumes.py
        *("own_network", "volumes", "volumes.cache"),
    }
)
