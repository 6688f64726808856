"""The trainer of a run, and what it does for speed."""

from torch.utils import deterministic


def leave_new_memory_as_it_is() -> None:
    """With deterministic algorithms, torch fills all memory that an operation is about to write to: a twentieth of a step here.

    It guards against operations that read what they have not written; ours are tested to give equal results without it.
    """
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # it exists: torch defines it on the module's class
