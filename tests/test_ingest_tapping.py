"""Compressed packets that a source offers are enough to show its pictures again."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from av.packet import Packet

from stream_ann.ingest.video import VideoSource
from stream_ann.packets import CodedPacket, PacketSource
from tests.videos import encode, numbered


def pictures_of(source: VideoSource) -> list[tuple[float | None, np.ndarray]]:
    source.open()
    pictures = []
    while (picture := source.read()) is not None:
        pictures.append((picture.pts_s, picture.image))
    source.close()
    return pictures


def copy(packets: list[CodedPacket]) -> io.BytesIO:
    """The packets as a Matroska file."""
    file = io.BytesIO()
    with av.open(io.BytesIO(packets[0].template)) as template, av.open(file, "w", format="matroska") as container:
        stream = container.add_stream_from_template(template.streams.video[0])
        for coded in packets:
            packet = Packet(coded.data)
            packet.pts, packet.dts, packet.duration = coded.pts, coded.dts, coded.duration
            packet.time_base, packet.is_keyframe, packet.stream = coded.time_base, coded.key, stream
            container.mux(packet)
    file.seek(0)
    return file


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_packets_outlive_their_source_and_hold_the_same_pictures(codec, tmp_path):
    path = tmp_path / "video.mkv"
    encode(path, numbered(12), codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p")
    packets: list[CodedPacket] = []
    source = VideoSource(path)
    assert isinstance(source, PacketSource)
    source.packet_tap = packets.append
    pictures = pictures_of(source)
    assert len(packets) == len(pictures) == 12
    assert packets[0].key
    assert len({id(packet.template) for packet in packets}) == 1
    assert sorted(p.pts_s for p in packets if p.pts_s is not None) == [pts_s for pts_s, _ in pictures]
    assert [p.arrival_s for p in packets] == sorted(p.arrival_s for p in packets)
    (tmp_path / "copy.mkv").write_bytes(copy(packets).getvalue())
    again = pictures_of(VideoSource(tmp_path / "copy.mkv"))
    for (pts_s, image), (pts_again_s, image_again) in zip(pictures, again, strict=True):
        assert pts_s == pts_again_s
        assert np.array_equal(image, image_again)


def test_a_tap_may_come_and_go_at_any_time(tmp_path):
    path = tmp_path / "video.mkv"
    encode(path, numbered(12))
    packets: list[CodedPacket] = []
    source = VideoSource(path)
    source.open()
    source.read()
    assert packets == []
    source.packet_tap = packets.append
    source.read()
    before = len(packets)
    source.packet_tap = None
    while source.read() is not None:
        pass
    source.close()
    assert len(packets) == before
