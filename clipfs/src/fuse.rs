//! `fuser::Filesystem` as thin as paper: requests to [`crate::vfs`] and [`crate::read`] calls, errors to errno.
