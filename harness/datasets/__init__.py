"""Sources of images. One file is one source; the file's name is its registered name."""
