"""Files to build from: where they are (`source`), in which order (`walk`), and which of them (`patterns`, `follow`)."""
