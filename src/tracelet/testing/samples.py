"""Records, short to write, and real bytes of every kind that TensorBoard knows."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from typing import Mapping

from tracelet.records import Histogram, Media, Metric, Param, Record, Scalar, Step, Table, Tag, Text

#: When everything was logged: seconds since the epoch, with a fraction that a double holds.
TIME = 1_700_000_000.25

EVENT_TYPE = "application/x-tfevent"


def png(shade: int = 128, width: int = 4, height: int = 3) -> bytes:
    """Return a grey image, ``shade`` from 0 to 255."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes([shade]) * width for _ in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def gif() -> bytes:
    """Return two frames of one pixel, black and then white."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frames = b"".join(
        b"\x21\xf9\x04\0\x0a\0\0\0" + b"\x2c\0\0\0\0\x01\0\x01\0\0" + b"\x02\x02" + code + b"\0"
        for code in (b"\x44\x01", b"\x4c\x01")
    )
    return screen + frames + b"\x3b"


def wav() -> bytes:
    """Return 80 samples of a ramp, 8 kHz, one channel, 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(struct.pack("<80h", *range(0, 32000, 400)))
    return file.getvalue()


def _event(text: str) -> bytes:
    return base64.b64decode(text)


# Written by torch's SummaryWriter at step 3 and the time above.
_PR_CURVE = _event(
    "CQAAEED8VNlBEAMqqAEKpQEKB2V2YWwvcHJChgEIARIIEgIIBhICCAUqeAAAQEAAAEBAAAAAQAAAgD8AAAAAAACAPwAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAACAPwAAgD8AAIA/AACAPwAAAAAAAAAAAACAPwAAAEAAAEBAAABAPwAAgD8AAIA/AACA"
    "PwAAAAAAAIA/AACAP6uqKj+rqqo+AAAAAEoRCg8KCXByX2N1cnZlcxICEAU="
)
_MESH = _event(
    "CQAAEED8VNlBEAMqtgEKZgoMc2hhcGVfVkVSVEVYQjYIARIMEgIIARICCAMSAggDKiQAAAAAAAAAAAAAAAAAAIA/AAAA"
    "AAAAAAAAAAAAAACAPwAAAABKHgocCgRtZXNoEhQSBXNoYXBlGAEqAnt9MgMBAwM4BgpMCgpzaGFwZV9GQUNFQh4IARIM"
    "EgIIARICCAESAggDKgwAAAAAAACAPwAAAEBKHgocCgRtZXNoEhQSBXNoYXBlGAIqAnt9MgMBAQM4Bg=="
)
_CUSTOM_SCALARS = _event(
    "CQAAEED8VNlBEAMqYApeChhjdXN0b21fc2NhbGFyc19fY29uZmlnX19CLggHEgBCKBImCgRsb3NzEh4KBGJvdGgSFgoK"
    "bG9zcy90cmFpbgoIbG9zcy92YWxKEgoQCg5jdXN0b21fc2NhbGFycw=="
)
_GRAPH = _event("CQAAEED8VNlBIi0KDAoBeBIHSU8gTm9kZQoZCghuZXQvcmVsdRIKYXRlbjo6cmVsdRoBeCICCBY=")

#: One record of every kind, at step 3.
SAMPLES: Mapping[str, Record] = {
    "histogram": Histogram(
        key="weights/fc1",
        edges=(-1.0, -0.5, 0.0, 0.5, 1.0),
        counts=(1.0, 4.0, 2.0, 3.0),
        min=-0.75,
        max=0.875,
        sum=0.5,
        sum_squares=2.25,
        step=3,
        time=TIME,
    ),
    "text": Text("notes", "**good**: 3 < 4 & “so on”\n\n| a | b |\n|---|---|\n| 1 | 2 |", 3, TIME),
    "table": Table(
        "confusion", ("class", "right", "wrong"), (("cat", 9, 1), ("dog", 8, 2)), 3, TIME
    ),
    "image": Media(
        "image", "predictions", png(), "image/png", 3, TIME, meta={"width": 4, "height": 3}
    ),
    "audio": Media("audio", "speech", wav(), "audio/wav", 3, TIME, meta={"sample_rate": 8000.0}),
    "video": Media("video", "rollout", gif(), "image/gif", 3, TIME, meta={"width": 1, "height": 1}),
    "pr_curve": Media("pr_curve", "eval/pr", _PR_CURVE, EVENT_TYPE, 3, TIME),
    "mesh": Media("mesh", "shape", _MESH, EVENT_TYPE, 3, TIME),
    "graph": Media("graph", "graph", _GRAPH, EVENT_TYPE, 3, TIME),
    "custom_scalars": Media("custom_scalars", "layout", _CUSTOM_SCALARS, EVENT_TYPE, 3, TIME),
    "raw": Media("raw", "unknown", b"\xff\x00 nobody can read this", EVENT_TYPE, 3, TIME),
}


def metric(key: str, value: float, step: Step = 0, time: float = TIME) -> Metric:
    """Return one point of a curve."""
    return Metric(key, value, step, time)


def curve(key: str, count: int, first: int = 0) -> list[Metric]:
    """Return ``count`` points, one each millisecond, with values of many digits."""
    return [
        metric(key, (step + 1) / 3, step, TIME + step / 1000)
        for step in range(first, first + count)
    ]


def param(key: str, value: Scalar) -> Param:
    """Return a parameter."""
    return Param(key, value, TIME)


def tag(key: str, value: str) -> Tag:
    """Return a label."""
    return Tag(key, value, TIME)


def image(key: str, step: Step = 0, shade: int = 128, index: int = 0) -> Media:
    """Return a small grey picture."""
    return Media("image", key, png(shade), "image/png", step, TIME, index=index)
