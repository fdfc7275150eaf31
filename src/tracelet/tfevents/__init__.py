"""
TensorBoard's events and event files, read in pure Python.

``decode`` turns the bytes of one event into records; ``EventFile`` gives the events of a file.
"""

from __future__ import annotations

from tracelet.tfevents.decode import Decoder, decode, is_light
from tracelet.tfevents.files import EventFile

__all__ = ["Decoder", "EventFile", "decode", "is_light"]
