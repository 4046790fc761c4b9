"""HTTP/1.1, one implementation for all of moat: heads and bodies as pure functions, and what carries them.

`head` and `body` decide what a message is and where it ends; nothing else in moat parses HTTP/1.1 that comes from a
run or goes to one. On them stands `proxy`, a reverse proxy whose routes are left to whoever derives from it (`client`,
`exchange`, `upstream`, `splice`, `speech`; `answer` is what it says itself), which `serve` runs.
"""
