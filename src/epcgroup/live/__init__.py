"""The same machine with real memory under it: processes really paged on an EPC pool, by userfaultfd.

`client` is for programs (no engine, no numpy); `daemon` runs the pool: the machine decides, `pager` carries out,
`store` keeps what was written out, sealed. `wire` is the protocol between the two, `probe` says what this host can do.
"""
