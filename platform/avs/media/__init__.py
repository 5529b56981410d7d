"""Media without Ray or models: decoding, log-mel, masks and overlays, as pure functions.

The modules are imported one by one (``from avs.media.video import decode_video``); only the front
end that notebooks ask for is here, so that importing the package stays light.
"""

from __future__ import annotations

from avs.media.logmel import clip_log_mel, log_mel, silence_log_mel

__all__ = ["clip_log_mel", "log_mel", "silence_log_mel"]
