"""What comes from a runner, honest or not, over a real socket: nothing but sound batches goes on from here."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc

from query import wire
from query.errors import QueryInvalid, QueryTimeout, RunnersUnavailable
from query.exchange import Exchange
from query.incoming import Incoming
from query.link import Link, Runner
from query.messages import MAX_ROWS, MessageError, Messages
from query.running import Running

END = {"ok": True, "row_count": 1, "truncated": False, "engine_ms": 1.0, "peak_bytes": 1}
ONE = pa.RecordBatch.from_pydict({"a": [1]})


class Talk:
    """Both ends of a runner's socket: what the test says as the runner, the pool's side understands or not."""

    def __init__(self, directory: Path, *, seconds: float) -> None:
        address = str(directory / "z")
        with socket.socket(socket.AF_UNIX) as zygote:
            zygote.bind(address)
            zygote.listen()
            self.link = Link(Path(address))
        ours, self.theirs = socket.socketpair()
        self.runner = Runner(pid=os.getpid(), sock=ours, pidfd=None, link=self.link)
        exchange = Exchange(self.runner, deadline=time.monotonic() + seconds, max_bytes=2**20, keep_below_bytes=2**30)
        self.released = 0
        self.running = Running(exchange, queue_ms=0, release=self._release)

    def _release(self) -> None:
        self.released += 1

    def say(self, *parts: bytes | dict[str, Any]) -> None:
        """A socket holds few small frames, so another thread says it."""
        self._saying = threading.Thread(target=self._say, args=parts)
        self._saying.start()

    def _say(self, *parts: bytes | dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the pool's side has heard enough
            for part in parts:
                if isinstance(part, bytes):
                    wire.send_data(self.theirs, part)
                else:
                    wire.send_message(self.theirs, part)

    def batches(self) -> list[pa.RecordBatch]:
        """All that has come; also None's, for the times when nothing came."""
        return list(Incoming(self.running).batches(0.05))

    def close(self) -> None:
        self.running.close()
        self.runner.sock.close()
        self._saying.join()
        self.theirs.close()
        self.link.close()


@contextmanager
def talk(directory: Path, *, seconds: float = 10) -> Iterator[Talk]:
    with closing(Talk(directory, seconds=seconds)) as opened:
        yield opened


def stream_of(*batches: pa.RecordBatch, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batches[0].schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def types(*kinds: str) -> dict[str, Any]:
    return {"ok": True, "column_types": kinds}


def test_batches_come_as_they_were_sent_however_the_bytes_are_cut(tmp_path: Path) -> None:
    words = pa.array(["x", None, "x"]).dictionary_encode()
    sent = [pa.RecordBatch.from_pydict({"a": [n, None, 3], "e": words}) for n in range(3)]
    data = stream_of(*sent)
    for size in (1, 7, 64, len(data)):
        with talk(tmp_path) as said:
            pieces = [data[start : start + size] for start in range(0, len(data), size)]
            said.say(types("BIGINT", "ENUM('x')"), *pieces, END)
            assert [batch for batch in said.batches() if batch is not None] == sent
            assert said.running.column_types == ("BIGINT", "ENUM('x')")
            assert said.runner.sound
        (tmp_path / "z").unlink()


def test_a_pause_is_told(tmp_path: Path) -> None:
    with talk(tmp_path) as said:
        data = stream_of(ONE)
        said.say(types("BIGINT"), data[:-9])
        later = threading.Timer(0.3, said.say, (data[-9:], END))
        later.start()
        found = said.batches()
        later.join()
        assert found.count(None) >= 3
        assert [batch for batch in found if batch is not None] == [ONE]


def hostile() -> dict[str, bytes]:
    good = stream_of(ONE)
    many = pa.RecordBatch.from_arrays([pa.nulls(MAX_ROWS + 1)], names=["a"])
    offsets = b"".join(offset.to_bytes(4, "little") for offset in (0, 10**6, 5))
    outside = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"short")])
    not_utf8 = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")]
    )
    long = pa.RecordBatch.from_pydict({"a": list(range(1_000))})
    return {
        "no Arrow": b"hello, this is no stream",
        "nothing": b"",
        "no end": good[:-8],
        "cut": good[:-20],
        "length": b"\xff\xff\xff\xff" + struct.pack("<i", 2**31 - 1),
        "negative length": b"\xff\xff\xff\xff" + struct.pack("<i", -5),
        "noise": b"\xff\xff\xff\xff" + struct.pack("<i", 64) + bytes(range(64)),
        "compressed": stream_of(long, compression="zstd"),
        "too many rows": stream_of(many),
        "offsets that lead outside": stream_of(pa.RecordBatch.from_arrays([outside], names=["a"])),
        "not Unicode": stream_of(pa.RecordBatch.from_arrays([not_utf8], names=["a"])),
        "a type that DuckDB does not write": stream_of(
            pa.RecordBatch.from_pydict({"a": pa.array([1], pa.duration("s"))})
        ),
        "more columns than types": stream_of(pa.RecordBatch.from_pydict({"a": [1], "b": [2]})),
    }


@pytest.mark.parametrize("name", hostile())
def test_bytes_of_a_runner_gone_bad_go_no_further(tmp_path: Path, name: str) -> None:
    with talk(tmp_path) as said:
        said.say(types("BIGINT"), hostile()[name], END)
        with pytest.raises(RunnersUnavailable):
            said.batches()
        assert not said.runner.sound


def test_every_changed_byte_is_either_harmless_or_refused() -> None:
    data = stream_of(ONE, ONE)
    for place in range(len(data)):
        messages = Messages()
        messages.add(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            while messages.next() is not None:
                pass
        except MessageError:
            pass


def test_error_in_the_middle_is_the_runners_word(tmp_path: Path) -> None:
    with talk(tmp_path) as said:
        failed = {"ok": False, "code": "QUERY_INVALID", "message": "Conversion Error", "retire": False}
        said.say(types("BIGINT"), stream_of(ONE)[:-8], failed)
        found = Incoming(said.running).batches(0.05)
        assert next(found) == ONE
        with pytest.raises(QueryInvalid, match="Conversion Error"):
            list(found)
        assert said.runner.sound


def test_messages_that_no_runner_sends_are_refused(tmp_path: Path) -> None:
    for message in ({"ok": True}, {**END, "row_count": "x"}, {"ok": True, "column_types": 5}):
        with talk(tmp_path) as said:
            said.say(message)
            with pytest.raises(RunnersUnavailable):
                said.batches()
            assert not said.runner.sound
        (tmp_path / "z").unlink()


def test_more_bytes_than_were_allowed_are_not_read(tmp_path: Path) -> None:
    with talk(tmp_path) as said:
        said.say(types("BIGINT"), *[b"\xff\xff\xff\xff\x00\x00\x00\x00" * 8_192] * 32)
        with pytest.raises(RunnersUnavailable):
            said.batches()


def test_deadline_ends_the_wait_and_closing_from_elsewhere_too(tmp_path: Path) -> None:
    with talk(tmp_path, seconds=0.3) as said:
        said.say(types("BIGINT"))
        started = time.monotonic()
        with pytest.raises(QueryTimeout):
            said.batches()
        assert time.monotonic() - started < 0.8
    assert said.released == 1
    (tmp_path / "z").unlink()
    with talk(tmp_path) as said:
        said.say(types("BIGINT"))
        stop = threading.Timer(0.2, said.running.close)
        stop.start()
        with pytest.raises(QueryTimeout):
            said.batches()
        stop.join()
        said.running.close()
    assert said.released == 1
