"""
The GPUs that the program may see, asked through NVIDIA's management library (``nvidia-ml-py``).

Names and units are MLflow's (``mlflow.system_metrics``): ``gpu_<number>_…`` with the number that
the driver gives a device. Where package, driver or device is missing there are none, and no error.
"""

from __future__ import annotations

import contextlib
from typing import Any, Mapping, NamedTuple

from tracelet._guard import TRYING

__all__ = ["Gpus"]

_MEGABYTE = 1e6


class _Device(NamedTuple):
    number: int
    handle: Any


class Gpus:
    """
    The visible devices.

    Args:
        environ: ``CUDA_VISIBLE_DEVICES`` in it says which ones: numbers or the beginnings of UUIDs.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._devices: list[_Device] = []
        self._nvml: Any = None
        # Whatever is wrong with a driver, it is not the training's business.
        with TRYING:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            found = [
                _Device(number, pynvml.nvmlDeviceGetHandleByIndex(number))
                for number in range(pynvml.nvmlDeviceGetCount())
            ]
            self._devices = _visible(found, environ.get("CUDA_VISIBLE_DEVICES"), pynvml)

    def describe(self) -> list[dict[str, Any]]:
        """Return number, name and memory (bytes) of each."""
        facts: list[dict[str, Any]] = []
        for device in self._devices:
            each: dict[str, Any] = {"number": device.number}
            with TRYING:
                each["name"] = _text(self._nvml.nvmlDeviceGetName(device.handle))
            with TRYING:
                each["memory_bytes"] = int(self._nvml.nvmlDeviceGetMemoryInfo(device.handle).total)
            facts.append(each)
        return facts

    def driver(self) -> str:
        """Return the driver's version, "" without one."""
        with TRYING:
            if self._nvml is not None:
                return _text(self._nvml.nvmlSystemGetDriverVersion())
        return ""

    def sample(self) -> Mapping[str, float]:
        """Return what each device does now; what one of them cannot tell is left out."""
        found: dict[str, float] = {}
        for number, handle in self._devices:
            name = f"gpu_{number}"
            with TRYING:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                found[f"{name}_memory_usage_percentage"] = memory.used / memory.total * 100
                found[f"{name}_memory_usage_megabytes"] = memory.used / _MEGABYTE
            with TRYING:
                rates = self._nvml.nvmlDeviceGetUtilizationRates(handle)
                found[f"{name}_utilization_percentage"] = float(rates.gpu)
            with TRYING:
                power = self._nvml.nvmlDeviceGetPowerUsage(handle)
                limit = self._nvml.nvmlDeviceGetEnforcedPowerLimit(handle)
                found[f"{name}_power_usage_watts"] = power / 1000
                found[f"{name}_power_usage_percentage"] = power / limit * 100
        return found

    def close(self) -> None:
        """Let go of the library."""
        nvml, self._nvml, self._devices = self._nvml, None, []
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def _visible(devices: list[_Device], named: Any, nvml: Any) -> list[_Device]:
    """Return the devices that CUDA shows: up to the first name that is none, as CUDA does."""
    if named is None:
        return devices
    seen: list[_Device] = []
    for name in str(named).split(","):
        word = name.strip()
        for device in devices:
            if word.isdecimal():
                matches = int(word) == device.number
            else:
                uuid = _text(nvml.nvmlDeviceGetUUID(device.handle))
                matches = word.startswith("GPU-") and uuid.startswith(word)
            if matches:
                seen.append(device)
                break
        else:
            break
    return sorted(set(seen))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
