"""What a build calls its client back for: files, secrets, credentials, SSH agents. `core` carries it."""
