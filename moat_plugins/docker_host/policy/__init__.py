"""What the guard lets through: tables of endpoints and fields, and the few functions that look closer."""
