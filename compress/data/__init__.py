"""Labelled images to measure, calibrate and heal on: where they are, which are for what, and how a model wants them."""

from compress.data.augment import augment
from compress.data.dataset import ImageDataset
from compress.data.processor import preprocessing_from_hf
from compress.data.specs import load

__all__ = ["ImageDataset", "augment", "load", "preprocessing_from_hf"]
