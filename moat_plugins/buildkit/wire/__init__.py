"""The bytes on the wire: protobuf's format (`codec`), and the messages of BuildKit (`control`, `session`)."""
