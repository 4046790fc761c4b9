"""The contract of runtimes (`base`), and what is built on it alike for all: `exec`, `files`."""
