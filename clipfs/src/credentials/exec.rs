//! Runs a plugin: bounded input, output and time; killed as a group; its words never logged.
