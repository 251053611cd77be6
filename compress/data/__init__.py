"""Images and texts to measure, calibrate and heal on: where they are, which are for what, how a model wants them."""

from compress.data.augment import augment
from compress.data.dataset import ImageDataset
from compress.data.processor import preprocessing_from_hf
from compress.data.specs import load
from compress.data.text_dataset import TextDataset
from compress.data.text_specs import load_texts

__all__ = ["ImageDataset", "TextDataset", "augment", "load", "load_texts", "preprocessing_from_hf"]
