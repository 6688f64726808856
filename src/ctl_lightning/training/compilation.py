"""How torch.compile is applied to the network, and how its errors are reported."""

from collections.abc import Iterator
from contextlib import contextmanager

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.training.module import CompleteTheLook


def compile_network(module: CompleteTheLook) -> None:
    """Compiles in place, so the names in the state dict stay: the network as it is trained, and its backbone for evaluation.

    Raises:
        InputError: gradient checkpointing is on.
    """
    if module.hparams["backbone"]["checkpointing"]:
        raise InputError("compile=true: not together with backbone.checkpointing=true; leave one of them out")
    module.network.backbone.compile()
    module.network.compile()


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turns the compiler's errors, which come at the first step and have no public class, into one line.

    Raises:
        InputError: the compiler failed.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(str(error).strip().split("\n\n")[0].split())
        raise InputError(f"compile=true: {reason}; install what is missing, or give compile=false") from None
