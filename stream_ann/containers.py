"""What libav may open when it is handed a file or an address: that, and nothing that is named in it.

Some kinds of files hold no pictures but the names of other files or addresses (playlists, lists of parts, session
descriptions), and libav looks at the content, not at the extension. So a video that somebody else has made could have
any other video of this machine shown as its own, or make this machine call somewhere.
"""

from __future__ import annotations

import functools

import av

__all__ = ["FOLLOWING", "NETWORK_PROTOCOLS", "file_options"]

FOLLOWING = frozenset(
    {
        "avisynth",
        "concat",
        "dash",
        "hls",
        "image2",
        "imf",
        "lavfi",
        "rtp",
        "rtsp",
        "sap",
        "sdp",
        "vapoursynth",
        "vobsub",
        "webm_dash_manifest",
    }
)
"""Kinds of files, as libav calls them, that name what else is to be opened, or hold a program."""

NETWORK_PROTOCOLS = {
    "http": "http,https,httpproxy,tls,tcp,crypto,data",
    "rtsp": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
}
"""What an address of each kind may lead to, as libav calls it: never to a file, nor from HTTP to an open port here."""


@functools.cache
def _kinds() -> str:
    """All kinds of files that this libav reads, but for those that lead elsewhere."""
    kinds = set()
    for name in av.formats_available:
        try:
            found = av.format.ContainerFormat(name, "r")
        except ValueError:  # it is only written
            continue
        if not FOLLOWING & set(found.name.split(",")):
            kinds.add(found.name)
    return ",".join(sorted(kinds))


def file_options() -> dict[str, str]:
    """Options for opening a file of unknown content: with others, libav fails with "invalid argument"."""
    return {"format_whitelist": _kinds(), "protocol_whitelist": "file"}
