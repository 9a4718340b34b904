"""The misc controller's files as files: a tree of cgroups to open, read, write and poll, and its mounts by FUSE."""
