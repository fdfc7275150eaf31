"""
What the machine does while the run goes on, under MLflow's names and in its units.

Source: ``mlflow/system_metrics/metrics/*.py``. Percent from 0 to 100, a megabyte is 10⁶ bytes,
network traffic is counted from the beginning of the run. One decimal, as there.
"""

from __future__ import annotations

import os
from typing import Mapping

from tracelet.collect.gpu import Gpus

__all__ = ["SystemMetrics"]

_MEGABYTE = 1e6


class SystemMetrics:
    """
    Processor, memory, disk, network and GPUs.

    Raises:
        OSError: ``psutil`` is not installed, so that nothing can be measured.
    """

    def __init__(self) -> None:
        try:
            import psutil
        except ImportError as error:
            raise OSError("psutil is not installed: pip install 'tracelet[system]'") from error
        self._psutil = psutil
        # What is counted between two calls is counted from now on.
        psutil.cpu_percent()
        network = psutil.net_io_counters()
        self._network = (network.bytes_recv, network.bytes_sent) if network else None
        self._gpus = Gpus(os.environ)

    def sample(self) -> Mapping[str, float]:
        """Return what is measured now; see ``Collector.sample``."""
        psutil = self._psutil
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(os.sep)
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MEGABYTE,
            "disk_available_megabytes": disk.free / _MEGABYTE,
            **self._gpus.sample(),
        }
        rounded = {name: round(float(value), 1) for name, value in found.items()}
        network = psutil.net_io_counters() if self._network else None
        if network is not None and self._network is not None:
            received, sent = self._network
            rounded["network_receive_megabytes"] = (network.bytes_recv - received) / _MEGABYTE
            rounded["network_transmit_megabytes"] = (network.bytes_sent - sent) / _MEGABYTE
        return {f"system/{name}": value for name, value in rounded.items()}

    def close(self) -> None:
        """Let go of the GPUs."""
        self._gpus.close()
