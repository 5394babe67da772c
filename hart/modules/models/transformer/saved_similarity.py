"""The calibrated similarity table of a model in files: its own one beside the weights, others."""

from __future__ import annotations

import warnings
from pathlib import Path

from hart.modules.models.transformer.fingerprint import fingerprint_of
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_io import (
    LoadedSimilarity,
    SimilarityFileError,
    load_similarity,
    save_similarity,
    similarity_file_of,
)
from hart.version import __version__


def warn_about_missing(loaded: LoadedSimilarity, path: str | Path) -> None:
    """Warn if a table lacks transitions of the model that read it."""
    if loaded.matched < loaded.total:
        warnings.warn(
            f"{path} has {loaded.matched} of this model's {loaded.total} transitions between "
            "stages; nothing is reused at the others",
            stacklevel=4,
        )


class SavedSimilarityMixin:
    """Reads and writes the table; ``save_pretrained`` and ``from_pretrained`` keep it.

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

    def save_similarity_data(self, path: str | Path | None = None) -> Path:
        """Write the similarity data; the suffix chooses the format (.json, .pt or .pkl).

        Args:
            path: by default ``config.sim_path``, else the file of :func:`similarity_file_of`
                for the checkpoint that the model came from, else in the current folder.
        """
        path = Path(path or self.config.sim_path or self._default_similarity_file())
        save_similarity(
            path,
            self.similarity,
            self.schedule,
            fingerprint=self.weight_fingerprint(),
            library_version=__version__,
        )
        return path

    def load_similarity_data(self, path: str | Path) -> LoadedSimilarity:
        """Read similarity data; transitions of another schedule are matched by stage size.

        Warns when the file was measured with other weights.

        Raises:
            OSError: the file cannot be read.
            SimilarityFileError: it is damaged or does not fit this model.
        """
        loaded = load_similarity(Path(path), self.depth, self.schedule)
        fingerprint = getattr(loaded.provenance, "fingerprint", None)
        if fingerprint and self.weight_fingerprint() not in (fingerprint, None):
            warnings.warn(f"{path}: measured with other weights than this model's", stacklevel=2)
        self.similarity = loaded.tables
        self.similarity_path = Path(path)
        self._warned_empty = False
        return loaded

    def clear_similarity_data(self) -> None:
        """Forget the similarity data, so that a calibration starts from nothing.

        A generation that is running keeps what it began with.
        """
        self.similarity = SimilarityTables.empty(self.depth, self.schedule)
        self.similarity_path = None

    def _default_similarity_file(self) -> Path:
        checkpoint = Path(self.config.name_or_path or ".")
        return similarity_file_of(checkpoint if checkpoint.exists() else Path())

    def weight_fingerprint(self) -> str | None:
        """Identifies the weights, whatever their dtype; None where they cannot be read."""
        return fingerprint_of(self)
