//! The RPCs: from messages to repositories and back.
