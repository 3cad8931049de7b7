//! Which vendor a registry host belongs to: matched whole and anchored, never as a substring.
