"""
A run as TensorBoard's own event files: a replay that ``tensorboard --logdir`` shows.

Where things are
    ``<logdir>/<project>/<name>/``: one folder for a run, whatever streams it had, because the keys
    tell them apart as they do in every other tracker. A run without a project is in ``default``,
    one without a name is called by its id, a second one of a name is ``<name>~<hash of its id>``.

What is in the folder
    ``events.out.tfevents.<created>.<host>.tracelet``: everything, in the order in which it came.
    ``events.out.tfevents.0000000000.hparams``: what the HParams page needs, which TensorBoard takes
    from one event only; it is written anew whenever a parameter comes.
    ``artifacts/``, ``media/`` (events that nobody can read), ``projector_config.pbtxt``
    (embeddings).

How values are kept
    A scalar is a tensor of 32 bits, because TensorBoard's faster loader shows nothing else, and the
    double stands beside it in the tensor's ``double_val``. ``precision="single"`` is the older form
    (``simple_value``), for programs that know no other. Steps are whole numbers of 64 bits there: a
    fraction is refused by name. What TensorBoard has no event for (tags, parameters as they were
    given, artifacts, who the run is, how it ended) is JSON in events of a plug-in ``tracelet``,
    which it passes over.

Why nothing is there twice
    The file only grows. Each event begins with a field that TensorBoard does not know: which record
    of the spool it is. A batch that may have arrived before is compared with what is there.
"""

from __future__ import annotations

from tracelet.backends.tensorboard.backend import TensorBoardBackend
from tracelet.backends.tensorboard.options import TensorBoardOptions

__all__ = ["TensorBoardBackend", "TensorBoardOptions"]
