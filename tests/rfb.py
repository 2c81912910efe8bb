"""A small VNC client (RFB 3.8, RFC 6143): a screen as pixels, and keys typed.

with connect(address) as websocket:
    screen = Screen(Stream(websocket.send, websocket.recv))
    screen.picture()           # width * height * 4 octets, BGRX
    screen.type("date\\n")
"""

from __future__ import annotations

import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

_RETURN = 0xFF0D


class Stream:
    """Octets in order over whatever carries messages."""

    def __init__(self, send: Callable[[bytes], object], receive: Callable[[], bytes]) -> None:
        self.write = send
        self._receive = receive
        self._rest = b""

    @classmethod
    def of(cls, sock: socket.socket) -> Stream:
        return cls(sock.sendall, lambda: sock.recv(65536))

    def read(self, count: int) -> bytes:
        parts = [self._rest]
        have = len(self._rest)
        while have < count:
            data = self._receive()
            assert data, "the stream has ended"
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self._rest = whole[count:]
        return whole[:count]


class Screen:
    """A session without a password, in true colour."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.greeting = stream.read(12)
        stream.write(b"RFB 003.008\n")
        kinds = stream.read(stream.read(1)[0])
        assert 1 in kinds, f"security types {list(kinds)}"
        stream.write(b"\1")
        assert stream.read(4) == bytes(4)
        stream.write(b"\1")  # others may look on
        self.width, self.height = struct.unpack("!HH", stream.read(4))
        stream.read(16)
        (length,) = struct.unpack("!I", stream.read(4))
        self.name = stream.read(length).decode()
        stream.write(struct.pack("!B3x BBBB HHH BBB 3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        stream.write(struct.pack("!BxHi", 2, 1, 0))  # raw

    def picture(self) -> bytes:
        """The whole screen as it is now, 4 octets for a pixel: blue, green, red, none."""
        pixels = bytearray(self.width * self.height * 4)
        self.stream.write(struct.pack("!BBHHHH", 3, 0, 0, 0, self.width, self.height))
        while (kind := self.stream.read(1)[0]) != 0:
            self._skip(kind)
        (count,) = struct.unpack("!xH", self.stream.read(3))
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack("!HHHHi", self.stream.read(12))
            assert encoding == 0
            for row in range(y, y + height):
                at = (row * self.width + x) * 4
                pixels[at : at + 4 * width] = self.stream.read(4 * width)
        return bytes(pixels)

    def _skip(self, kind: int) -> None:
        if kind == 3:  # the clipboard
            self.stream.read(struct.unpack("!3xI", self.stream.read(7))[0])
        else:
            assert kind == 2, f"message {kind}"

    def type(self, text: str) -> None:
        """Presses keys one after the other."""
        for letter in text:
            key = _RETURN if letter == "\n" else ord(letter)
            for down in (1, 0):
                self.stream.write(struct.pack("!BBxxI", 4, down, key))
            time.sleep(0.002)


def colours(pixels: bytes) -> dict[bytes, int]:
    """How often each colour stands in a picture."""
    found: dict[bytes, int] = {}
    for at in range(0, len(pixels), 4):
        colour = pixels[at : at + 3]
        found[colour] = found.get(colour, 0) + 1
    return found


def save_png(path: Path, screen: Screen, pixels: bytes) -> None:
    """For people to look at."""
    step = screen.width * 4
    rows = []
    for at in range(0, len(pixels), step):
        row = pixels[at : at + step]
        rgb = bytearray(screen.width * 3)
        rgb[0::3], rgb[1::3], rgb[2::3] = row[2::4], row[1::4], row[0::4]
        rows.append(b"\0" + bytes(rgb))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    head = struct.pack("!IIBBBBB", screen.width, screen.height, 8, 2, 0, 0, 0)
    octets = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + octets)
