//! `credplugin`: see the library.

fn main() {}
