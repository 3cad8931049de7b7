//! The program itself, from a ContainerRequest to a password, with an empty environment.
