"""The bridge's shells: broker, store, payload files, signing keys and clocks around the pure core.

    link      messages in and out, over two connections: control and data
    intake    bytes of devices -> verified documents -> events of the core
    operators bytes of operators -> authenticated requests
    loop      event -> core -> actions, with batched commits; nothing is said before its batch is on disk
    store     what the core knows, as rows; `audit` chains its log
    director, herald    what is signed
    payloads, uploads   files, each in a thread of its own

`assembly.open_bridge` builds all of it from a configuration. This package needs the extra `[server]`.
"""

from __future__ import annotations
