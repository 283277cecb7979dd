"""Published poisons in and ours out; nothing here runs code that came with a file."""
