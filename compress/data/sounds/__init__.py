"""Recordings to measure, calibrate and heal on: where they are, which are for what, how a model wants them."""

from compress.data.sounds.dataset import SoundDataset, load_sounds
from compress.data.sounds.extractor import spectrogram_from_hf

__all__ = ["SoundDataset", "load_sounds", "spectrogram_from_hf"]
