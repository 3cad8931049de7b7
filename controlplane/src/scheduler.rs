//! Places containers on workers, and finds workers that are lost.
