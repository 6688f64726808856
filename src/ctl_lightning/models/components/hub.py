"""How are weights fetched that lie on the Hugging Face Hub as hf://OWNER/NAME or hf://OWNER/NAME/FILE?"""

import re
from pathlib import Path

from ctl_lightning.models.components.preprocessing import READERS
from ctl_lightning.runtime.errors import InputError, suggestion

SCHEME = "hf://"

USUAL = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Names of files of weights on the Hub, those first whose networks are the ones here."""


def local_weights(weights: str) -> Path:
    """The file that `backbone.weights` names, fetched from the Hub if it lies there, with the preprocessing beside it.

    Raises:
        InputError: an address of another form, no such repository or file, no network, no access.
    """
    if not weights.startswith(SCHEME):
        return Path(weights).expanduser()
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:/(.+))?", weights)
    if found is None:
        raise InputError(f"backbone.weights={weights}: give hf://OWNER/NAME or hf://OWNER/NAME/FILE")
    repository, file = found.groups()
    from huggingface_hub import HfApi, hf_hub_download

    try:
        files = HfApi().list_repo_files(repository)
        chosen = file or next((name for name in USUAL if name in files), None)
        if chosen is None or chosen not in files:
            near = suggestion(chosen or "", files)
            raise InputError(
                f"backbone.weights={weights}: there is no {chosen or ', '.join(USUAL)} in it{near}; give hf://{repository}/FILE"
            )
        for name in READERS.keys() & {*files}:
            hf_hub_download(repository, name)
        return Path(hf_hub_download(repository, chosen))
    except InputError:
        raise
    # The Hub's client and what it is built on have classes of their own for no network, no access, a broken file.
    except Exception as error:
        raise InputError(
            f"backbone.weights={weights}: could not be fetched from the Hugging Face Hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); fetch the file elsewhere and give it with backbone.weights=FILE"
        ) from None
