"""The tokenizer of a run: the one its config names, the one in its workdir, or a new one."""

from etils import epath

from data.config import DataConfig
from data.corpus import training_documents
from data.errors import UserError
from tokenizer import files as tokenizer_files
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded, load
from tokenizer.train import train_tokenizer


def tokenizer_folder(workdir: epath.Path) -> epath.Path:
    """Where a run keeps its tokenizer."""
    return workdir / "tokenizer"


def has_tokenizer(workdir: epath.Path) -> bool:
    """Whether a run has its tokenizer already (its tokenizer.json is written last)."""
    return (tokenizer_folder(workdir) / tokenizer_files.TOKENIZER).exists()


def ensure_tokenizer(
    config: TokenizerConfig,
    data: DataConfig,
    workdir: epath.Path,
    *,
    model_max_length: int,
    progress: bool = True,
) -> Loaded:
    """The run's tokenizer, put into WORKDIR/tokenizer if it is not there: copied from `config.path`, else
    trained.

    Training is deterministic, so where several processes share a workdir one of them calls this first.

    Args:
      config: the tokenizer to load, or how to train one.
      data: the documents to train it on: those that pretraining reads.
      workdir: the run's folder.
      model_max_length: tokens that the model takes, written for transformers.
      progress: report on stderr how far training is.

    Raises:
      UserError: the tokenizer cannot be loaded or trained, or the workdir holds another one than
      `config.path`.
    """
    folder = tokenizer_folder(workdir)
    kept = load(str(folder)) if has_tokenizer(workdir) else None
    if config.path:
        named = load(config.path)
        if kept is None:
            named.save(folder)
        elif kept.fingerprint() != named.fingerprint():
            raise UserError(
                f"config.tokenizer.path={config.path!r} is not the tokenizer that this run began with, "
                f"in {folder}; unset it, or set another --workdir"
            )
        return named
    if kept is not None:
        return kept
    return train_tokenizer(
        training_documents(data), config, folder, model_max_length=model_max_length, progress=progress
    )
