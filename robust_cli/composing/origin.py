"""Where a setting was set, for the messages."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig


def origin(path: str) -> str:
    """' (set on the command line)', ' (set by experiment=NAME?)' or ''."""
    if not HydraConfig.initialized():
        return ""
    hydra = HydraConfig.get()
    typed = [str(override) for override in hydra.overrides.task]
    if any(override.lstrip("+~").startswith((f"{path}=", f"{path}.")) for override in typed):
        return " (set on the command line)"
    experiment = hydra.runtime.choices.get("experiment")
    return f" (perhaps set by experiment={experiment})" if experiment else ""
