"""The shipped configuration, `robust_cli.conf` in a wheel: a folder per group and a file per command."""
