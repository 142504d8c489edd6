"""Serve `graders` over HTTP: the shell and the adapters, the only place with I/O."""
