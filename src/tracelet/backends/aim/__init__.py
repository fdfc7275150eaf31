"""
Aim: a repository in a folder (``.aim``), or an ``aim server`` in front of one.

Where things are
    Numbers are Aim's metrics, under the name they have everywhere. What is known to belong to one
    part of the data (``runs/a/val``) has it in its context too, as ``{"subset": "val"}``.
    Parameters are ``run["hparams"]``, labels ``run["labels"]`` and Aim's tags, facts about the run
    ``run["tracelet"]``, ``run["context"]`` and Aim's own ``run["__system_params"]``.

Why nothing is there twice, and nothing is missing
    The run's hash follows from our own id of the run, so that a creation whose answer got lost is
    found again. Aim keeps a value by context, name and step: the same point again changes nothing.
    Another point of a step that is taken goes beside it, into the context ``{"repeat": 1}``.

How it is written
    Through the functions that ``Run.track`` itself is made of (``sdk.Session``), because they take
    the time of a point. What belongs together is written in one go. All of it happens in one thread
    with a limit of time (``turns.Turns``): Aim's client to a server waits for ever.
"""

from __future__ import annotations

from tracelet.backends.aim.backend import AimBackend
from tracelet.backends.aim.options import AimOptions

__all__ = ["AimBackend", "AimOptions"]
