"""The calibrated similarity table as part of a saved model: one file beside the weights."""

from __future__ import annotations

import warnings
from pathlib import Path

from hart.modules.networks.caching.similarity_io import (
    LoadedSimilarity,
    SimilarityFileError,
    similarity_file_of,
)


def warn_about_missing(loaded: LoadedSimilarity, path: str | Path) -> None:
    """Warn if a table lacks transitions of the model that read it."""
    if loaded.matched < loaded.total:
        warnings.warn(
            f"{path} has {loaded.matched} of this model's {loaded.total} transitions between "
            "stages; nothing is reused at the others",
            stacklevel=4,
        )


class SavedSimilarityMixin:
    """``save_pretrained`` and ``from_pretrained`` that keep the table.

    Attributes:
        similarity_path: the file that the model's similarity data were read from; None if they
            were not read from one, or it was forgotten.
    """

    similarity_path: Path | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args, **kwargs):
        """As in the plain model, with the checkpoint's own similarity table.

        That is ``cache_similarity.json`` in a folder, ``var_d16.cache_similarity.json`` beside
        ``var_d16.pth``; one that the configuration names in ``sim_path`` takes its place.

        Warns:
            UserWarning: the table cannot be used (nobody asked for it, so it is ignored), was
                measured with other weights, or lacks transitions of this model.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.load_own_similarity(similarity_file_of(Path(model.config.name_or_path)))
        return loaded

    def load_own_similarity(self, file: Path) -> None:
        """Read a table that belongs to the checkpoint, as ``from_pretrained`` does.

        Does nothing if the model has one from another file, or this one is not there.
        """
        if self.similarity_path is not None or not file.is_file():
            return
        try:
            loaded = self.load_similarity_data(file)
        except SimilarityFileError as error:
            warnings.warn(f"{error}; ignored", stacklevel=4)
        else:
            warn_about_missing(loaded, file)

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs) -> None:
        """As in ``transformers``, with the table as ``cache_similarity.json`` in the folder.

        A model without a measured table removes the file: the folder then holds this model. The
        saved configuration names no other table.
        """
        sim_path, self.config.sim_path = self.config.sim_path, None
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.sim_path = sim_path
        if kwargs.get("is_main_process", True):
            self.save_own_similarity(similarity_file_of(Path(save_directory)))

    def save_own_similarity(self, file: Path) -> None:
        """Write the table to its place beside weights; without a measured one nothing is there."""
        if self.similarity.is_empty or self.similarity.assumed:
            file.unlink(missing_ok=True)
        else:
            self.save_similarity_data(file)
