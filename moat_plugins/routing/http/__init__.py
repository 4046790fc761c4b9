"""HTTP/1.1 as a proxy has to speak it: heads and bodies as pure functions, and the connections that carry them."""
