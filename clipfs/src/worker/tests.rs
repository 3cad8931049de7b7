//! The agent against a scripted control plane, with containers that are none.
