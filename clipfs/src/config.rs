//! Settings: flag > `CLIPFS_*` environment > `/etc/clipfs/config.toml` > default.
