"""HTTP/1.1, one implementation for all of moat: heads and bodies as pure functions, and what carries them.

`head` and `body` decide what a message is and where it ends, once for all. `message` and `streams` are for those who
read messages themselves, on a stream of anyio's: the guard of docker:host. `proxy` is a reverse proxy on an event
loop's transports, whose routes are left to whoever derives from it (`client`, `exchange`, `upstream`, `splice`,
`speech`; `answer` is what it says itself), and which `serve` runs.
"""
